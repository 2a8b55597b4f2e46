// enter.c: one process into a running machine.
#ifndef CROFT_ENTER_H
#define CROFT_ENTER_H
#include <errno.h>
#include <linux/filter.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <unistd.h>

struct enter_limit {
	int resource;
	struct rlimit limit;
};

struct enter_label {
	const char *file, *text; // text is written to file
};

struct enter {
	int pidfd;               // of the machine's init
	int namespaces;          // CLONE_NEW* to join through it, without CLONE_NEWPID
	int cgroup;              // directory of the v2 cgroup to be born in, or -1
	const int *tasks;        // descriptors of v1 "tasks" files to write to
	int task_count;
	const struct enter_limit *limits;
	int limit_count;
	int stdio[3];
	int terminal;            // stdio[0] becomes the controlling terminal
	uid_t uid;
	gid_t gid;
	const gid_t *groups;
	int group_count;
	uint64_t capabilities;   // bit n: capability n stays in the bounding set
	int no_new_privs;
	const struct enter_label *labels; // of security modules
	int label_count;
	const struct sock_fprog *seccomp; // or NULL
	unsigned seccomp_flags;
	const char *dir;
	int dir_asked;           // without it, one that cannot be entered is not missed
	char *const *argv;
	char *const *envp;       // PATH in it is where argv[0] is looked for
	int errors;              // close-on-exec; gets a struct enter_error when it does not come to the exec
};

struct enter_error {
	int32_t err;
	char what[28];
};

// enter_failed tells of what a forked child could not do. It allocates nothing, and calls nothing but the kernel.
static inline void enter_failed(int errors, int err, const char *what)
{
	struct enter_error report;
	memset(&report, 0, sizeof report);
	report.err = err;
	strncpy(report.what, what, sizeof report.what - 1);
	while (write(errors, &report, sizeof report) < 0 && errno == EINTR)
		;
}

// croft_enter forks the process and gives its pid, or -errno. The calling thread must have joined the pid
// namespace of the machine for its children.
int croft_enter(const struct enter *e);
#endif
