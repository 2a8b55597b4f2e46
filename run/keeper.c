// The keeper: what stays of croft while a machine runs.
//
// The starter (supervise.go) execs this same binary with "keeper" as its first word; the constructor at the end
// takes over before the Go runtime starts. What stays is the parent of the machine's init, holder of its claim,
// console and socket. At last it execs croft once more: for the undo or, after a reboot, for the next start.
// All that comes from the guest is opaque here: console bytes are copied, and of what the kernel says that PID 1
// has notified, READY=1 counts, and its state and its signs of life go to the host's systemd. No memory is allocated.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "keeper.h"

enum { LOG_MAX = 1 << 20, CLIENTS = 128, BUF = 4096 };

// What the starter decided; the order is that of its argument list (supervise.go).
static struct {
	int init, pidfd; // the machine's init, our child
	int pty, slave;  // the console and one open slave, or -1: without it the pty hangs up when PID 1 closes its own
	int listener, client; // SOCK_SEQPACKET; a connection like those that come there, of whoever started it, or -1
	int notify, host; // datagrams of the guest's init; those for the host's systemd, whose unit we are; or -1
	int logdir, rundir;        // where console.log is, and where "ready" is put
	int report;      // the starter's caller waits at the other end, or -1
	int hostns;      // the host's mount namespace
	int stop_signal; // asks the guest's init for a clean end
	int stop_secs, life_secs;  // from then to the kill; how long the machine may live, 0: for ever
	int grace_ms;    // ready after that time of life; -1: the init tells, -2: "croft await" finds out
	int echo;        // console goes to our stdout too
	int asked;       // a stop was asked for while the machine was started
} k;

// A client is a connection to our socket (protocol: keeper.h).
static struct client {
	int fd;
	int attached; // gets the console
	int bound;    // when it dies, so does the machine
	int kill;     // cgroup.kill of what it runs in the guest, or -1
} clients[CLIENTS];

static int logfd = -1, timesfd = -1;
static uint64_t logsize, timed;  // timed: second of the last entry in console.times
static int64_t deadline = -1, expiry = -1, ready_at = -1; // of the stop, of the machine's life; ms of the monotonic clock
static int stops;
static const char *machine, *cause = "self"; // its name; of its end: the guest itself, or asked, or expired
static int unheard;             // ms after which the stop signal is sent once more, 0: it was heard
static int64_t again, born;     // when that is; when we began

static int64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void shut(int *fd)
{
	close(*fd); // none is no harm
	*fd = -1;
}

// become executes croft anew, for this machine. An impatient ctrl-c, or a terminal that goes, cuts no undo short.
static void become(const char *verb, const char *status, const char *why)
{
	signal(SIGINT, status ? SIG_IGN : SIG_DFL), signal(SIGHUP, status ? SIG_IGN : SIG_DFL), signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, &(sigset_t){ 0 }, NULL);
	execl("/proc/self/exe", "croft", verb, machine, status, why, NULL);
	_exit(125);
}

static void write_all(int fd, const char *p, size_t n)
{
	while (fd >= 0 && n > 0) {
		ssize_t w = write(fd, p, n);
		if (w <= 0)
			return; // a full disk costs log lines, never the machine
		p += w;
		n -= (size_t)w;
	}
}

static void open_logs(void)
{
	int how = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC;
	logfd = openat(k.logdir, "console.log", how, 0600);
	timesfd = openat(k.logdir, "console.times", how, 0600);
	off_t end = lseek(logfd, 0, SEEK_END);
	logsize = end < 0 ? 0 : (uint64_t)end;
	timed = 0; // each file tells when its first byte came
}

// console.times says when which byte of console.log was written: pairs of seconds and offset, one per second.
static void log_console(const char *p, size_t n)
{
	if (logsize + n > LOG_MAX) {
		shut(&logfd), shut(&timesfd);
		renameat(k.logdir, "console.log", k.logdir, "console.log.1");
		renameat(k.logdir, "console.times", k.logdir, "console.times.1");
		open_logs();
	}
	uint64_t pair[2] = { (uint64_t)time(NULL), logsize };
	if (pair[0] != timed)
		write_all(timesfd, (const char *)pair, sizeof pair);
	timed = pair[0];
	write_all(logfd, p, n);
	logsize += n;
}

static void signal_init(int sig)
{
	syscall(SYS_pidfd_send_signal, k.pidfd, sig, NULL, 0);
}

// helper has croft do for the machine what takes more than a signal. It is nobody's child, so that nobody must wait
// for it, and has nothing of ours: its end, or its life beyond ours, means nothing.
static void helper(const char *verb)
{
	pid_t pid = fork();
	if (pid == 0 && fork() == 0) {
		close_range(3, ~0U, 0), unsetenv("CROFT_CLAIM"), unsetenv("CROFT_REPORT");
		become(verb, NULL, NULL);
	}
	if (pid == 0)
		_exit(0);
	waitpid(pid, NULL, 0);
}

// hears says whether the init holds back or catches a signal: PID 1 loses one that it has no handler for yet. The tiny
// init waits for signals and catches none; the Go that becomes it catches, and loses, all.
static int hears(int sig, int tiny)
{
	char text[BUF];
	snprintf(text, sizeof text, "/proc/%d/status", k.init);
	int fd = open(text, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
	shut(&fd);
	text[n > 0 ? n : 0] = 0;
	const char *blocked = strstr(text, "\nSigBlk:"), *caught = strstr(text, "\nSigCgt:");
	uint64_t set = blocked && caught ? strtoull(blocked + 8, NULL, 16) | strtoull(caught + 8, NULL, 16) : ~0ULL;
	return tiny ? set == 0 && strstr(text, "\nState:\tS") : set >> (sig - 1) & 1;
}

// ask sends the stop signal. An init that is ready hears it; of another it is not known, which may wait with sigtimedwait(2)
// or be about to be executed, so it is sent again after ever longer times; to a payload, which may count, once.
static void ask(void)
{
	int sig = k.stop_signal, payload = k.grace_ms == 0, told = ready_at == -2;
	unheard = !sig || (payload || (!told && now_ms() - born > 1000) ? hears(sig, payload) : told) ? 0 : unheard * 2 + 20;
	if (!sig)
		helper("ask");
	else if (!payload || !unheard)
		signal_init(sig);
	again = now_ms() + unheard;
}

// stop asks for a clean end, once, and kills when the time of whoever is in the greatest hurry is up. The death of PID 1
// takes its whole pid namespace along.
static void stop(int secs, const char *why)
{
	int64_t end = now_ms() + (int64_t)secs * 1000;
	deadline = deadline < 0 || end < deadline ? end : deadline;
	if (stops++ > 0)
		return;
	cause = why, expiry = -1;
	char text[64]; // the undo needs its time, too
	int n = snprintf(text, sizeof text, "STOPPING=1\nEXTEND_TIMEOUT_USEC=%lld", ((long long)secs + 15) * 1000000);
	write_all(k.host, text, (size_t)n);
	ask();
}

static void ready(void)
{
	if (ready_at == -2) // told: nobody may be reading the reports any more
		return;
	close(openat(k.rundir, "ready", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	write_all(k.report, "R\n", 2);
	write_all(k.host, "READY=1", 7);
	ready_at = -2;
}

static void drop(struct client *c)
{
	write_all(c->kill, "1", 1), close(c->kill);
	if (c->bound && stops == 0)
		helper("wake"), stop(k.stop_secs, "asked");
	close(c->fd);
	*c = (struct client){ .fd = -1, .kill = -1 };
}

// echo copies to our stdout, with the line ends of a file: without the guest's \r and the terminal's, and without escape
// sequences (ECMA-48), for which a journal would take the line for a blob.
static void echo(const char *p, size_t n)
{
	static char in, held; // a sequence, known by its second byte; a \r
	char out[BUF * 2];
	size_t m = 0;
	for (; n > 0; n--, p++) {
		if (*p == 27 || in == 27)
			in = *p == 27 || (*p >= ' ' && *p < '0') ? 27 : strchr("[]PX^_", *p) ? *p : 0;
		else if (in && *p != '\n')
			in = in == '[' ? (*p >= '@' && *p <= '~' ? 0 : in) : *p == 7 ? 0 : in;
		else {
			if (held && *p != '\n' && *p != '\r')
				out[m++] = '\n'; // what would be written over
			in = 0, held = *p == '\r';
			if (!held)
				out[m++] = *p;
		}
	}
	write_all(1, out, m);
}

// console copies what the guest printed; false when there is nothing more.
static int console(void)
{
	char buf[BUF];
	errno = 0;
	ssize_t n = read(k.pty, buf, sizeof buf);
	if (n <= 0)
		return 0;
	log_console(buf, (size_t)n);
	if (k.echo)
		echo(buf, (size_t)n);
	for (struct client *c = clients; c < clients + CLIENTS; c++)
		if (c->fd >= 0 && c->attached && send(c->fd, buf, (size_t)n, MSG_NOSIGNAL) < 0)
			drop(c); // it does not read: the guest's console must not wait for it
	return 1;
}

// receive takes a packet and what comes with it, of the one type that is asked for. There is no room for more: the kernel
// closes a guest's descriptors, which are none of our business.
static ssize_t receive(int fd, char *buf, int type, void *got, size_t size)
{
	union { char space[64]; struct cmsghdr align; } u;
	struct iovec iov = { buf, BUF };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.space, .msg_controllen = CMSG_LEN(size) };
	ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *h = n < 0 ? NULL : CMSG_FIRSTHDR(&m);
	if (h && h->cmsg_level == SOL_SOCKET && h->cmsg_type == type && h->cmsg_len >= CMSG_LEN(size))
		memcpy(got, CMSG_DATA(h), size);
	return n;
}

// notified takes READY=1 from the guest's PID 1, and passes on what it says of its state and that it lives, a line each.
static void notified(void)
{
	char buf[BUF + 1];
	struct ucred from = { 0 };
	ssize_t n = receive(k.notify, buf, SCM_CREDENTIALS, &from, sizeof from);
	buf[n < 0 || from.pid != k.init ? 0 : n] = 0;
	for (char *line, *rest = buf; (line = strsep(&rest, "\n"));)
		if (strcmp(line, "READY=1") == 0)
			ready();
		else if (strncmp(line, "STATUS=", 7) == 0 || strcmp(line, "WATCHDOG=1") == 0)
			write_all(k.host, line, strlen(line));
}

// welcome sends the protocol's version and the pidfd of the init: with it a client signals, waits for and
// enters exactly this machine, whatever pids do meanwhile.
static void welcome(int fd)
{
	struct keeper_hello hello = { .magic = KEEPER_MAGIC, .version = KEEPER_VERSION, .init = k.init, .stopping = stops > 0 };
	union { char space[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } u = { { 0 } };
	struct iovec iov = { &hello, sizeof hello };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.space, .msg_controllen = sizeof u.space };
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	*h = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(h), &k.pidfd, sizeof(int));
	sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
}

// request serves one packet of a client: its first byte says what it wants.
static void request(struct client *c)
{
	char buf[BUF];
	int fd = -1;
	ssize_t n = receive(c->fd, buf, SCM_RIGHTS, &fd, sizeof fd);
	if (n == 0 || (n < 0 && errno != EAGAIN))
		drop(c);
	if (n <= 0)
		return;
	uint16_t v[2] = { 0, 0 };
	if (n >= 5)
		memcpy(v, buf + 1, sizeof v);
	switch (buf[0]) {
	case KEEPER_ATTACH: c->attached = 1; break;
	case KEEPER_INPUT: write_all(k.pty, buf + 1, (size_t)n - 1); break;
	case KEEPER_SIZE: ioctl(k.pty, TIOCSWINSZ, &(struct winsize){ .ws_row = v[0], .ws_col = v[1] }); break;
	case KEEPER_STOP: stop(n >= 5 ? v[0] : k.stop_secs, "asked"); break;
	case KEEPER_KILL: cause = "asked", signal_init(SIGKILL); break;
	case KEEPER_READY: ready(); break;
	case KEEPER_BIND: c->bound = 1; break;
	case KEEPER_UNBIND: c->bound = 0; break;
	case KEEPER_WATCH: shut(&c->kill); c->kill = fd; fd = -1; break;
	case KEEPER_DONE: shut(&c->kill); break;
	}
	shut(&fd);
}

// greet takes a client on, with what it has asked already. Its descriptor is not close-on-exec: at the end the undo
// inherits it, so that a client sees the end of its connection only when all is undone.
static void greet(int fd)
{
	struct client *c = clients;
	while (c < clients + CLIENTS && c->fd >= 0)
		c++;
	if (fd < 0 || c == clients + CLIENTS) {
		close(fd);
		return;
	}
	*c = (struct client){ .fd = fd, .kill = -1 };
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &(struct timeval){ 1, 0 }, sizeof(struct timeval)); // one that reads may lack a processor
	welcome(fd);
	for (int i = 0; i < 4 && c->fd == fd; i++)
		request(c);
}

static int timeout(void)
{
	int64_t next = unheard ? again : INT64_MAX, at[] = { deadline, expiry, ready_at };
	for (size_t i = 0; i < sizeof at / sizeof *at; i++)
		next = at[i] >= 0 && at[i] < next ? at[i] : next;
	int64_t left = next - now_ms();
	return next == INT64_MAX ? -1 : left < 0 ? 0 : left > 3600000 ? 3600000 : (int)left;
}

static void on_time(void)
{
	int64_t t = now_ms();
	if (unheard && t >= again)
		ask();
	if (ready_at >= 0 && t >= ready_at)
		ready();
	if (expiry >= 0 && t >= expiry) // whoever asks at the socket wakes it himself
		helper("wake"), stop(k.stop_secs, "expired");
	if (deadline >= 0 && t >= deadline)
		deadline = -1, signal_init(SIGKILL);
}

// watch runs until the init is dead and gives its wait status.
static int watch(int sigfd)
{
	enum { PIDFD, SIGNAL, LISTEN, NOTIFY, PTY, OUT, FIXED };
	for (;;) {
		// A stdout that nobody reads holds up the console, and nothing else.
		struct pollfd out = { 1, POLLOUT, 0 };
		int full = k.echo && poll(&out, 1, 0) == 0;
		struct pollfd p[FIXED + CLIENTS] = {
			[PIDFD] = { k.pidfd, POLLIN, 0 },     [SIGNAL] = { sigfd, POLLIN, 0 },
			[LISTEN] = { k.listener, POLLIN, 0 }, [NOTIFY] = { k.notify, POLLIN, 0 },
			[PTY] = { full ? -1 : k.pty, POLLIN, 0 }, [OUT] = { full ? 1 : -1, POLLOUT, 0 },
		};
		for (int i = 0; i < CLIENTS; i++)
			p[FIXED + i] = (struct pollfd){ clients[i].fd, POLLIN, 0 };
		int n = poll(p, FIXED + CLIENTS, timeout());
		on_time();
		if (n <= 0)
			continue;
		if (p[PTY].revents && !console() && errno != EAGAIN)
			shut(&k.pty);
		if (p[NOTIFY].revents)
			notified();
		for (int i = 0; i < CLIENTS; i++)
			if (p[FIXED + i].revents && clients[i].fd == p[FIXED + i].fd)
				request(&clients[i]);
		if (p[LISTEN].revents)
			greet(accept(k.listener, NULL, NULL));
		struct signalfd_siginfo s;
		if (p[SIGNAL].revents && read(sigfd, &s, sizeof s) == sizeof s)
			helper("wake"), stop(stops ? 0 : k.stop_secs, "asked"); // a second signal kills
		int status;
		if (p[PIDFD].revents && waitpid(k.init, &status, WNOHANG) == k.init)
			return status;
	}
}

static void next(int status)
{
	char text[16];
	snprintf(text, sizeof text, "%d", status);
	int reboot = WIFSIGNALED(status) && WTERMSIG(status) == SIGHUP && *cause == 's' && k.grace_ms != 0; // a payload is run once
	for (struct client *c = clients; c < clients + CLIENTS; c++)
		if (reboot || c->kill >= 0)
			shut(&c->fd);
	int *done[] = { &k.pidfd, &k.pty, &k.slave, &k.listener, &k.notify, &k.host, &k.logdir };
	for (size_t i = 0; i < sizeof done / sizeof *done; i++)
		shut(done[i]); // what the undo has no use for would only leak into it
	if (reboot)
		shut(&k.report), unsetenv("CROFT_REPORT");
	unlinkat(k.rundir, "ready", 0), shut(&k.rundir);
	become(reboot ? "supervise" : "undo", reboot ? NULL : text, cause);
}

static int keep(int argc, char **argv)
{
	int *field[] = { &k.init, &k.pidfd, &k.pty, &k.slave, &k.listener, &k.client, &k.notify, &k.host, &k.logdir, &k.rundir, &k.report,
		&k.hostns, &k.stop_signal, &k.stop_secs, &k.life_secs, &k.grace_ms, &k.echo, &k.asked };
	enum { FIRST = 3, COUNT = sizeof field / sizeof *field };
	if (argc != FIRST + COUNT)
		return 2;
	for (int i = 0; i < COUNT; i++)
		*field[i] = atoi(argv[FIRST + i]);
	machine = argv[2];
	for (int i = 0; i < CLIENTS; i++)
		clients[i].fd = clients[i].kill = -1;
	// In the starter's mount namespace we would pin every mount that the host had when it was made.
	if (setns(k.hostns, CLONE_NEWNS) < 0 || chdir("/") < 0)
		return 125;
	shut(&k.hostns);
	sigset_t set = { 0 };
	sigaddset(&set, SIGTERM), sigaddset(&set, SIGINT), sigaddset(&set, SIGQUIT); // the last is ctrl-\ in a terminal
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN), signal(SIGHUP, SIG_IGN);
	int sigfd = signalfd(-1, &set, SFD_CLOEXEC);
	fcntl(k.pty, F_SETFL, O_NONBLOCK); // a guest that does not read its console must not hold us up
	open_logs();
	born = now_ms();
	ready_at = k.grace_ms >= 0 ? born + k.grace_ms : -1;
	expiry = k.life_secs > 0 ? born + (int64_t)k.life_secs * 1000 : -1;
	greet(k.client); // before the first byte of the console
	if (k.grace_ms == -2)
		helper("await");
	if (k.asked)
		stop(k.stop_secs, "asked");
	int status = watch(sigfd);
	while (k.pty >= 0 && console()); // what the dead guest left in it
	shut(&sigfd), next(status);
	return 125;
}

// glibc passes a constructor what main gets.
__attribute__((constructor)) static void dispatch(int argc, char **argv)
{
	prctl(PR_SET_NAME, "croft"); // not "exe", which is what /proc/self/exe executes as
	if (argc > 2 && strcmp(argv[1], "keeper") == 0)
		_exit(keep(argc, argv));
}
