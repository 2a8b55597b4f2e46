// What keeper.c is linked with under test (keeper_test.go): the starter before it, the init that it keeps, and
// whatever it executes at the end.
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

// What the Go side passes, in this order.
enum { CONTROL = 3, LISTENER, NOTIFY, LOGDIR, RUNDIR, REPORT, CLAIM, HOST };

static volatile sig_atomic_t stops, exit_on_stop = -1;

static void on_stop(int sig)
{
	(void)sig;
	stops++;
	if (exit_on_stop >= 0)
		_exit(exit_on_stop);
}

static void print(long n)
{
	char line[64];
	for (long i = 0; n > 0; i++) {
		int len = snprintf(line, sizeof line, "%062ld\n", i);
		long part = n < len ? n : len;
		for (long done = 0; done < part;) {
			ssize_t w = write(1, line + done, (size_t)(part - done));
			if (w > 0)
				done += w;
			else if (errno != EINTR)
				_exit(98);
		}
		n -= part;
	}
}

// notify sends a datagram with as many descriptors.
static int notify(const char *text, size_t n, int fds)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	strncpy(to.sun_path, getenv("NOTIFY_SOCKET"), sizeof to.sun_path - 1);
	int s = socket(AF_UNIX, SOCK_DGRAM, 0), all[253];
	union { char space[CMSG_SPACE(sizeof all)]; struct cmsghdr align; } u;
	struct iovec iov = { (void *)text, n };
	struct msghdr m = { .msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &iov, .msg_iovlen = 1 };
	memset(&u, 0, sizeof u);
	if (fds > 0) {
		for (int i = 0; i < fds; i++)
			all[i] = 0;
		m.msg_control = u.space;
		m.msg_controllen = CMSG_SPACE((size_t)fds * sizeof(int));
		struct cmsghdr *h = CMSG_FIRSTHDR(&m);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN((size_t)fds * sizeof(int));
		memcpy(CMSG_DATA(h), all, (size_t)fds * sizeof(int));
	}
	ssize_t sent = sendmsg(s, &m, 0);
	close(s);
	return sent < 0 ? -errno : 0;
}

static int notify_from_another(const char *text, size_t n, int for_ever)
{
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		do
			notify(text, n, 0);
		while (for_ever && getppid() != 1);
		_exit(0);
	}
	return for_ever ? 0 : waitpid(pid, NULL, 0) == pid ? 0 : -errno;
}

// obey does what one packet of the test says; its first word is the verb.
static int obey(char *cmd, size_t n)
{
	char *arg = memchr(cmd, ' ', n);
	size_t left = arg ? n - (size_t)(++arg - cmd) : 0;
	if (!arg)
		arg = cmd + n;
#define IS(verb) (strncmp(cmd, verb " ", sizeof verb) == 0)
	if (IS("print"))
		return print(atol(arg)), 0;
	if (IS("say"))
		return write(1, arg, left) == (ssize_t)left ? 0 : -errno;
	if (IS("exit"))
		_exit(atoi(arg));
	if (IS("die"))
		return signal(atoi(arg), SIG_DFL), raise(atoi(arg));
	if (IS("trap"))
		return exit_on_stop = atoi(arg), signal(SIGUSR1, on_stop) == SIG_ERR ? -errno : 0;
	if (IS("stops"))
		return stops;
	if (IS("notify"))
		return notify(arg, left, 0);
	if (IS("fds"))
		return notify("READY=0", 7, atoi(arg));
	if (IS("other"))
		return notify_from_another(arg, left, 0);
	if (IS("flood"))
		return notify_from_another(arg, left, 1);
	if (IS("closetty"))
		return close(0), close(1), close(2);
	if (IS("opentty"))
		return open(arg, O_RDWR | O_NOCTTY) == 0 && dup(0) == 1 && dup(0) == 2 ? 0 : -errno;
	if (IS("rows")) {
		struct winsize w = { 0 };
		return ioctl(0, TIOCGWINSZ, &w) < 0 ? -errno : w.ws_row * 1000 + w.ws_col;
	}
	if (IS("read")) {
		char c = 0;
		return read(0, &c, 1) == 1 ? c : -errno;
	}
	return -ENOSYS;
}

static void init(const char *tty)
{
	static char cmd[1 << 18];
	setsid();
	close(0), close(1), close(2);
	int slave = open(tty, O_RDWR);
	struct termios t;
	tcgetattr(slave, &t);
	cfmakeraw(&t);
	tcsetattr(slave, TCSANOW, &t);
	dup(slave), dup(slave);
	for (int fd = LISTENER; fd <= CLAIM + 3; fd++)
		close(fd);
	for (;;) {
		ssize_t n = recv(CONTROL, cmd, sizeof cmd - 1, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			_exit(97);
		cmd[n] = 0;
		int result = obey(cmd, (size_t)n);
		send(CONTROL, &result, sizeof result, MSG_NOSIGNAL);
	}
}

// start does what the starter does last: start NAME STOPSIGNAL STOPSECONDS LIFE GRACE ECHO NOTIFY
static int start(char **argv)
{
	int pty = posix_openpt(O_RDWR | O_NOCTTY);
	if (pty < 0 || grantpt(pty) < 0 || unlockpt(pty) < 0)
		err(1, "pty");
	const char *tty = ptsname(pty);
	int slave = open(tty, O_RDWR | O_NOCTTY);
	signal(SIGUSR1, SIG_IGN); // a process 1 loses what it has no handler for, from its first moment on
	pid_t pid = fork();
	if (pid == 0)
		init(tty);
	signal(SIGUSR1, SIG_DFL);
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	fcntl(pidfd, F_SETFD, 0); // as the starter does
	int hostns = open("/proc/self/ns/mnt", O_RDONLY);
	send(CONTROL, tty, strlen(tty), 0); // the first packet is the name of the console
	close(CONTROL);
	int number[] = { pid, pidfd, pty, slave, LISTENER, -1, atoi(argv[6]) ? NOTIFY : -1, HOST, LOGDIR, RUNDIR, REPORT, hostns,
		atoi(argv[1]), atoi(argv[2]), atoi(argv[3]), atoi(argv[4]), atoi(argv[5]), 0 };
	enum { COUNT = sizeof number / sizeof *number };
	char text[COUNT][12], *args[COUNT + 4] = { "croft", "keeper", argv[0] };
	for (int i = 0; i < COUNT; i++) {
		snprintf(text[i], sizeof text[i], "%d", number[i]);
		args[3 + i] = text[i];
	}
	execv("/proc/self/exe", args);
	err(1, "exec");
}

static int helps(const char *verb)
{
	return strcmp(verb, "ask") == 0 || strcmp(verb, "await") == 0 || strcmp(verb, "wake") == 0;
}

// end tells what the keeper left to its successor.
static int end(int argc, char **argv)
{
	char path[4096], aside[4100];
	snprintf(path, sizeof path, "%s", getenv("KEEPER_TEST_OUT"));
	if (helps(argv[1]))
		snprintf(path, sizeof path, "%s-%s", getenv("KEEPER_TEST_OUT"), argv[1]);
	snprintf(aside, sizeof aside, "%s.new", path);
	FILE *out = fopen(aside, "w"), *status = fopen("/proc/self/status", "r");
	for (int i = 1; i < argc; i++)
		fprintf(out, "%s%s", i > 1 ? " " : "", argv[i]);
	fprintf(out, "\nreport %s\n", getenv("CROFT_REPORT") ? getenv("CROFT_REPORT") : "none");
	char line[256];
	while (fgets(line, sizeof line, status))
		if (strncmp(line, "SigBlk", 6) == 0 || strncmp(line, "SigIgn", 6) == 0)
			fputs(line, out);
	fclose(status);
	DIR *d = opendir("/proc/self/fd");
	for (struct dirent *e; (e = readdir(d));) {
		char to[256];
		ssize_t n = readlinkat(dirfd(d), e->d_name, to, sizeof to - 1);
		if (n > 0 && atoi(e->d_name) > 2 && atoi(e->d_name) != dirfd(d) && atoi(e->d_name) != fileno(out))
			fprintf(out, "fd %s %.*s\n", e->d_name, (int)n, to);
	}
	closedir(d);
	fclose(out);
	rename(aside, path);
	for (const char *hold = getenv("KEEPER_TEST_HOLD"); hold && access(hold, F_OK) == 0;)
		usleep(1000);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && helps(argv[1]))
		return end(argc, argv);
	if (argc > 2 && (strcmp(argv[1], "undo") == 0 || strcmp(argv[1], "supervise") == 0))
		return end(argc, argv);
	if (argc == 9 && strcmp(argv[1], "start") == 0)
		return start(argv + 2);
	return 99;
}
