// A process that stands in a cgroup, and does nothing else, until its stdin ends (stand.go).
#include <string.h>
#include <unistd.h>

// glibc passes a constructor what main gets: croft stand.
__attribute__((constructor)) static void before_main(int argc, char **argv)
{
	char none;
	if (argc != 2 || strcmp(argv[1], "stand") != 0)
		return;
	while (read(0, &none, 1) > 0)
		;
	_exit(0);
}
