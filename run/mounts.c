// A starter has a mount namespace of its own: what it mounts is seen by nobody and ends with it, however that
// comes. Only a process of one thread can leave its namespace, so this is done before the Go runtime starts.
#define _GNU_SOURCE
#include "mounts.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

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

enum { EXECUTABLE = 0x10 }; // MFD_EXEC, which came with Linux 6.3

// own_program executes this program anew, out of sealed memory, where its file is a mount of its own, as one file that
// was put into a container is. libcontainer executes us as the container's init through the directory that we lie in
// (its exeseal), and would find there what the mount covers: an empty file.
static void own_program(char **argv)
{
	struct statx st;
	if (statx(AT_FDCWD, "/proc/self/exe", 0, STATX_SIZE, &st) < 0 || !(st.stx_attributes & STATX_ATTR_MOUNT_ROOT))
		return;
	int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	int to = memfd_create("croft", MFD_CLOEXEC | MFD_ALLOW_SEALING | EXECUTABLE);
	if (to < 0 && errno == EINVAL)
		to = memfd_create("croft", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	while (sendfile(to, from, NULL, 1 << 30) > 0)
		;
	if (lseek(to, 0, SEEK_CUR) == (off_t)st.stx_size && fcntl(to, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) == 0)
		fexecve(to, argv, environ);
	close(to); // what is missing here is told by the start that fails for it
	close(from);
}

// glibc passes a constructor what main gets. "run" may come to start the machine in its own process, when it has threads.
__attribute__((constructor)) static void before_main(int argc, char **argv)
{
	if (argc < 3)
		return;
	int starter = strcmp(argv[1], "supervise") == 0;
	if (starter) {
		signal(SIGHUP, SIG_DFL), signal(SIGINT, SIG_DFL); // what the undo before a restart ignores, the machine would as well
		// Whoever waited for a restart has held signals back (hold.c), which are for us, and never for the machine's init.
		sigprocmask(SIG_SETMASK, &(sigset_t){ 0 }, NULL);
	}
	if (starter || strcmp(argv[1], "run") == 0) {
		own_program(argv);
		own_mounts();
	}
}
