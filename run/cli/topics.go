package cli

import "croft/man"

// topics are the pages that belong to no single verb.
func topics() []*man.Topic {
	return []*man.Topic{
		{Name: "images", Short: "what machines are made of", Long: imagesText, See: []string{"image", "run", "files"}},
		{Name: "files", Short: "where croft keeps things", Long: filesText, See: []string{"repair", "environment"}},
		{Name: "networking", Short: "how machines reach each other and the world", Long: networkingText, See: []string{"network", "port", "run", "security"}},
		{Name: "cloud-init", Short: "machines that set themselves up", Long: cloudInitText, See: []string{"run", "set", "wait", "networking"}},
		{Name: "devices", Short: "devices of the host in a machine", Long: devicesText, See: []string{"run", "set", "security"}},
		{Name: "security", Short: "what keeps a machine apart from its host", Long: securityText, See: []string{"run", "exec"}},
		{Name: "environment", Short: "variables that croft reads, and those that a machine gets", Long: environmentText, See: []string{"run", "files"}},
		{Name: "units", Short: "machines in systemd units and other supervisors", Long: unitsText, See: []string{"generate", "start", "run", "systemd.service(5)", "systemd.kill(5)", "systemd.socket(5)"}},
	}
}

const cloudInitText = `The cloud-init of a machine's image does what user data says, once for each machine:

    croft run -d --name web --user-data web.yaml debian/13
    croft wait --for cloud-init web

Vendor data is overruled by user data. A network config holds in the place of croft's own, on networks that are not croft's. Each of them is kept as it was given, in the record, and known to ` + "`croft set`, `get`, `unset` and `edit`" + `, under LXD's keys (cloud-init.user-data) as well. At the next start after a change all of it is done again; under another name nothing. An image without cloud-init ignores it, and a line says so.

Credentials are for systemd's services in the machine, such as tmpfiles.extra, sysusers.extra and ssh.authorized_keys.root:

    croft run -d --name web --credential firstboot.timezone=Europe/Berlin --credential passwd.hashed-password.root:/etc/web.hash debian/13

What is given as NAME=VALUE is in the record; of NAME:FILE the file is read at each start. They are in /run/host/credentials, in memory. firstboot.* and root's password are used once, and once more for others; a newline at its end is part of a password.`

const programText = `A machine is a whole Linux system in a container: its own init with its services, its own users, processes, host name and files. croft makes it of an image, starts it, enters it and stops it. There is no daemon: each command does its work and ends. Beside a machine that runs stays one small process, its keeper; when nothing runs, nothing of croft runs.

The first machine, as root:

    mmdebstrap --include=systemd-sysv,dbus trixie - | croft image import --alias debian/13 -
    croft run -d --name web debian/13
    croft shell web
    croft stop web
    croft rm web

Results go to stdout: a name, a table, JSON. Progress, notes and errors go to stderr; an error is one line, and a line that begins with ` + "`hint:`" + ` is the command that helps. Flags of croft end at IMAGE or NAME: what follows belongs to the command in the machine.`

const imagesText = `An image is a root filesystem that any number of machines share. It is never changed: what a machine writes goes to a layer of its own, so a new machine copies nothing.

## Names
An image is called by an alias or by its fingerprint, of which six digits are enough. An alias may have slashes, as in ` + "`debian/13`" + `. A colon stands behind the name of a remote: ` + "`images:debian/13`" + ` is what the remote images calls so, and calls it here once it was pulled, until a newer build of it is. ` + "`croft image alias`" + ` adds a name. ` + "`croft image rm`" + ` takes a name away and, with the last one, the image.

The fingerprint of an archive is the sha256 of it uncompressed: the same archive is the same image, however it is compressed, and importing it again only adds names. That of a squashfs or EROFS is the sha256 of the file; that of an LXD or Incus image is the one that LXD and Incus know it by.

## Where they come from
From remotes: ` + "`croft run --rm images:debian/13`" + ` pulls Debian from linuxcontainers.org, ` + "`ubuntu:24.04`" + ` from Ubuntu, and a name that calls nothing here is looked for at the default remote, images. ` + "`croft image list images:`" + ` tells what there is, ` + "`croft image refresh`" + ` gets newer builds, ` + "`croft remote`" + ` says which remotes there are. What is pulled has been signed by its publisher where croft knows the key, and each file is what was signed.

` + "`croft image import`" + ` takes a tar archive of a root filesystem, plain or compressed with gzip, xz, zstd or bzip2, from a file, a URL or, called "-", from stdin; a directory; a squashfs or EROFS; or an image of LXD or Incus. What it gets is told by its content.

From nothing but a Debian mirror:

    mmdebstrap --include=systemd-sysv,dbus trixie - | croft image import --alias debian/13 -

From a machine or tree that is there:

    tar -C TREE --numeric-owner --xattrs -cf - . | croft image import --alias mine -
    croft image import --alias mine TREE

From the files that LXD and Incus download, the metadata first:

    croft image import --alias alpine/edge incus.tar.xz rootfs.squashfs

A squashfs or EROFS is kept as it is and mounted by each machine, all on one loop device, so that what one machine has read of it is in memory for all. It takes the disk space of the file, and is read a little slower than files that are unpacked. Where the kernel cannot shift the ids of that filesystem it is unpacked when it is imported. The kernel reads such a file with all its rights: import those of people you trust, and have others unpacked: ` + "`unsquashfs`" + `.

From a registry, or what another tool has left in a directory:

    croft image pull docker:debian:12
    croft run -d --name web registry.example:5000/team/web:2.1
    croft image pull oci:/srv/build:latest

The templates of an LXD or Incus image make files in its machines: those for create before the first start, those for rename before the first start under another name, those for start before each. Of Django's language they may use what such images do: output, if, for, set, comments and a dozen filters; anything else is an error that names the line. /etc/hostname, /etc/hosts and /etc/machine-id are made by croft and not by them.

Owners, modes, hard links, device nodes, file capabilities and other extended attributes are kept. An import that is interrupted leaves nothing that can be seen, and what it left on disk is removed by the next import or by ` + "`croft repair`" + `.

## What boots
An image boots when it has an init: /sbin/init, /etc/init, /bin/init, systemd's own path or /init, tried in this order. systemd and busybox are known, with the signal that makes them power off; any other gets SIGPWR. An image without an init runs a command instead: ` + "`croft run --no-boot`" + `.

An image of a registry boots when what it starts is its init. Any other runs its entrypoint and command, with the environment, as the user and in the directory that it names, under a tiny init; CMD takes the place of its command and stands behind its entrypoint. ` + "`croft stop`" + ` sends the signal that it names. Its volumes are plain directories of the machine. --boot boots it all the same.

Some things that a small Debian lacks unless they are asked for with --include: ` + "`dbus`" + ` for logins and hostnamectl, ` + "`udev`" + `, ` + "`procps`" + ` for ps, ` + "`iproute2`" + ` for ip, ` + "`make`" + ` and a compiler for builds.`

const networkingText = `A machine that asks for nothing else is on croft0: a bridge with a subnet of its own, from which machines reach the world by way of the host's address. The first machine that needs it makes it, and no process of croft's stands behind it.

    croft run -d --name db debian/13
    croft run -d --name web -p 8080:80 debian/13
    croft exec web getent hosts db

## What --network takes
- A network's name: ` + "`croft network list`" + ` tells which there are.
- ` + "`none`" + `: loopback alone.
- ` + "`host`" + `: all of the host's stack, its abstract unix sockets included.
- ` + "`bridge:NAME`" + `: a bridge of the host's that somebody else has made. The LAN's DHCP gives addresses, unless ip= does, with its length: ` + "`bridge:br0,ip=192.0.2.7/24,gateway=192.0.2.1`" + `.
- ` + "`macvlan:IF`" + `: the LAN that the interface IF of the host is on, in the same way. The host itself and such a machine do not see each other.
- ` + "`ns:PATH`" + `: a network namespace that somebody else has made, as it is.

After a comma come name= of the interface in the machine, ip=, ip6= and mac=. It may be given several times; the first is the machine's way out. ` + "`network`" + ` in /etc/croft/croft.toml is what counts when it is not given.

## Addresses
Those of a machine are decided when it is made, stay with it until it is removed, and are there before its init runs. --ip, --ip6 and --mac choose them in its first network.

## Names
Machines find those that run on the same network by NAME and NAME.croft, in /etc/hosts. --add-host adds to it; ` + "`--add-host host.internal:host-gateway`" + ` is the host on the first network of croft's that the machine is on. They ask the name servers of --dns, else those of the network, else the host's.

## Ports
-p leads a port of the host to one of the machine: ` + "`-p 8080:80`, `-p 127.0.0.1:8080:80`, `-p [::1]:8080:80`, `-p 53:53/udp`, `-p 8000-8010:80-90`; `-p 80`" + ` takes a port that is free, which ` + "`croft port`" + ` tells. It works from outside, from the host and from machines. ` + "`croft set -p`" + ` adds one while the machine runs.

## Who can reach whom
- Machines of one network reach each other, unless it is isolated.
- Machines of different networks do not.
- Machines reach the world, unless their network is internal. The world reaches published ports and nothing else.
- The host reaches its machines. They reach of the host what their network's allow names, and are answered to ping.
- A machine sends from its own addresses alone.

docs/networking.md tells more, also how this lives beside Docker, UFW and firewalld.`

const filesText = `## Kept
Below /var/lib/croft, or CROFT_ROOT, or --root:

- ` + "`instances/NAME/instance.json`" + ` is the record of a machine: what was asked, what was decided, the plan as it was started, how it last ended. Only croft writes it.
- ` + "`instances/NAME/console.log`" + ` is what its console printed, ` + "`console.log.1`" + ` what it printed before; each has 1 MiB at most.
- ` + "`instances/NAME/claim`" + ` is locked while the machine runs; ` + "`lock`" + ` while its record is written.
- ` + "`roots/NAME/`" + ` is what the machine changed: ` + "`upper/fs`" + ` with the driver overlay, a whole copy in ` + "`fs`" + ` with the driver dir, or in ` + "`fs-ID`" + `, with the ids of the machine from ID on, with the driver shifted.
- ` + "`networks/NAME/network.json`" + ` is the record of a network, and a file in ` + "`leases`" + ` beside it each address that is taken.
- ` + "`images/FINGERPRINT/image.json`" + `, ` + "`images/layers/DIGEST`" + ` and ` + "`images/aliases.json`" + ` are the images; a layer is an unpacked tree, or a squashfs or EROFS as it came. ` + "`images/downloads`" + ` has what is on its way, ` + "`images/remotes`" + ` what remotes offer.

Owners on disk are the machine's own: its root's files belong to 0, its user 1000's to 1000. Ids are shifted when a machine is mounted and never on disk. That is why these directories are open to root alone.

## Until the next boot
Below /run/croft, or CROFT_RUN, or --run: ` + "`NAME/`" + ` while the machine runs, with the keeper's socket ` + "`keeper`" + `, ` + "`ready`" + ` once it is up, and ` + "`host/`" + `, which the machine sees as /run/host.

Below /run/croft-host, always there: the ranges of ids that machines of any root have on this host, and how the host's forwarding was before networks needed it.

## In a machine
croft writes /etc/hostname, /etc/hosts, /etc/resolv.conf and /etc/machine-id anew before each start, and what has the machine's network manager leave its addresses as they are; in /etc/hosts its own lines, also whenever a machine of the same network starts or stops. They lie under what the machine changed: once the machine has written one of them, its own counts.`

const securityText = `A machine is made to hold a root user whom the host need not trust. ` + "`croft info --security NAME`" + ` tells what holds for one. These hold for its init and, all of them, for everything that ` + "`croft exec`" + ` and ` + "`croft shell`" + ` run in it.

- Ids: each machine has 65536 ids of the host for itself and shares none with another machine. Its root is one of them and nobody on the host. With ` + "`--nesting`" + ` there are 1048576, for machines and containers of its own. See ` + "`croft info NAME`" + `.
- Namespaces of its own for users, processes, mounts, IPC, host name and cgroups; for the network too, unless --network host or ns: was given. The user namespace belongs to the machine's own root id, so that kernel limits that count by user, of inotify for one, are its own.
- Capabilities: those that the kernel keeps apart by namespace. Missing are loading modules, raw I/O, setting the clock, reading the kernel's log, MAC administration and what came to the kernel later. ` + "`--cap-add` and `--cap-drop`" + ` change that. Where nothing boots no program can raise its rights either, sudo for one: ` + "`--no-new-privileges`" + `.
- System calls: those that load code into the kernel, open files past all mounts, pass the filter itself (io_uring) or reach what all machines share answer as if the kernel did not have them or its administrator had closed them; ` + "`croft explain NAME`" + ` lists them, ` + "`--seccomp`" + ` takes another list.
- AppArmor, where the host has it: a profile of its own, and policy of its own beside it, so that profiles and snaps work in the machine. ` + "`--apparmor`" + ` names another one. ` + "`croft doctor`" + ` tells when there is none.
- Devices: null, zero, full, random, urandom, tty and terminals. Others can neither be made nor opened.
- Files: /sys is read-only. Files in /proc that belong to the host's root cannot be written, since that user does not exist in the machine; what anybody could read there of how the host boots and of its disks is empty.
- Networks: what it sends is filtered by the link that it comes by, so that it can speak for no addresses but its own; other networks and the host's services are closed to it. See ` + "`croft help networking`" + `.
- Limits: 16384 processes and threads, and those of ` + "`--memory`, `--swap`, `--cpus`, `--cpu-set`, `--pids-limit`, `--io-max`, `--huge-pages` and `--ulimit`" + `. Without these a machine can take all of the host's memory and time.
- Volumes: nosuid and nodev. When a user of the host owns the directory, the machine's root is that user there and nobody else of the machine can write; when root owns it, ids are the same inside and outside, files of the host's root included.

## Privileged
With --privileged a machine has no user namespace: its root is the host's root, and what stands above keeps it from accidents alone. It is for what nothing else can do; ` + "`--cap-add`, `--device` and `--nesting`" + ` are safer.

## What is not there yet
` + "`--network host`" + ` shares all of the host's stack, its abstract unix sockets included. A machine can fill the disk that it is kept on.

## On the host
Whoever can write to croft's directories or run croft as root owns every machine. croft has no group whose members may use it.`

const environmentText = `## Read by croft
- ` + "`CROFT_ROOT`" + ` and ` + "`CROFT_RUN`" + ` are the directories that --root and --run name; the flags win, and both win over /etc/croft/croft.toml.
- ` + "`CROFT_CONFIG`" + ` names a file to read in place of /etc/croft/croft.toml; see ` + "`croft help config`" + `.
- ` + "`REGISTRY_AUTH_FILE`" + ` is where passwords for registries are kept, as podman and skopeo have it; without it /run/containers/0/auth.json.
- ` + "`NO_COLOR`" + `, when not empty, keeps help from being bold.
- ` + "`COLUMNS`" + ` is the width of help where that is not a terminal.
- ` + "`CROFT_OVERLAY=path`" + ` mounts root filesystems in the way of kernels before 6.15: for tests.
- ` + "`CROFT_LAYERS=unpack`" + ` has ` + "`croft image import`" + ` unpack a squashfs or EROFS: for tests.

Other variables whose names begin with CROFT_ are croft's own, from one of its processes to the next.

## In a machine
Nothing of the caller's environment goes into a machine, except by -e and --env-file.

- Its init gets PATH, TERM, HOME, ` + "`container=lxc-croft`" + `, ` + "`container_uuid`" + `, ` + "`NOTIFY_SOCKET`" + `, and what -e of run or create set.
- A command of ` + "`croft exec`" + ` gets PATH, HOME and USER of its user, ` + "`container`" + `, on a terminal TERM, what the machine was created with by -e, and over it what exec's own -e sets.

` + "`-e KEY`" + ` without a value takes the caller's, if there is one.

The value lxc-croft is one that every init understands: OpenRC looks for lxc in it, systemd takes any. The name of what made the machine stands in /run/host/container-manager.`

const unitsText = `In the foreground croft is one process for a supervisor to watch: it starts a machine, becomes its keeper, and ends when the machine does. The machine's cgroup lies below the one that the supervisor made, so that what it set for the unit holds for the machine.

For a machine that was made by ` + "`croft create --name web debian/13`" + `:

    croft generate unit web >/etc/systemd/system/web.service
    systemctl enable --now web

prints and starts what amounts to

    [Service]
    Type=notify
    ExecStart=/usr/local/bin/croft start -F web
    ExecStopPost=-/usr/local/bin/croft repair web
    KillMode=mixed
    Delegate=yes
    TimeoutStopSec=115

- With ` + "`Type=notify`" + ` systemd takes the unit for started when the machine is up, and shows what its init says of its state.
- ` + "`KillMode=mixed`" + ` sends SIGTERM to croft alone, which asks the machine's init for a clean end. With any other mode systemd would signal the machine's processes too.
- ` + "`Delegate=yes`" + ` gives the machine its part of the cgroup tree.
- TimeoutStopSec is longer than the machine's --stop-timeout, which is 100 seconds unless set: then it is croft that kills, and undoes.

The console goes to stdout, and so to the journal. SIGTERM and SIGINT stop the machine; a second one kills it. The status is 0 after a poweroff from inside, the init's own where it ended with one, and 1 when it was killed by a signal. A reboot from inside stays in the same process, and so does a restart by --restart; in a unit that is better left to Restart=, which systemd counts and shows. The status is 124 when the machine's --timeout was over. A paused machine is resumed for its stop.

## Sockets and credentials
The sockets of a socket unit reach the machine: ` + "`croft generate unit --socket 80 web`" + ` prints one. A systemd in the machine serves them with a socket unit of its own that has the same ListenStream=; a command of --no-boot finds the first as descriptor 3, as sd_listen_fds(3) has it. They stay open while the machine starts anew.

What LoadCredential= and SetCredential= of the unit give is in /run/host/credentials of the machine, in memory and for its root, or the user of --no-boot. A systemd there has them for LoadCredential= of its own services.

## Other supervisors
In CI a machine lives as long as one command:

    croft run --rm -v .:/src -w /src debian/13 make test

Its status is the command's. A job that is cancelled leaves nothing: after SIGTERM the machine is shut down, and after SIGKILL of croft, of its process group or of its cgroup the machine is ended and removed by what stands outside of them.`
