// A relay carries to a file of the caller's what a payload writes (relay.go): from its stdin to its stdout, until nobody has the
// other end any more. The process that starts it becomes a keeper, which waits for its machine's init alone, so it is nobody's
// child. Descriptor 3 is a lock, which says by its end that all has arrived.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static void relay(void)
{
	static char buf[1 << 16];
	ssize_t n, done;
	while ((n = read(0, buf, sizeof buf)) > 0 || (n < 0 && errno == EINTR))
		for (ssize_t at = 0; at < n; at += done)
			if ((done = write(1, buf + at, (size_t)(n - at))) < 0) {
				if (errno != EINTR) { // from now on the payload gets EPIPE
					dprintf(2, "croft: standard output: %s\n", strerror(errno));
					return;
				}
				done = 0;
			}
}

// glibc passes a constructor what main gets: croft relay. Whoever starts it waits for the first process alone.
__attribute__((constructor)) static void before_main(int argc, char **argv)
{
	if (argc != 2 || strcmp(argv[1], "relay") != 0)
		return;
	prctl(PR_SET_NAME, "croft");
	pid_t pid = fork();
	if (pid == 0)
		relay();
	_exit(pid < 0);
}
