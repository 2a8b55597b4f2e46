// The guard of a machine that ends with its caller. Its keeper is the caller's own process, or in the caller's cgroup, and
// a supervisor of jobs ends those with SIGKILL: nobody of croft would be left to end the machine. The guard waits outside,
// in a session of its own at the top of the cgroups, for one of the two to die. When that is the machine's init, all is
// well; when it is the keeper, the guard ends the machine and has croft clear up.
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { INIT = 3, KEEPER, TOPS }; // descriptors: two pidfds, and then the ways out of our caller's cgroups (guard.go)

static void guard(const char *machine)
{
	struct pollfd both[] = { { INIT, POLLIN, 0 }, { KEEPER, POLLIN, 0 } };
	for (int fd = TOPS; write(fd, "0", 1) == 1 || errno != EBADF; fd++)
		close(fd);
	while (poll(both, 2, -1) < 0 && errno == EINTR)
		;
	if (poll(both, 1, 0) != 0)
		return;
	syscall(SYS_pidfd_send_signal, INIT, SIGKILL, NULL, 0);
	poll(both, 1, -1);
	execl("/proc/self/exe", "croft", "repair", machine, NULL); // else the next start or repair clears up
}

// glibc passes a constructor what main gets: croft guard NAME. Whoever starts it waits for the first process alone.
__attribute__((constructor)) static void before_main(int argc, char **argv)
{
	if (argc != 3 || strcmp(argv[1], "guard") != 0)
		return;
	prctl(PR_SET_NAME, "croft");
	pid_t pid = fork();
	if (pid == 0)
		guard(argv[2]);
	_exit(pid < 0); // without a guard nothing starts
}
