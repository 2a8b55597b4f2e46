// An errand: croft executed once more, for what nobody waits for. The process that sends it may become a keeper, which
// lives for months and waits for its machine's init alone, so an errand is nobody's child; and it has nothing of the
// caller's open, such as a lock, which would be held for as long as it takes (pull.go).
#define _GNU_SOURCE
#include <string.h>
#include <unistd.h>

// glibc passes a constructor what main gets: croft errand VERB ARG... Whoever starts it waits for the first process alone.
__attribute__((constructor)) static void before_main(int argc, char **argv)
{
	if (argc < 3 || strcmp(argv[1], "errand") != 0)
		return;
	pid_t pid = fork();
	if (pid == 0) {
		close_range(3, ~0U, 0);
		argv[1] = argv[0];
		execv("/proc/self/exe", argv + 1);
	}
	_exit(pid > 0 ? 0 : 1);
}
