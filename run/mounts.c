// A starter has a mount namespace of its own: what it mounts is seen by nobody and ends with it, however that
// comes. Only a process of one thread can leave its namespace, so this is done before the Go runtime starts.
#define _GNU_SOURCE
#include "mounts.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>

int croft_host_mounts;

// own_mounts leaves the host's namespace. The new one is its slave, so that the host's unmounts arrive.
static void own_mounts(void)
{
	int host = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (host < 0 || unshare(CLONE_NEWNS) < 0 || mount("", "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		croft_host_mounts = -errno;
	else
		croft_host_mounts = host;
}

// The GNU C library passes a constructor what main gets. "run" and "start" may come to start the machine in
// their own process, when it has threads.
__attribute__((constructor)) static void before_main(int argc, char **argv)
{
	if (argc > 2 && (strcmp(argv[1], "supervise") == 0 || strcmp(argv[1], "run") == 0))
		own_mounts();
}
