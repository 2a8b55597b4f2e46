// enter puts one process into a running machine, with all of the machine's confinement on it.
//
// It is a fork of the caller that joins and then executes: no second start of the Go runtime, which is most
// of what an exec costs elsewhere. Until the execve the child is not dumpable and its memory belongs to the
// host's user namespace, so the guest can neither trace it nor look into its /proc directory.
#define _GNU_SOURCE
#include "enter.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// The child of a process of many threads may make system calls and use plain memory, nothing else. For ids not
// even the C library's wrappers do: they would have all the threads follow, which are not there any more.
static void fail(const struct enter *e, int err, const char *what)
{
	enter_failed(e->errors, err, what);
	_exit(125);
}

#define TRY(call, what) do { if ((call) < 0) fail(e, errno, what); } while (0)

static void reset_signals(void)
{
	struct sigaction dfl;
	memset(&dfl, 0, sizeof dfl);
	dfl.sa_handler = SIG_DFL;
	for (int s = 1; s < 65; s++)
		sigaction(s, &dfl, NULL);
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

// The host's side first: cgroups and limits need rights on the host, which are gone after the join.
static void host_side(const struct enter *e)
{
	TRY(prctl(PR_SET_DUMPABLE, 0), "prctl(PR_SET_DUMPABLE)");
	// A thread that moves itself (tasks, not cgroup.procs) does not have to wait for an RCU grace period of the
	// whole kernel, which is longer than all the rest of this.
	for (int i = 0; i < e->task_count; i++)
		TRY(write(e->tasks[i], "0", 1), "join cgroup");
	for (int i = 0; i < e->limit_count; i++)
		if (setrlimit(e->limits[i].resource, &e->limits[i].limit) < 0 && errno != EPERM)
			fail(e, errno, "setrlimit");
	// They hold from the execve on. In the machine /proc could be anything.
	for (int i = 0; i < e->label_count; i++) {
		int fd;
		TRY(fd = open(e->labels[i].file, O_WRONLY | O_CLOEXEC), "open label");
		TRY(write(fd, e->labels[i].text, strlen(e->labels[i].text)), "label");
		close(fd);
	}
}

static void take_stdio(const struct enter *e)
{
	// Above the three first, so that no dup2 overwrites one that is still needed.
	int high[3];
	for (int i = 0; i < 3; i++)
		TRY(high[i] = fcntl(e->stdio[i], F_DUPFD_CLOEXEC, 10), "dup stdio");
	for (int i = 0; i < 3; i++)
		TRY(dup2(high[i], i), "dup2");
	TRY(setsid(), "setsid");
	if (e->terminal)
		TRY(ioctl(0, TIOCSCTTY, 0), "ioctl(TIOCSCTTY)");
}

static void drop_bounding(const struct enter *e)
{
	for (int c = 0; c < 64; c++) {
		if (e->capabilities >> c & 1)
			continue;
		if (prctl(PR_CAPBSET_DROP, c, 0, 0, 0) < 0) {
			if (errno == EINVAL) // the kernel has no more capabilities
				return;
			fail(e, errno, "prctl(PR_CAPBSET_DROP)");
		}
	}
}

// The set that a root of the machine has; another user keeps none of it, as after any change of user.
static void set_capabilities(const struct enter *e)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	memset(data, 0, sizeof data);
	if (syscall(SYS_capget, &head, data) < 0)
		fail(e, errno, "capget");
	for (int i = 0; i < 2; i++) {
		uint32_t set = e->uid == 0 ? (uint32_t)(e->capabilities >> 32 * i) & data[i].permitted : 0;
		data[i].effective = data[i].permitted = set;
		data[i].inheritable = 0;
	}
	TRY(syscall(SYS_capset, &head, data), "capset");
}

// close_others leaves nothing of the host's open but what tells it of an error: the guest decides what a path leads to, the home of
// its users too, and /proc/self/fd/N would lead to the host's.
static void close_others(const struct enter *e)
{
	unsigned keep = (unsigned)e->errors;
	if (keep > 3)
		TRY(syscall(SYS_close_range, 3, keep - 1, 0), "close_range");
	TRY(syscall(SYS_close_range, keep + 1, ~0U, 0), "close_range");
}

static void filter(const struct enter *e)
{
	if (e->seccomp)
		TRY(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, e->seccomp_flags, e->seccomp), "seccomp");
}

static void guest_side(const struct enter *e)
{
	TRY(setns(e->pidfd, e->namespaces), "setns");
	close_others(e);
	drop_bounding(e);
	// Root of the machine first, whoever it shall be: host root is nobody in there, and the kernel takes
	// capabilities away only on the way from that namespace's root to another user.
	TRY(syscall(SYS_setgroups, e->group_count, e->groups), "setgroups");
	TRY(syscall(SYS_setresgid, e->gid, e->gid, e->gid), "setresgid");
	TRY(syscall(SYS_setresuid, 0, 0, 0), "setresuid");
	// A session keyring of its own, charged to the machine: the caller's must not be seen.
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS && errno != EDQUOT)
		fail(e, errno, "keyctl(JOIN_SESSION_KEYRING)");
	if (!e->no_new_privs)
		filter(e); // before the capabilities go: only CAP_SYS_ADMIN may load one then
	if (e->uid != 0)
		TRY(syscall(SYS_setresuid, e->uid, e->uid, e->uid), "setresuid");
	set_capabilities(e);
	umask(022);
	if (chdir(e->dir) < 0) // the home of many a service does not exist
		TRY(e->dir_asked ? -1 : chdir("/"), "chdir");
}

static const char *path_of(char *const *envp)
{
	for (; *envp; envp++)
		if (strncmp(*envp, "PATH=", 5) == 0)
			return *envp + 5;
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
}

// search tries argv[0] along PATH as execvp does; the machine's own PATH, in the machine.
static void search(const struct enter *e)
{
	const char *name = e->argv[0];
	if (strchr(name, '/')) {
		execve(name, e->argv, e->envp);
		fail(e, errno, "exec");
	}
	int found = ENOENT;
	size_t len = strlen(name);
	for (const char *p = path_of(e->envp); *p;) {
		char file[4096];
		size_t n = strcspn(p, ":");
		if (n > 0 && n + len + 2 < sizeof file) {
			memcpy(file, p, n);
			file[n] = '/';
			memcpy(file + n + 1, name, len + 1);
			execve(file, e->argv, e->envp);
			if (errno == EACCES || (errno != ENOENT && errno != ENOTDIR))
				found = errno;
		}
		p += n + (p[n] == ':');
	}
	fail(e, found, "exec");
}

// born forks a child, in the v2 cgroup from its first instruction on: there is nothing to move then.
static long born(int cgroup)
{
	struct clone_args args;
	memset(&args, 0, sizeof args);
	args.exit_signal = SIGCHLD;
	if (cgroup >= 0) {
		args.flags = CLONE_INTO_CGROUP;
		args.cgroup = (__u64)cgroup;
	}
	return syscall(SYS_clone3, &args, sizeof args);
}

int croft_enter(const struct enter *e)
{
	long pid = born(e->cgroup);
	if (pid < 0)
		return -errno;
	if (pid > 0)
		return (int)pid;
	reset_signals();
	host_side(e);
	take_stdio(e);
	guest_side(e);
	if (e->no_new_privs) {
		TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)");
		filter(e); // last, as for PID 1: it need not allow what we did before
	}
	search(e);
	_exit(125);
}
