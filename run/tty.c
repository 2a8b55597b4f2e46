// The kernel starts an init without a controlling terminal, and inits rely on that: the shell on their console gets
// it then. libcontainer gives it to the init, and nobody in the machine can take it from there: ctrl-c at the console
// would go to PID 1, to which it means a reboot.
#define _GNU_SOURCE
#include "tty.h"
#include <errno.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

int croft_free_tty(int tty)
{
	volatile int err = 0; // the child's memory is ours
	pid_t pid = vfork();
	if (pid == 0) {
		if (setsid() < 0 || ioctl(tty, TIOCSCTTY, 1) < 0)
			err = errno;
		_exit(0); // and the session ends with its leader
	}
	if (pid < 0)
		return errno;
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return err;
}
