// plug mounts something in a machine that runs, or unmounts it, as the machine's own root would: whatever links the
// machine lays, it gets nowhere that its root could not.
//
// A process of one thread has to do it, since no other can enter a user namespace.
#define _GNU_SOURCE
#include "plug.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// The child of a process of many threads: system calls and plain memory, as in enter.c.
static void fail(const struct plug *p, const char *what)
{
	enter_failed(p->errors, errno, what);
	_exit(1);
}

#define TRY(call, what) do { if ((call) < 0) fail(p, what); } while (0)

static int open_in(int root, const char *path, uint64_t flags)
{
	struct open_how how = { .flags = flags | O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
	return (int)syscall(SYS_openat2, root, path, &how, sizeof how);
}

// parent opens the directory of the target and makes what is missing of it.
static int parent(const struct plug *p, int root)
{
	char path[4096];
	size_t len = strlen(p->dir);
	if (len >= sizeof path) {
		errno = ENAMETOOLONG;
		return -1;
	}
	int above = root;
	for (size_t end = 1; end <= len; end++) {
		if (end < len && p->dir[end] != '/')
			continue;
		memcpy(path, p->dir, end);
		path[end] = '\0';
		int dir = open_in(root, path, O_DIRECTORY);
		if (dir < 0 && errno == ENOENT && p->from) {
			char *name = strrchr(path, '/') + 1;
			if (mkdirat(above, name, 0755) == 0)
				dir = open_in(root, path, O_DIRECTORY);
		}
		if (dir < 0)
			return -1;
		above = dir;
	}
	return above;
}

static void plug(const struct plug *p, int root, int dir, int tree)
{
	int at = open_in(root, p->target, 0);
	if (at < 0 && errno == ENOENT) {
		int made = p->is_dir ? mkdirat(dir, p->name, 0755) : mknodat(dir, p->name, S_IFREG | 0644, 0);
		TRY(made, "make the mount point");
		at = open_in(root, p->target, 0);
	}
	TRY(at, "open the mount point");
	TRY(syscall(SYS_move_mount, tree, "", at, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH), "move_mount");
}

// unplug takes the file that a node was mounted on away as well: in /dev it would look like one.
static void unplug(const struct plug *p, int dir)
{
	struct stat st;
	TRY(fchdir(dir), "chdir");
	TRY(umount2(p->name, UMOUNT_NOFOLLOW), "umount");
	if (p->is_node && fstatat(dir, p->name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) && st.st_size == 0)
		unlinkat(dir, p->name, 0);
}

static void child(const struct plug *p)
{
	int tree = -1;
	TRY(prctl(PR_SET_DUMPABLE, 0), "prctl(PR_SET_DUMPABLE)");
	if (p->userns >= 0) {
		TRY(setns(p->userns, CLONE_NEWUSER), "setns(user)");
		TRY(syscall(SYS_setgroups, 0, NULL), "setgroups");
		TRY(syscall(SYS_setresgid, 0, 0, 0), "setresgid");
		TRY(syscall(SYS_setresuid, 0, 0, 0), "setresuid");
		// In a copy of the mounts for another user namespace the kernel locks their flags. Without that the machine's
		// root could take read-only, nosuid and nodev back.
		if (p->from)
			TRY(unshare(CLONE_NEWNS), "unshare");
	}
	if (p->from)
		TRY(tree = (int)syscall(SYS_open_tree, AT_FDCWD, p->from, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE), "open_tree");
	TRY(setns(p->mounts, CLONE_NEWNS), "setns(mnt)");
	umask(022);
	int root, dir;
	TRY(root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), "open /");
	TRY(dir = parent(p, root), "open the directory");
	if (p->from)
		plug(p, root, dir, tree);
	else
		unplug(p, dir);
	_exit(0);
}

int croft_plug(const struct plug *p)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before); // the handlers are the Go runtime's, and it is not there any more
	pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (pid == 0)
		child(p);
	int err = errno;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return pid < 0 ? -err : pid;
}
