package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"croft/man"
	"croft/run"
	"croft/state"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// machines are the commands about machines.
func machines(a *app) []*man.Command {
	return []*man.Command{
		{
			Heading: "Machines", Name: "run", Args: "IMAGE [CMD ARG...]", Peers: []string{"launch", "new"},
			Short: "Create a machine and start it", New: a.runVerb(), Long: runText,
			Examples: []man.Example{
				{Say: "A whole machine for one command", Do: "croft run --rm debian/13 systemctl is-system-running"},
				{Say: "A machine that stays, and a shell in it", Do: "croft run -d --name web debian/13\ncroft shell web"},
				{Say: "A throw-away machine to look around in", Do: "croft run --rm debian/13"},
				{Say: "A build of the directory here, as its owner on the host", Do: "croft run --rm -v .:/src -w /src debian/13 make test"},
				{Say: "One that cannot take the host with it", Do: "croft run -d --name web -m 2G --cpus 1.5 --pids-limit 4096 debian/13"},
				{Say: "A quarter of the host's memory, no swap, and more open files", Do: "croft run -d --name db -m 25% --swap false --ulimit nofile=65536 debian/13"},
				{Say: "One that runs Docker, podman and machines of its own", Do: "croft run -d --name box --nesting debian/13"},
				{Say: "A user's home, in which he has another number", Do: "croft run -d --name dev -v /home/joe:/home/joe --idmap 'both 1000 1001' debian/13"},
				{Say: "One that sets itself up by cloud-init", Do: "croft run -d --name web --user-data web.yaml debian/13\ncroft wait --for cloud-init web"},
				{Say: "Its web server on port 8080 of the host", Do: "croft run -d --name web -p 8080:80 debian/13"},
				{Say: "In a script that may run twice", Do: "croft run -d --name web --exists start debian/13"},
				{Say: "One program without booting anything", Do: "croft run --rm --no-boot debian/13 ps ax"},
			},
			Exit: innerExits(), See: []string{"exec", "create", "images", "networking", "cloud-init", "security", "units"},
		},
		{
			Name: "create", Args: "IMAGE [CMD ARG...]", Short: "Create a machine without starting it", New: a.create(),
			Long:     "Makes the record of a machine and prints its name. Nothing is mounted, copied or started. Its flags are those of `croft run` that belong to the machine.",
			Examples: []man.Example{{Say: "Make one now, start it later", Do: "croft create --name web debian/13\ncroft start web"}}, See: []string{"start", "run"},
		},
		{
			Name: "start", Args: "NAME...", Instead: []string{filterFlag, bootFlag}, Short: "Start machines", New: a.start(),
			Long: "Returns once each machine is up: systemd tells when it is; of another init croft finds out whether it is done with what it does at the start. One that runs already is left as it is, which is success.\n\n" +
				"With -F it stays in the foreground until the machine stops, as a unit file or a supervisor wants it.",
			Examples: []man.Example{
				{Say: "Start one and see where the time goes", Do: "croft start --timings web"},
				{Say: "Start all of a kind", Do: "croft start --filter label=app=shop"},
			}, See: []string{"run", "wait", "units"},
		},
		{
			Name: "stop", Args: "NAME...", Instead: []string{filterFlag}, Peers: []string{"poweroff", "halt", "shutdown"}, Short: "Stop machines cleanly", New: a.stop(),
			Long:     "Asks the init of each machine to shut down, in the way that this init understands, and kills what has not stopped in time. Returns when nothing of it is left but its files. A stopped one is success. The time is 100 seconds unless --time or the machine's --stop-timeout says otherwise.",
			Examples: []man.Example{{Say: "Stop one, in ten seconds at most", Do: "croft stop -t 10s web"}}, See: []string{"kill", "restart"},
		},
		{
			Name: "restart", Args: "NAME...", Instead: []string{filterFlag}, Peers: []string{"reboot"}, Short: "Stop machines and start them again", New: a.restart(),
			Long: "Stops each machine as `croft stop` does and starts it again. One that is stopped is started.", Examples: []man.Example{{Say: "Restart one", Do: "croft restart web"}}, See: []string{"start", "stop"},
		},
		{
			Name: "kill", Args: "NAME...", Instead: []string{filterFlag}, Peers: []string{"terminate"}, Short: "Send a signal to the init of machines", New: a.kill(),
			Long:     "Without --signal the machine ends at once, with all that runs in it. Any other signal is given to its init, which may ignore it.",
			Examples: []man.Example{{Say: "End one at once", Do: "croft kill web"}, {Say: "Ask systemd to execute itself anew", Do: "croft kill -s RTMIN+25 web"}}, See: []string{"stop"},
		},
		{
			Name: "pause", Args: "NAME...", Instead: []string{filterFlag}, Peers: []string{"freeze", "suspend"}, Short: "Freeze machines", New: a.pause(),
			Long: "Stops all processes of each machine where they are, until `croft resume`. They keep their memory and get no processor time. A paused one is success.\n\n" +
				"A paused machine can be stopped, for which it is resumed, killed and removed. Commands cannot be run in it.",
			Examples: []man.Example{{Say: "Freeze one, look, and let it go on", Do: "croft pause web\ncroft list\ncroft resume web"}}, See: []string{"resume", "stop"},
		},
		{
			Name: "resume", Args: "NAME...", Instead: []string{filterFlag}, Peers: []string{"unpause", "thaw", "unfreeze", "continue"}, Short: "Let paused machines go on", New: a.resume(),
			Long:     "Lets the processes of each machine run again where they were stopped. One that is not paused is success.",
			Examples: []man.Example{{Say: "Let one go on", Do: "croft resume web"}, {Say: "All that are paused", Do: "croft resume --filter state=paused"}}, See: []string{"pause"},
		},
		{
			Name: "enable", Args: "[NAME...]", Instead: []string{filterFlag}, Peers: []string{"autostart"}, Short: "Start machines whenever the host starts", New: a.enabling(true), Long: enableText,
			Examples: []man.Example{
				{Say: "Always, from the next start of the host on", Do: "croft enable web"},
				{Say: "A database before those that need it", Do: "croft enable db web\ncroft set db boot.autostart.priority=10"},
				{Say: "Only have come back what ran", Do: "croft enable"},
			}, See: []string{"disable", "set", "start", "units"},
		},
		{
			Name: "disable", Args: "[NAME...]", Instead: []string{filterFlag}, Short: "Do not start machines when the host starts", New: a.enabling(false),
			Long:     "Sets boot.autostart of each machine to false: it stays stopped when the host starts, also when it ran as the host went down. `croft unset NAME boot.autostart` leaves it to that. Without a name nothing comes back any more but machines that are enabled. A machine that runs is left running.",
			Examples: []man.Example{{Say: "Leave it to whoever wants it", Do: "croft disable web"}}, See: []string{"enable", "stop"},
		},
		{
			Name: "rename", Args: "OLD NEW", Peers: []string{"mv"}, Short: "Give a machine another name", New: a.rename(),
			Long:     "Calls a stopped machine NEW, with all that belongs to it. Its host name follows at its next start, unless --hostname set one; its machine-id stays.",
			Examples: []man.Example{{Say: "Call it what it is for", Do: "croft rename plain-otter web"}}, See: []string{"set", "stop"},
		},
		{
			Name: "rm", Aliases: []string{"delete", "remove"}, Peers: []string{"destroy"}, Args: "NAME...", Instead: []string{filterFlag}, Short: "Remove machines", New: a.remove(),
			Long:     "Removes each machine with all that it changed. The image stays. One that runs is refused unless --force is given.",
			Examples: []man.Example{{Say: "Remove one, even if it runs", Do: "croft rm -f web"}, {Say: "Remove all that are stopped", Do: "croft rm --filter state=stopped"}}, See: []string{"stop", "image"},
		},
		{
			Heading: "Settings", Name: "set", Args: "NAME [KEY=VALUE...]", Short: "Change the settings of a machine", New: a.set(), Long: setText,
			Examples: []man.Example{
				{Say: "With the flags of run", Do: "croft set -e LANG=C.UTF-8 --stop-timeout 5m web"},
				{Say: "The same in keys and values", Do: "croft set web env.LANG=C.UTF-8 stop-timeout=5m"},
				{Say: "Other limits for one that runs", Do: "croft set -m 2G --cpus 1.5 web"},
				{Say: "Remove it when it stops", Do: "croft set --rm web"},
			}, See: []string{"get", "unset", "edit", "explain"},
		},
		{
			Name: "get", Args: "NAME [KEY...]", Short: "Print settings of a machine", New: a.get(),
			Long:     "Prints KEY=VALUE for every setting, or for the keys that are named, or of one key the value alone. A setting that was never made is empty; what that means stands in `croft help run`. Each line is one that `croft set` takes.",
			Examples: []man.Example{{Say: "All", Do: "croft get web"}, {Say: "One variable of its environment", Do: "croft get web env.LANG"}}, See: []string{"set", "inspect"},
		},
		{
			Name: "unset", Args: "NAME KEY...", Short: "Take settings of a machine back", New: a.unset(),
			Long:     "Makes a setting what it is when nothing is said. KEY.ENTRY takes one entry out of a list: env.LANG, label.tier, volume./src. What is not set is left so, which is success.",
			Examples: []man.Example{{Say: "One variable, and the whole list of labels", Do: "croft unset web env.LANG label"}}, See: []string{"set", "get"},
		},
		{
			Name: "edit", Args: "NAME", Short: "Change settings of a machine in an editor", New: a.edit(),
			Long:     "Opens the settings in $VISUAL or $EDITOR, else vi, as YAML with a comment for each, and takes what was saved as `croft set` would. An unknown key or a wrong value is told, and the editor opens again; whoever gives up keeps the file. Settings whose lines are gone are unset.\n\nWhere stdin is no terminal the YAML is read from there. With EDITOR=cat it is shown.",
			Examples: []man.Example{{Say: "In the editor", Do: "croft edit web"}, {Say: "From a file", Do: "croft edit web <web.yaml"}}, See: []string{"set", "get"},
		},
		profileVerbs(a),
		{
			Heading: "In a machine", Name: "exec", Args: "NAME CMD [ARG...]", Instead: []string{filterFlag}, Short: "Run a command in a running machine", New: a.execVerb(), Long: execText,
			Examples: []man.Example{
				{Say: "Ask its init how it is", Do: "croft exec web systemctl status"},
				{Say: "As another user, in a directory", Do: "croft exec -u nobody -w /tmp web id"},
				{Say: "In all of a kind", Do: "croft exec --filter label=tier=front --filter state=running apt-get -qq update"},
				{Say: "Copy a file into it", Do: "croft exec web sh -c 'cat >/etc/motd' <motd"},
			},
			Exit: innerExits(), See: []string{"shell", "run"},
		},
		{
			Name: "shell", Args: "NAME", Peers: []string{"login", "enter", "attach"}, Short: "Open a login shell in a machine", New: a.shell(),
			Long: "Opens the login shell of the user, root without --user, in the user's home.", Examples: []man.Example{{Say: "A root shell", Do: "croft shell web"}, {Say: "A user's", Do: "croft shell -u alice web"}},
			Exit: innerExits(), See: []string{"exec", "console"},
		},
		{
			Name: "console", Args: "NAME", Short: "Join the console of a machine", New: a.console(),
			Long:     "Joins the terminal to the machine's console, where its init and its login prompt are. Type ctrl-a q to leave; ctrl-a twice is one ctrl-a for the machine. What was printed before is in `croft logs`.\n\nA login prompt wants a password, which a fresh image does not have: for a shell without one there is `croft shell`.",
			Examples: []man.Example{{Say: "Log in", Do: "croft console web"}, {Say: "Watch a new one boot", Do: "croft run --rm --console debian/13"}}, See: []string{"logs", "shell"},
		},
		{
			Name: "logs", Args: "NAME", Short: "Show what the console of a machine printed", New: a.logs(),
			Long:     "Shows what its console printed, of a stopped machine too: the last megabyte or two, and on a host of systemd's before that what the journal has of it (`journalctl CROFT_INSTANCE=NAME`). What services log is in the machine's own journal: `croft exec NAME journalctl`.",
			Examples: []man.Example{{Say: "The last lines", Do: "croft logs -n 20 web"}, {Say: "All from now on", Do: "croft logs -f -n 0 web"}, {Say: "Those of the last ten minutes", Do: "croft logs --since 10m web"}}, See: []string{"console"},
		},
		{
			Heading: "Looking", Name: "list", Aliases: []string{"ls", "ps"}, Short: "List machines", New: a.list(), Long: listText,
			Examples: []man.Example{
				{Say: "All of them", Do: "croft list"},
				{Say: "For a program", Do: "croft list --format json"},
				{Say: "The names of those that run", Do: "croft list -q --filter state=running"},
				{Say: "Their names and addresses, for the host's own /etc/hosts", Do: "croft list --format hosts >>/etc/hosts"},
				{Say: "With one more column, or fields of your choice", Do: "croft list -c +ids\ncroft list --format '{{.Name}} {{.State}}'"},
			},
			See: []string{"inspect", "info"},
		},
		{
			Name: "inspect", Args: "NAME...", Peers: []string{"show"}, Short: "Print everything about machines as JSON", New: a.inspect(),
			Long:     "Prints an array with, for each machine, what was asked, what was decided, the plan as it was started, and the state now.",
			Examples: []man.Example{{Say: "Everything", Do: "croft inspect web"}, {Say: "One thing: the host's id of its root", Do: "croft inspect --format '{{.Facts.Range.Base}}' web"}}, See: []string{"list", "info"},
		},
		{
			Name: "info", Args: "NAME", Peers: []string{"status"}, Short: "Describe a machine to people", New: a.info(),
			Long:     "Prints state, image, addresses, ports, ids, volumes and how it last ended. With --security it prints each wall that keeps the machine apart: whether it holds, was loosened or is open; of a machine that runs after a look at what the kernel says of its init.",
			Examples: []man.Example{{Say: "How it is", Do: "croft info web"}, {Say: "How it is confined", Do: "croft info --security web"}}, See: []string{"inspect", "logs", "security"},
		},
		{
			Name: "top", Aliases: []string{"stats"}, Args: "[NAME...]", Short: "Show what machines use, live", New: a.top(),
			Long: "Shows processor, memory, tasks and disk traffic of the machines that run, the busiest first, anew every two seconds; q leaves. Without a terminal, or with --once, it prints one table and ends.\n\n" +
				"The numbers are the kernel's, of the machine's cgroups. CPU is of one processor: two busy ones are 200%. MEMORY has in it what the kernel caches for the machine. READ and WRITTEN count from its start. What this host does not count is shown as -.",
			Examples: []man.Example{{Say: "Watch all", Do: "croft top"}, {Say: "One sample for a program", Do: "croft top --once --format json"}}, See: []string{"list", "info"},
		},
		{
			Name: "explain", Args: "NAME", Short: "Tell what a machine amounts to on this host", New: a.explain(),
			Long:     "Prints the unit, init, mounts, ids, namespaces, links, ports, rules of the packet filter, cgroups, capabilities and refused system calls that a machine is started with, and what stop does. For one that runs it is what it was started with, and which settings will be different at its next start.",
			Examples: []man.Example{{Say: "All of it", Do: "croft explain web"}, {Say: "Its cgroups", Do: "croft explain --format '{{range .Cgroups}}{{.}} {{end}}' web"}}, See: []string{"set", "inspect", "security"},
		},
		{
			Name: "wait", Args: "NAME...", Instead: []string{filterFlag}, Short: "Wait for machines", New: a.wait(),
			Long:     "Waits until each machine is `running`, `ready` (its init says that it is up), `paused` or `stopped`, the default, for which it prints the exit code; or until it has an `ip`, an address that is neither loopback nor link-local, whoever gave it; or until its `cloud-init` is through, and what that failed at is an error here. One of systemd's is `ready` no sooner.",
			Examples: []man.Example{{Say: "Until it is up, but not for ever", Do: "croft wait --for ready --timeout 30s web"}, {Say: "Until others can reach it", Do: "croft wait --for ip web"}, {Say: "Until it has set itself up", Do: "croft wait --for cloud-init --timeout 10m web"}}, See: []string{"start", "list"},
			Exit: []man.Entry{{Term: "124", Text: "the time ran out"}},
		},
		{
			Name: "repair", Args: "[NAME...]", Short: "Bring records and world together after a crash", New: a.repair(),
			Long:     "Ends machines whose keeper was killed, clears what interrupted commands left, and prints what it did. Machines that run are not touched. With names it looks at these machines alone. Every command does for its own machine what repair does for all.",
			Examples: []man.Example{{Say: "After a crash of the host, or of croft", Do: "croft repair"}}, See: []string{"list", "files", "doctor"},
		},
		{
			Name: "doctor", Peers: []string{"check", "checkconfig"}, Short: "Tell what this host can do and what it lacks", New: a.doctor(), Long: doctorText,
			Examples: []man.Example{
				{Say: "What is missing here, and what helps", Do: "croft doctor"},
				{Say: "Whether a machine really starts, and how fast", Do: "croft doctor --try"},
				{Say: "What is not well, for a program", Do: `croft doctor --format '{{if ne .Status "ok"}}{{.ID}}: {{.Remedy}}{{end}}'`},
			}, See: []string{"repair", "run"},
			Exit: []man.Entry{{Term: "0", Text: "machines can start here"}, {Term: "1", Text: "they cannot: at least one problem"}},
		},
	}
}

// networkVerbs are the commands about networks.
func networkVerbs(a *app) []*man.Command {
	return []*man.Command{
		{
			Heading: "Networks", Name: "network", Peers: []string{"net"}, Short: "Connect machines", See: []string{"run", "port", "networking"},
			Long: "A network connects machines with one another, and by way of the host with the world. " + state.DefaultNetwork + ", the one that machines are on when nothing is said, is made when the first of them needs it; others are made here. `croft help networking` tells how they work, how machines find each other, and who can reach whom.",
			Sub: []*man.Command{
				{
					Name: "list", Aliases: []string{"ls"}, Short: "List networks", New: a.networkList(),
					Long:     "Lists the networks that there are. ON is the interface of the host, RULES what a network does not do by itself. `croft list -c name,ipv4,ports --filter network=NET` lists the machines of one.",
					Examples: []man.Example{{Say: "All of them", Do: "croft network list"}, {Say: "Which machines are on one", Do: "croft list --filter network=lab"}},
				},
				{
					Name: "create", Aliases: []string{"add"}, Args: "NET [KEY=VALUE...]", Short: "Make a network", New: a.networkCreate(),
					Long: "Makes a network and prints its name, of 1 to 15 letters, digits and dashes. What is left open is picked: subnets that are free on this host, and the packet size of its way out. With one of --subnet and --subnet6 given, the other is picked as well, unless it is `none`. KEY=VALUE is as `croft network set` takes it.",
					Examples: []man.Example{
						{Say: "One with all of its own picked", Do: "croft network create lab"},
						{Say: "A subnet of your choice, and no way out", Do: "croft network create db --subnet 10.9.0.0/24 --subnet6 none --internal"},
						{Say: "Machines with addresses on the LAN of eth0", Do: "croft network create office --type macvlan --parent eth0"},
						{Say: "On a bridge that is there", Do: "croft network create lan --bridge br0"},
					},
				},
				{
					Name: "info", Aliases: []string{"show", "inspect"}, Args: "NET...", Short: "Describe networks", New: a.networkInfo(),
					Long: "Prints all that is known of each network, and who is on it.", Examples: []man.Example{{Say: "One", Do: "croft network info croft0"}, {Say: "Who is on it", Do: `croft network info --format '{{join .UsedBy " "}}' croft0`}},
				},
				{
					Name: "set", Args: "NET KEY=VALUE...", Short: "Change a network", New: a.networkSet(), Long: networkSetText(),
					Examples: []man.Example{{Say: "Its machines may ask a name server on the host", Do: "croft network set lab allow=tcp/53,udp/53 dns=10.9.0.1"}, {Say: "No more way out", Do: "croft network set lab internal=true"}},
				},
				{
					Name: "rm", Aliases: []string{"delete", "remove"}, Args: "NET...", Short: "Remove networks", New: a.networkRemove(),
					Long: "Removes each network, with its bridge where that is croft's own. One that machines want to be on, running or not, is refused, and they are named.", Examples: []man.Example{{Say: "Remove one", Do: "croft network rm lab"}},
				},
				{
					Name: "attach", Aliases: []string{"connect"}, Args: "NET NAME", Short: "Connect a machine to one more network", New: a.networkAttach(),
					Long:     "Gives the machine one more interface on NET, at once when it runs, and for good. NET is what --network of `croft run` takes, an existing bridge as `bridge:NAME` and the LAN of an interface as `macvlan:IF` among it.",
					Examples: []man.Example{{Say: "A second interface", Do: "croft network attach lab web"}, {Say: "With an address of your choice", Do: "croft network attach --ip 10.9.0.5 lab web"}},
				},
				{
					Name: "detach", Aliases: []string{"disconnect"}, Args: "NET NAME", Short: "Take a machine off a network", New: a.networkDetach(),
					Long: "Takes the machine's interface on NET away, at once when it runs, and for good. Its address is free then.", Examples: []man.Example{{Say: "Off again", Do: "croft network detach lab web"}},
				},
			},
		},
		{
			Name: "port", Args: "NAME [GUEST]", Short: "Show which port of the host leads where", New: a.port(), See: []string{"run", "set", "networking"},
			Long: "Prints a line for each published port of the machine, or of its port GUEST alone where on the host that is. 0.0.0.0 stands for every address of the host, those of IPv6 too. A port that -p left to croft was picked when the machine was made and stays. `croft set -p` publishes others, at once also when it runs; `croft unset NAME publish.8080` ends it.",
			Examples: []man.Example{
				{Say: "All of them", Do: "croft port web"},
				{Say: "Ask the web server in it, wherever it is", Do: "curl http://$(croft port web 80)/"},
				{Say: "One more, at once", Do: "croft set -p 8443:443 web"},
			},
		},
	}
}

func networkSetText() string {
	text := "Changes what is said of a network, in the words of LXD where LXD has the thing. All of it is taken or, when one value is wrong, none. What a machine gets of it, it gets at its next start; what holds for all, as internal, allow and NAT, holds at once."
	for i, k := range networkKeys() {
		text += []string{"\n\n", "\n"}[min(i, 1)] + "- " + k.name + ": " + k.says
	}
	return text
}

// images are the commands about images.
func images(a *app) []*man.Command {
	return []*man.Command{{
		Heading: "Images", Name: "image", Short: "Work with images",
		Long: "Images are what machines are made of: root filesystems that are shared and never changed. `croft help images` tells what they are and where they come from.",
		See:  []string{"images", "run"},
		Sub: append([]*man.Command{
			{
				Name: "import", Args: "FILE|DIR|URL|- [ROOTFS]", Short: "Import an image", New: a.imageImport(),
				Long: "Takes a root filesystem and prints the fingerprint of the image made of it. It may be a tar archive, plain or compressed with gzip, xz, zstd or bzip2; a directory; a squashfs or EROFS; an LXD or Incus image in one file; or in two, the metadata and then ROOTFS. What it is is told by its content. Each may be at a URL, https://; what is there has nobody's word for it but the server's.\n\nA squashfs or EROFS is not unpacked: machines run on it as it is, and share what is read of it. Where the kernel cannot shift the ids of that filesystem it is unpacked once, here.",
				Examples: []man.Example{
					{Say: "Debian from its mirror", Do: "mmdebstrap --include=systemd-sysv,dbus trixie - | croft image import --alias debian/13 -"},
					{Say: "An archive, in place of the image that has the name now", Do: "croft image import --alias debian/13 --reuse rootfs.tar.xz"},
					{Say: "An image of LXD or Incus in two files", Do: "croft image import --alias alpine/edge incus.tar.xz rootfs.squashfs"},
				},
			},
			{
				Name: "pull", Args: "[REMOTE:]NAME...", Peers: []string{"copy", "fetch"}, Short: "Get an image from a remote", New: a.imagePull(),
				Long:     "Downloads what the remote has under NAME, checks it, and prints the fingerprint. REMOTE:NAME calls it here from then on, until the remote has a newer one and that is pulled. A download that was broken off goes on where it was; what is here already is not downloaded again.\n\n`docker:NAME[:TAG]` is at Docker Hub, `HOST[:PORT]/NAME[:TAG]` in that registry, `oci:DIR[:TAG]` in an OCI layout, `dir:DIR` in a directory that skopeo has written, `oci-archive:FILE[:TAG]` and `docker-archive:FILE[:NAME:TAG]` in a file of skopeo's, podman's or docker's. Instead of a tag there may be a digest, `@sha256:...`. Layers are shared by all images that have them.",
				Examples: []man.Example{{Say: "Debian, from linuxcontainers.org", Do: "croft image pull images:debian/13"}, {Say: "Ubuntu, and a name for this very build", Do: "croft image pull --alias noble ubuntu:24.04"}, {Say: "From Docker Hub, and from a registry of one's own", Do: "croft image pull docker:debian:12 registry.example:5000/team/app:2.1"}},
			},
			{
				Name: "refresh", Args: "[IMAGE...]", Short: "Get newer images from their remotes", New: a.imageRefresh(),
				Long:     "Asks the remotes that images were pulled from for newer builds, of all images or of those that are named, pulls these, and prints what REMOTE:NAME calls now. An image stays as it is when its remote has been removed. Machines stay on the image that they were made of, which stays as long as there are any; then croft prune removes it. An alias of one's own stays where it is.\n\nA run whose image was last asked for six hours ago does the same behind its back: it starts at once with what is here, and the next one has what is new.",
				Examples: []man.Example{{Say: "All of them, in a timer", Do: "croft image refresh -q"}, {Say: "One", Do: "croft image refresh images:debian/13"}},
			},
			{
				Name: "list", Aliases: []string{"ls"}, Args: "[REMOTE:] [WORD...]", Short: "List images", New: a.imageList(),
				Long:     "Lists the images, those with an alias first. With REMOTE: it lists what a remote has that runs here, in its newest build, and has all of the words in its aliases, description, version or type. It asks the remote when it has not done so for ten minutes.",
				Examples: []man.Example{{Say: "What there is", Do: "croft image list"}, {Say: "What Debians there are at linuxcontainers.org", Do: "croft image list images: debian"}},
			},
			{Name: "info", Aliases: []string{"inspect", "show"}, Args: "IMAGE...", Short: "Describe images", New: a.imageInfo(), Long: "Prints all that is known of each image.", Examples: []man.Example{{Say: "Who uses it", Do: "croft image info debian/13"}}},
			{
				Name: "login", Args: "REGISTRY", Short: "Keep the password of a registry", New: a.imageLogin(), See: []string{"images", "environment"},
				Long:     "Asks the registry whether it takes the name and password, and keeps them where podman, skopeo and buildah keep and look for them: in the file that REGISTRY_AUTH_FILE names, or else in /run/containers/0/auth.json until the host is booted again. What docker has in ~/.docker/config.json is found as well, credential helpers included.",
				Examples: []man.Example{{Say: "Asked for on the terminal", Do: "croft image login registry.example:5000"}, {Say: "In a script", Do: "croft image login -u robot --password-stdin docker.io <token"}},
			},
			{
				Name: "logout", Args: "[REGISTRY]", Short: "Forget the password of a registry", New: a.imageLogout(), See: []string{"images"},
				Long: "Forgets what login kept.", Examples: []man.Example{{Say: "One", Do: "croft image logout registry.example:5000"}, {Say: "All", Do: "croft image logout --all"}},
			},
			{Name: "rm", Aliases: []string{"delete", "remove"}, Args: "IMAGE...", Short: "Remove images", New: a.imageRemove(),
				Long: "Removes an image, or only the alias when it has others. An image that machines are made of stays.", Examples: []man.Example{{Say: "Remove one", Do: "croft image rm debian/13"}}},
			{Name: "alias", Args: "ALIAS [IMAGE]", Short: "Give an image one more name", New: a.imageAlias(),
				Long: "Calls IMAGE by one more name, or with --delete takes the name away.", Examples: []man.Example{{Say: "One more name", Do: "croft image alias stable debian/13"}, {Say: "The name goes, the image stays", Do: "croft image alias -d stable"}}},
		}, imagesOut(a)...),
	}, publishing(a), importing(a)}
}

// theHost are the commands about croft itself on this host.
func theHost(a *app) []*man.Command {
	return []*man.Command{
		{
			Heading: "The host", Name: "prune", Short: "Remove what nothing uses any more", New: a.prune(), See: []string{"repair", "image", "rm"},
			Long: "Removes what interrupted commands left, layers that no image has, and images that have no name and that no machine is made of; with --images those with names as well. Prints each with what it takes of the disk.\n\n" +
				"A machine is never touched, running or not: that is what `croft rm` is for.",
			Examples: []man.Example{{Say: "What would it be?", Do: "croft prune --images --dry-run"}, {Say: "Make room", Do: "croft prune --images"}},
		},
		{
			Name: "generate", Short: "Print files that run machines", See: []string{"units", "start"},
			Long: "Prints what another program of the host needs to run a machine as one of its own. Nothing is installed.",
			Sub: []*man.Command{{
				Name: "unit", Args: "NAME", Short: "Print a systemd unit for a machine", New: a.generateUnit(),
				Long: "Prints a service unit that runs the machine in the foreground, with the machine's own timeouts: systemd learns when it is up and how it ended, its console is in the journal, and `systemctl stop` shuts it down cleanly. The unit may have any name but that of croft's own, which is croft-NAME.service.\n\n" +
					"With --socket it prints the socket unit that stands beside it under the same name. systemd then listens, also while the machine is down or starts anew, and the machine gets the sockets. A systemd in it serves them by a socket unit of its own with the same ListenStream=; a command of --no-boot finds the first as descriptor 3.",
				Examples: []man.Example{
					{Say: "Have systemd start a machine at boot", Do: "croft generate unit web >/etc/systemd/system/web.service\nsystemctl enable --now web"},
					{Say: "Start it when the first client comes", Do: "croft generate unit --socket 80 --socket 443 web >/etc/systemd/system/web.socket\nsystemctl enable --now web.socket"},
				},
				See: []string{"units", "start", "systemd.service(5)", "systemd.socket(5)"},
			}},
		},
		{
			Name: "config", Short: "Look at the settings of the host", See: []string{"environment", "files"},
			Long: "/etc/croft/croft.toml says what holds for all of croft on this host. Flags come before variables of the environment, these before the file, and the file before the defaults.\n\n" +
				"    root = \"/srv/croft\"            # as --root\n    run = \"/run/croft\"             # as --run\n    id-pool = \"524288-1879048191\"  # where new machines get their ids\n    stop-timeout = \"100s\"          # of new machines, as --stop-timeout\n    ready-timeout = \"2m\"           # of new machines, as --ready-timeout\n    network = \"lab\"                # of new machines, as --network\n    subnet = \"10.42.0.0/16\"        # where networks get their IPv4 subnets, /20 each\n    publish-address = \"127.0.0.1\"  # where -p without an address publishes",
			Sub: []*man.Command{{
				Name: "show", Short: "Print each setting and where it comes from", New: a.configShow(),
				Long:     "Prints the settings in force, each with its origin: a flag, a variable, the file or `default`.",
				Examples: []man.Example{{Say: "Where are the machines kept?", Do: "croft config show"}},
			}},
		},
	}
}

// hidden are the words that croft says to itself: they work and appear nowhere.
func hidden(a *app) []*man.Command {
	return []*man.Command{
		{Name: "supervise", Args: "NAME", Hidden: true, New: func(*pflag.FlagSet) man.Run {
			return func(ctx context.Context, args []string) error {
				run.Hurry()
				e, err := a.open()
				if err == nil {
					err = e.Supervise(ctx, args[0])
				}
				if err != nil && !e.Foregrounded() {
					return said{err, exitFailed} // it was reported; nobody reads our stderr
				}
				a.inner = true
				return err
			}
		}},
		{Name: "undo", Args: "NAME STATUS CAUSE", Hidden: true, New: func(*pflag.FlagSet) man.Run {
			return func(_ context.Context, args []string) error { return a.undo(args[0], args[1], args[2]) }
		}},
		{Name: "await", Args: "NAME", Hidden: true, New: a.helper((*run.Engine).Await)},
		{Name: "wake", Args: "NAME", Hidden: true, New: a.helper((*run.Engine).Wake)},
		{Name: "release", Args: "NAME", Hidden: true, New: a.helper(func(e *run.Engine, ctx context.Context, name string) error {
			return e.Release(ctx, name, os.Stdin)
		})},
		{Name: "ask", Args: "NAME", Hidden: true, New: a.helper((*run.Engine).Ask)},
		{Name: "__manual", Args: "DIR", Hidden: true, New: func(*pflag.FlagSet) man.Run {
			return func(_ context.Context, args []string) error { return a.manual(args[0]) }
		}},
	}
}

// helper is a verb that a keeper executes for its machine.
func (a *app) helper(do func(*run.Engine, context.Context, string) error) func(*pflag.FlagSet) man.Run {
	return func(*pflag.FlagSet) man.Run {
		return func(ctx context.Context, args []string) error {
			e, err := a.open()
			if err == nil {
				err = do(e, ctx, args[0])
			}
			if err != nil {
				return said{err, exitFailed} // our stderr is the machine's, or nobody's
			}
			return nil
		}
	}
}

func (a *app) undo(name, status, cause string) error {
	e, err := a.open()
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(status)
	if err != nil {
		return man.Misused("%q is no wait status", status)
	}
	err = e.Undo(name, unix.WaitStatus(n), run.Cause(cause))
	var ended run.ExitStatus
	if err == nil || errors.As(err, &ended) {
		return err
	}
	return fmt.Errorf("stop %s: %w", name, err)
}

// manual writes the man pages into dir.
func (a *app) manual(dir string) error {
	for name, page := range a.program().Pages() {
		if err := os.WriteFile(filepath.Join(dir, name), page, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// lookup gives the words that an operand of the given kind can be.
func (a *app) lookup(kind string) []string {
	switch kind {
	case "KEY":
		return keyNames()
	case "NET KEY=VALUE":
		var words []string
		for _, k := range networkKeys() {
			words = append(words, k.name+"=")
		}
		return words
	case "NAME KEY=VALUE", "PROFILE KEY=VALUE":
		var words []string
		for _, s := range settings() {
			if s.fixed == "" {
				words = append(words, s.name+"=")
			}
		}
		return words
	case "--" + filterFlag:
		words := []string{"name=", "image=", "network=", "label="}
		for _, s := range state.States {
			words = append(words, "state="+s)
		}
		return words
	}
	a.completing()
	e, err := a.engine()
	if err != nil {
		return nil
	}
	switch kind {
	case "REMOTE", "REMOTE:":
		remotes, err := e.Remotes()
		if err != nil {
			return nil
		}
		var names []string
		for _, r := range remotes.List() {
			names = append(names, r.Name+kind[len("REMOTE"):])
		}
		return names
	case "NAME", "OLD":
		names, _ := e.Dir.Names()
		return names
	case "PROFILE":
		names, _ := e.Profiles()
		return names
	case "NET":
		networks, _ := e.Networks()
		var names []string
		for _, n := range networks {
			names = append(names, n.Name)
		}
		return names
	case "IMAGE", "ALIAS":
		aliases, _ := e.Images.Aliases()
		var names []string
		for alias := range aliases {
			names = append(names, alias)
		}
		return names
	}
	return nil
}

func innerExits() []man.Entry {
	return []man.Entry{
		{Term: "N", Text: "CMD ended with N"}, {Term: "125", Text: "croft itself failed, an unknown machine or image included"},
		{Term: "126", Text: "CMD cannot be executed"}, {Term: "127", Text: "CMD was not found"}, {Term: "128+N", Text: "signal N killed CMD"},
	}
}

const runText = `Makes a machine of IMAGE and starts it. An image with an init boots it; what happens then depends on the rest:

- With CMD: waits until the machine is up, runs CMD in it with this command's stdin, stdout and stderr, shuts the machine down and ends with CMD's status.
- On a terminal without CMD: opens a root shell in it; leaving the shell shuts the machine down, ctrl-a q leaves it running.
- Without a terminal: what its console prints goes to stdout; SIGTERM and SIGINT shut it down, a second one kills it.
- With -d: returns once the machine is up.

With --no-boot, and for images that have no init, CMD runs as the machine's only program under a tiny init.

The machine is kept when it stops, unless --rm was given: croft start NAME starts it again with all that it changed.

With --exists start, a machine of that --name is taken as it is: started if it is stopped, and stopped afterwards only if it was this run that started it. With --exists replace it is removed, running or not, once nothing speaks against the new one; but only if it was made with --rm, or with -f.

## What it has
Its own ids, files, processes and host name; of the host's files only what -v binds; two addresses on ` + state.DefaultNetwork + `, by way of which it reaches the world, and nobody it but the host and its neighbours there; ports that -p publishes are reached by all. ` + "`croft help networking`" + ` tells the rest.

## When it ends
With --restart a machine that ends by itself is started again: after a crash or a status that is not 0 with on-failure, after a poweroff from inside too with always. Not after croft stop or kill, nor when --timeout ran out, nor when its keeper was killed. The pause before a restart grows from 100 ms to 10 s, and after five restarts in a row, or the N of on-failure:N, it gives up; a run of a minute begins the count anew. While it waits its state is restarting, and croft stop ends that. In a unit file leave this to systemd's Restart=.

With --timeout it is stopped when its time is up, and killed when that takes longer than --stop-timeout. A reboot from inside does not put it off.

## Its files
With --read-only the machine can write to /run, /tmp and /var/tmp, which are in memory, to what -v and --tmpfs add, and where systemd boots to /var/lib/systemd, in memory too. Its root cannot change that. With -x it begins with the image's files at every start; what it changed can be looked at until then.

A directory bound with -v that a user of the host owns belongs to the machine's root, and what that root makes there belongs to the user. In one that root owns, ids are the same on both sides. SRC may be relative.`

const setText = `Changes what was asked of a machine when it was made, in the words of ` + "`croft run`" + `: as flags, or as KEY=VALUE with the long name of a flag for KEY. What is not named stays. All of it is taken or, when one value is wrong, none.

Of a list (env, label, volume, tmpfs, io-max, huge-pages, ulimit, publish, add-host) what is given takes the place of the entry that has its name and stands beside the others. KEY.ENTRY means one entry: env.LANG=C, publish.8080. Of network and dns all that is given takes the place of all that was; croft network attach adds one network. An empty value is what unset does. LXD's environment.LANG is env.LANG, and user.NOTE is a label of that name, to be used as one likes. LXD's limits are understood by their names: limits.kernel.nofile is ulimit.nofile, limits.cpu is cpus or, when it is a list, cpu-set (docs/limits.md has all of them).

LXD's keys for the host's start and end are no flags of run: boot.autostart, which ` + "`croft enable`" + ` and ` + "`croft disable`" + ` set, boot.autostart.priority and boot.host_shutdown_timeout; ` + "`croft help enable`" + ` tells what they do.

## A machine that runs
Limits, published ports, labels, rm, restart and the stop-timeout of croft stop hold at once. A limit that the kernel refuses is not recorded either, as less memory than the machine uses, what is only cached not counted. The others are what the machine was started with, and hold from its next start; a line on stderr says so. croft explain tells what is waiting.

## What stays as it was made
The name (see croft rename), the image, the storage driver, and whether it boots.`

const enableText = `Has each machine started whenever the host starts, and sets its boot.autostart to true; from then on each start of the host first lets those machines come up whose boot.autostart.priority is higher. What runs now and what is stopped stays so.

Machines of which boot.autostart says nothing come back when they ran as the host went down: it does not matter whether it was shut down, rebooted, or lost its power. Those that belong to a caller (croft start -F, croft run that is still attached) are its own business, and those of --rm are gone. This much is installed by the first enable, and by croft enable without a name.

It needs systemd, and nothing of croft's keeps running: a link in /etc/systemd/system/multi-user.target.wants, to the unit croft@.service, which is written if no package has brought it. What a machine needs beside it, change with systemctl edit. On another host boot.autostart is obeyed by ` + "`croft start --boot`" + `; let its boot scripts run that, for cron as @reboot.

When the host goes down machines are stopped cleanly, all at once but for priorities, those that started last first. boot.host_shutdown_timeout limits it, for a stop by systemctl too; without it the limit is that of --stop-timeout.`

const execText = `Runs CMD in a running machine with all of the machine's confinement on it. Stdin is always connected; a terminal is made when stdin and stdout are terminals.

When croft is killed, or gets a signal, all that CMD has started ends with it. What CMD leaves running in the background when it ends by itself stays.

With --filter CMD runs in each machine that passes, one after the other in the order of their names, with no terminal and nothing to read. It goes on after a failure; the status is the first that is not 0.

CMD gets the environment that the machine was made with by -e, and that of exec's own -e; nothing else of the caller's. It is looked for in the machine's PATH. For pipes, redirections and variables of the machine's, run a shell: sh -c '...'.`

const doctorText = `Looks at everything of this host that machines depend on: kernel, filesystem of the store, cgroups, ids, limits. Each is found out by using it, in a place that nobody sees and that is gone afterwards.

What is well is told in a few lines. Each other thing has lines of its own: what was found, what is missing without it, and what would help. A ` + "`problem`" + ` keeps machines from starting; a ` + "`note`" + ` does not. Without root some things cannot be found out, and it says how many.

With --try it then makes a machine of nothing but croft itself, in the store that machines use, starts it, runs a program in it, stops it and removes it, and tells on stderr how long each took. It needs no image. A trial that was killed is cleared away by the next one, or by croft repair.

With --format it prints every fact, by an id that stays the same.`

const listText = `Lists machines, running and stopped. The state is asked of the kernel at that moment: ` + "`running`" + `, ` + "`paused`" + `, ` + "`restarting`" + ` (between two runs, by --restart), ` + "`stopped`" + `, ` + "`orphaned`" + ` (its keeper was killed and its processes live on) or ` + "`damaged`" + ` (its record cannot be read).

As ` + "`hosts`" + ` it prints the names and addresses of the machines that run as lines for /etc/hosts.`
