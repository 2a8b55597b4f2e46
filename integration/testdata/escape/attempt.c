// attempt NAME [TARGET] tries one thing that a machine's root might do to get out, and prints how that ended: "succeeded", the errno of the
// call that was refused, or a word for what it got instead. It is the same program in the machine and in the control, where the wall
// is off: so whatever it gets hold of it leaves as it is. A file that only root may write is opened for it and not written; a call
// that changes the kernel is made with a value that the kernel looks at only once it has let the caller pass, and refuses then.
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/bpf.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/keyctl.h>
#include <linux/netlink.h>
#include <linux/nsfs.h>
#include <linux/perf_event.h>
#include <linux/vm_sockets.h>
#include <mqueue.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <stddef.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static const char yes[] = "succeeded";
static const char *target; // what the script gave besides the name, or NULL

// ended is how a call ended.
static const char *ended(long result)
{
	return result < 0 ? strerrorname_np(errno) : yes;
}

// passed is how a call ended that the kernel refuses with err once it has let the caller pass.
static const char *passed(long result, int err)
{
	return result < 0 && errno == err ? yes : ended(result);
}

// reads is how the reading of some bytes ended.
static const char *reads(const char *file)
{
	char some[64]; // page flags come in words
	int fd = open(file, O_RDONLY | O_NONBLOCK);
	if (fd < 0)
		return ended(fd);
	long n = read(fd, some, sizeof some);
	return n == 0 ? "nothing" : ended(n);
}

static const char place[] = "/tmp"; // where things are mounted that nobody else sees

// alone gives this process mounts of its own.
static int alone(void)
{
	mkdir(place, 01777);
	if (unshare(CLONE_NEWNS) < 0)
		return -1;
	return mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
}

static const char *mounted(const char *type, const char *options)
{
	if (alone() < 0)
		return "unprepared";
	return ended(mount(type, place, type, 0, options));
}

// sysfs_writable mounts a sysfs of a network namespace of its own, which has none yet that is read-only.
static const char *sysfs_writable(void)
{
	return unshare(CLONE_NEWNET) < 0 ? "unprepared" : mounted("sysfs", NULL);
}

// writes_sys is how a file of such a sysfs was opened.
static const char *writes_sys(const char *file)
{
	if (sysfs_writable() != yes || chdir(place) < 0)
		return "unprepared";
	return ended(open(file, O_WRONLY));
}

// kallsyms tells whether the kernel's addresses can be seen.
static const char *kallsyms(void)
{
	char line[200];
	FILE *f = fopen("/proc/kallsyms", "r");
	if (!f)
		return ended(-1);
	while (fgets(line, sizeof line, f))
		if (strtoull(line, NULL, 16) != 0)
			return yes;
	return "zeros";
}

// pagemap tells whether the physical address of a page can be seen.
static const char *pagemap(void)
{
	unsigned long long entry;
	volatile char here = 1;
	int fd = open("/proc/self/pagemap", O_RDONLY);
	if (fd < 0 || pread(fd, &entry, sizeof entry, (off_t)((unsigned long)&here / 4096 * 8)) != sizeof entry)
		return ended(-1);
	return entry & ((1ULL << 55) - 1) ? yes : "zeros";
}

static const char *clock_set(void)
{
	struct timezone nowhere = { .tz_minuteswest = 100000 };
	return passed(settimeofday(NULL, &nowhere), EINVAL);
}

static const char *clock_adjust(void)
{
	struct timex tick = { .modes = ADJ_TICK, .tick = 1 };
	return passed(adjtimex(&tick), EINVAL);
}

static const char *perf(pid_t pid, int cpu)
{
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_CPU_CLOCK };
	return ended(syscall(SYS_perf_event_open, &attr, pid, cpu, -1, 0));
}

static const char *perf_host(void) { return perf(-1, 0); }
static const char *perf_kernel(void) { return perf(0, -1); }

// bpf_programs looks for the programs of others, bpf_load loads one.
static const char *bpf_programs(void)
{
	union bpf_attr attr;
	memset(&attr, 0, sizeof attr);
	long n = syscall(SYS_bpf, BPF_PROG_GET_NEXT_ID, &attr, sizeof attr);
	return passed(n, ENOENT); // there are none
}

static const char *bpf_load(void)
{
	struct bpf_insn code[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attr;
	memset(&attr, 0, sizeof attr);
	attr.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
	attr.insn_cnt = 2;
	attr.insns = (unsigned long)code;
	attr.license = (unsigned long)"GPL";
	return ended(syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr));
}

static const char *userfaultfd_kernel(void) { return ended(syscall(SYS_userfaultfd, 0)); }
static const char *io_uring(void)
{
	struct io_uring_params params;
	memset(&params, 0, sizeof params);
	return ended(syscall(SYS_io_uring_setup, 1, &params));
}

// vsock asks for a socket to the hypervisor, crypto for one to the kernel's ciphers.
static const char *vsock(void) { return ended(socket(AF_VSOCK, SOCK_STREAM, 0)); }
static const char *crypto(void) { return ended(socket(AF_ALG, SOCK_SEQPACKET, 0)); }

// type_in types into its terminal what somebody else shall find there.
static const char *type_in(void)
{
	char key = '#';
	return ended(ioctl(0, TIOCSTI, &key));
}

static const char *dmesg(void)
{
	char line[100];
	return ended(klogctl(3, line, sizeof line));
}

static const char *swap_on(void) { return passed(swapon("/nowhere", 0), ENOENT); }
static const char *account(void) { return passed(syscall(SYS_acct, "/nowhere"), ENOENT); }
static const char *module_load(void) { return passed(syscall(SYS_init_module, NULL, 0UL, ""), ENOEXEC); }
static const char *module_load_file(void) { return passed(syscall(SYS_finit_module, -1, "", 0), EBADF); }
static const char *module_remove(void) { return passed(syscall(SYS_delete_module, "nowhere", O_NONBLOCK), ENOENT); }
static const char *kexec(void) { return passed(syscall(SYS_kexec_load, 0UL, 0UL, NULL, ~0UL), EINVAL); }

// at is what was given to an attempt at some file, or what it tries otherwise.
static const char *at(const char *otherwise)
{
	return target ? target : otherwise;
}

// The root of most filesystems has inode 2, and its handle needs no more: "shocker" opened the host's from a mount of a single file.
struct root_handle {
	struct file_handle head;
	unsigned inode[2];
};

static const struct root_handle root_handle = { { .handle_bytes = 8, .handle_type = 1 }, { 2, 0 } };

// by_handle opens such a root by way of a mount.
static int by_handle(int mount)
{
	struct root_handle handle = root_handle;
	return (int)syscall(SYS_open_by_handle_at, mount, &handle, O_RDONLY);
}

static int by_handle_compat(int mount)
{
#ifdef __x86_64__
	void *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (low == MAP_FAILED)
		return -1;
	memcpy(low, &root_handle, sizeof root_handle);
	long fd;
	const long open_by_handle_at = 342; // of i386
	__asm__ volatile("int $0x80" : "=a"(fd) : "a"(open_by_handle_at), "b"((long)mount), "c"(low), "d"((long)O_RDONLY) : "memory");
	errno = (int)-fd;
	return fd < 0 ? -1 : (int)fd;
#else
	return by_handle(mount);
#endif
}

// shock goes through all the mounts there are.
static const char *shock(int (*opener)(int mount))
{
	char line[8192], path[4096];
	const char *how = "unprepared";
	FILE *mounts = fopen("/proc/self/mountinfo", "r");
	while (mounts && how != yes && fgets(line, sizeof line, mounts)) {
		int mount = sscanf(line, "%*s %*s %*s %*s %4095s", path) == 1 ? open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY) : -1;
		if (mount < 0)
			continue;
		how = ended(opener(mount));
		close(mount);
	}
	return how;
}

static const char *shocker(void) { return shock(by_handle); }
static const char *shocker_compat(void) { return shock(by_handle_compat); }

static const char *node(mode_t kind, unsigned major, unsigned minor)
{
	mkdir(place, 01777);
	if (chdir(place) < 0)
		return "unprepared";
	const char *how = ended(mknod("attempted-node", kind | 0600, makedev(major, minor)));
	unlink("attempted-node");
	return how;
}

static const char *make_disk(void) { return node(S_IFBLK, 7, 0); }
static const char *make_kernel_log(void) { return node(S_IFCHR, 1, 11); }
static const char *read_node(void) { return reads(at("/node")); }

// same says whether two paths lead to one directory.
static int same(const char *a, const char *b)
{
	struct stat first, second;
	return stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

// processes looks for one with another root or a working directory that nothing here leads to.
static const char *processes(void)
{
	char path[300], where[4096];
	struct dirent *e;
	DIR *proc = opendir("/proc");
	while (proc && (e = readdir(proc)) != NULL) {
		if (!isdigit(e->d_name[0]))
			continue;
		snprintf(path, sizeof path, "/proc/%s/root", e->d_name);
		if (access(path, R_OK) == 0 && !same(path, "/"))
			return yes;
		snprintf(path, sizeof path, "/proc/%s/cwd", e->d_name);
		ssize_t n = readlink(path, where, sizeof where - 1);
		if (n < 0)
			continue;
		where[n] = 0;
		if (access(path, R_OK) == 0 && !same(path, where))
			return yes;
	}
	return "own";
}

// descriptors looks for one besides the three that everybody has, and that of the directory itself.
static const char *descriptors(const char *dir)
{
	struct dirent *e;
	DIR *fds = opendir(dir);
	if (!fds)
		return ended(-1);
	while ((e = readdir(fds)) != NULL)
		if (isdigit(e->d_name[0]) && atoi(e->d_name) > 2 && (atoi(e->d_name) != dirfd(fds) || strstr(dir, "self") == NULL))
			return yes;
	return "none";
}

static const char *descriptors_own(void) { return descriptors("/proc/self/fd"); }
static const char *descriptors_first(void) { return descriptors("/proc/1/fd"); }

// beneath goes to the root of the mount namespace, which is another than its own where somebody has only called chroot.
static const char *beneath(void)
{
	struct stat before, after;
	int ns = open("/proc/self/ns/mnt", O_RDONLY);
	if (ns < 0 || stat("/", &before) < 0 || setns(ns, CLONE_NEWNS) < 0 || stat("/", &after) < 0)
		return ended(-1);
	return before.st_dev == after.st_dev && before.st_ino == after.st_ino ? "own" : yes;
}

// chroot_out calls chroot once more, below its working directory, and walks up from there.
static const char *chroot_out(void)
{
	struct stat before, after;
	mkdir(place, 01777);
	if (stat("/", &before) < 0 || chdir("/") < 0 || chroot(place) < 0)
		return ended(-1);
	for (int i = 0; i < 100; i++)
		if (chdir("..") < 0)
			return ended(-1);
	if (stat(".", &after) < 0)
		return ended(-1);
	return before.st_dev == after.st_dev && before.st_ino == after.st_ino ? "own" : yes;
}

static const char *set_user_id(void) { return geteuid() == 0 && getuid() != 0 ? yes : "none"; }

// In a machine a directory of the host's disk that is its own to write.
static const char of_the_host[] = "/run/host/net";

static const char *freeze_disk(void)
{
	int fd = open(at(of_the_host), O_RDONLY);
	int frozen = ioctl(fd, FIFREEZE, 0);
	const char *how = ended(frozen);
	if (frozen == 0)
		ioctl(fd, FITHAW, 0);
	return how;
}

static const char *remount_disk(void)
{
	return ended(mount(NULL, at(of_the_host), NULL, MS_REMOUNT | MS_RDONLY, NULL));
}

static const char *watch_disk(void)
{
	int fd = fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_FID, O_RDONLY);
	if (fd < 0)
		return ended(fd);
	return ended(fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN, AT_FDCWD, at(of_the_host)));
}

// A volume that the machine was given read-only, and without programs of others' ids and devices: it takes back one of these.
static const char *volume(unsigned long flags)
{
	return ended(alone() < 0 ? -1 : mount(NULL, at("/readonly"), NULL, MS_REMOUNT | MS_BIND | flags, NULL));
}

static const char *volume_write(void) { return volume(MS_NOSUID | MS_NODEV); }
static const char *volume_set_user_id(void) { return volume(MS_RDONLY | MS_NODEV); }
static const char *volume_devices(void) { return volume(MS_RDONLY | MS_NOSUID); }

// volume_up walks up from a directory of a volume that the host has moved out of it meanwhile.
static const char *volume_up(void)
{
	char byte;
	if (chdir(at("/volume/sub")) < 0)
		return ended(-1);
	fputs("waits\n", stderr);
	while (read(0, &byte, 1) > 0)
		;
	return ended(chdir("../secret"));
}

static const char *hold_opens(void) { return ended(fanotify_init(FAN_CLASS_CONTENT, O_RDONLY)); }

static const char *disk_filesystem(void)
{
	int fs = fsopen("ext4", 0);
	if (fs < 0 || fsconfig(fs, FSCONFIG_SET_STRING, "source", "/nowhere", 0) < 0)
		return "unprepared";
	return passed(fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0), ENOENT);
}

static const char *fuse_device(void) { return ended(open("/dev/fuse", O_RDWR)); }

// What somebody has for all to find who are in the same namespace: hold makes it, and the others look for it.
static const char name[] = "croft-escape";
static const key_t ipc_key = 0x63726f66;

static int socket_at(struct sockaddr_un *addr, socklen_t *len, int type, const char *path)
{
	memset(addr, 0, sizeof *addr);
	addr->sun_family = AF_UNIX;
	strncpy(addr->sun_path + (path[0] == '@'), path + (path[0] == '@'), sizeof addr->sun_path - 2);
	*len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + (path[0] != '@'));
	return socket(AF_UNIX, type, 0);
}

static const char abstract_name[] = "@croft-escape";

// hold keeps it until its stdin ends.
static const char *hold(void)
{
	char byte;
	struct sockaddr_un addr;
	socklen_t len;
	int s = socket_at(&addr, &len, SOCK_STREAM, abstract_name);
	int memory = shmget(ipc_key, 4096, IPC_CREAT | 0666), queue = msgget(ipc_key, IPC_CREAT | 0666), set = semget(ipc_key, 1, IPC_CREAT | 0666);
	mqd_t posix = mq_open("/croft-escape", O_CREAT | O_RDWR, 0666, NULL);
	if (bind(s, (struct sockaddr *)&addr, len) < 0 || listen(s, 5) < 0 || memory < 0 || queue < 0 || set < 0 || posix < 0)
		return ended(-1);
	puts("holds");
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	shmctl(memory, IPC_RMID, NULL);
	msgctl(queue, IPC_RMID, NULL);
	semctl(set, 0, IPC_RMID);
	mq_unlink("/croft-escape");
	return "held";
}

static const char *connects(int type, const char *path)
{
	struct sockaddr_un addr;
	socklen_t len;
	int s = socket_at(&addr, &len, type, path);
	return ended(connect(s, (struct sockaddr *)&addr, len));
}

static const char *abstract_socket(void) { return connects(SOCK_STREAM, abstract_name); }
static const char *keeper_socket(void) { return connects(SOCK_SEQPACKET, at("/run/croft/default/keeper")); }
static const char *shared_memory(void) { return ended(shmget(ipc_key, 0, 0)); }
static const char *message_queue(void) { return ended(msgget(ipc_key, 0)); }
static const char *semaphores(void) { return ended(semget(ipc_key, 0, 0)); }
static const char *posix_queue(void) { return ended(mq_open("/croft-escape", O_RDONLY)); }
static const char *link_of_host(void) { return ended(if_nametoindex(at("lo")) == 0 ? -1 : 0); }

static const char *host_name(void)
{
	return ended(sethostname(name, sizeof name - 1));
}

// Processes by their number, that of one in the host's pid namespace.
static pid_t victim(void) { return target ? atoi(target) : 1; }

static const char *trace(void) { return ended(ptrace(PTRACE_SEIZE, victim(), NULL, NULL)); }
static const char *signal_process(void) { return ended(kill(victim(), 0)); }
static const char *process_handle(void) { return ended(syscall(SYS_pidfd_open, victim(), 0)); }

static const char *read_memory(void)
{
	char byte;
	struct iovec here = { &byte, 1 }, there = { (void *)0x400000, 1 };
	return passed(process_vm_readv(victim(), &here, 1, &there, 1, 0), EFAULT); // nothing is there, but it was looked
}

// Keys: one's own of everybody who is the same user.
static const char *key_add(void)
{
	static char serial[20];
	syscall(SYS_keyctl, KEYCTL_LINK, KEY_SPEC_USER_KEYRING, KEY_SPEC_SESSION_KEYRING); // to possess what is in it
	long key = syscall(SYS_add_key, "user", name, "secret", 6UL, KEY_SPEC_USER_KEYRING);
	if (key < 0 || syscall(SYS_keyctl, KEYCTL_SETPERM, key, 0x3f3f0000UL) < 0)
		return ended(-1);
	snprintf(serial, sizeof serial, "%ld", key);
	return serial;
}

static const char *key_read(void)
{
	char text[20];
	return ended(syscall(SYS_keyctl, KEYCTL_READ, (long)victim(), text, sizeof text));
}

// audit asks the kernel what it logs.
static const char *audit(void)
{
	struct {
		struct nlmsghdr head;
		union {
			struct nlmsgerr err;
			char text[512];
		} body;
	} m;
	memset(&m, 0, sizeof m);
	int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT);
	m.head.nlmsg_len = NLMSG_LENGTH(0);
	m.head.nlmsg_type = AUDIT_GET;
	m.head.nlmsg_flags = NLM_F_REQUEST;
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	if (sendto(s, &m, m.head.nlmsg_len, 0, (struct sockaddr *)&kernel, sizeof kernel) < 0)
		return ended(-1);
	struct pollfd answer = { .fd = s, .events = POLLIN };
	if (poll(&answer, 1, 5000) != 1 || recv(s, &m, sizeof m, 0) < 0)
		return "nothing";
	if (m.head.nlmsg_type != NLMSG_ERROR)
		return yes;
	errno = -m.body.err.error;
	return ended(errno ? -1 : 0);
}

// uevents listens until somebody has written a line to its stdin, and then for what has come meanwhile.
static const char *uevents(void)
{
	char byte;
	struct sockaddr_nl all = { .nl_family = AF_NETLINK, .nl_groups = 1 };
	int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT);
	if (bind(s, (struct sockaddr *)&all, sizeof all) < 0)
		return ended(-1);
	fputs("listens\n", stderr);
	while (read(0, &byte, 1) > 0)
		;
	struct pollfd event = { .fd = s, .events = POLLIN };
	return poll(&event, 1, 0) == 1 ? yes : "nothing";
}

// notify_lie says that a message is from PID 1, and its root.
static const char *notify_lie(void)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(struct ucred))];
	} control;
	struct iovec text = { "READY=1", 7 };
	struct msghdr m = { .msg_iov = &text, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room };
	struct ucred first = { .pid = 1, .uid = 0, .gid = 0 };
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) < 0)
		return ended(-1);
	memset(&control, 0, sizeof control);
	control.head.cmsg_level = SOL_SOCKET;
	control.head.cmsg_type = SCM_CREDENTIALS;
	control.head.cmsg_len = CMSG_LEN(sizeof first);
	memcpy(CMSG_DATA(&control.head), &first, sizeof first);
	return ended(sendmsg(pair[0], &m, 0));
}

// Namespaces: that around one's own; and one's own in the hope that its root may do more.
static const char *namespace_around(void)
{
	int ns = open(at("/proc/self/ns/user"), O_RDONLY);
	return ended(ioctl(ns, NS_GET_PARENT));
}

static const char *namespaces_of_others(void)
{
	char own[300], path[300], first[100], second[100];
	struct dirent *e;
	DIR *proc = opendir("/proc");
	while (proc && (e = readdir(proc)) != NULL) {
		static const char *const kinds[] = { "user", "mnt", "net", "pid", "ipc", "uts", "cgroup" };
		for (size_t i = 0; isdigit(e->d_name[0]) && i < sizeof kinds / sizeof *kinds; i++) {
			snprintf(own, sizeof own, "/proc/self/ns/%s", kinds[i]);
			snprintf(path, sizeof path, "/proc/%s/ns/%s", e->d_name, kinds[i]);
			ssize_t a = readlink(own, first, sizeof first), b = readlink(path, second, sizeof second);
			if (a > 0 && b > 0 && (a != b || memcmp(first, second, (size_t)a) != 0) && open(path, O_RDONLY) >= 0)
				return yes;
		}
	}
	return "own";
}

static const char *nested_root(void)
{
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) < 0)
		return "unprepared";
	return clock_set();
}

// A program of the host's in the machine: croft on its way to the command that it shall execute. What knows it by the end of its name
// is called with its /proc/PID/exe, until it has an answer.
static const char *foreign(const char *(*what)(const char *exe))
{
	const char *ending = at("/croft"), *how = NULL;
	char exe[300], link[4096];
	while (!how) {
		struct dirent *e;
		DIR *proc = opendir("/proc");
		while (proc && !how && (e = readdir(proc)) != NULL) {
			if (!isdigit(e->d_name[0]))
				continue;
			snprintf(exe, sizeof exe, "/proc/%s/exe", e->d_name);
			ssize_t n = readlink(exe, link, sizeof link - 1);
			if (n < 0 && errno == EACCES)
				how = what(NULL);
			if (n < (ssize_t)strlen(ending))
				continue;
			link[n] = 0;
			if (strcmp(link + n - strlen(ending), ending) == 0)
				how = what(exe);
		}
		closedir(proc);
	}
	return how;
}

static const char *seen(const char *exe) { return exe ? yes : "EACCES"; }
static const char *watch_entering(void) { return foreign(seen); }

// overwritten holds the program until nobody executes it any more, and opens it then.
static const char *overwritten(const char *exe)
{
	char held[40];
	int fd = exe ? open(exe, O_PATH) : -1;
	if (fd < 0)
		return NULL;
	snprintf(held, sizeof held, "/proc/self/fd/%d", fd);
	for (;;) {
		int writable = open(held, O_WRONLY);
		if (writable >= 0 || errno != ETXTBSY)
			return ended(writable);
		usleep(1000);
	}
}

static const char *overwrite_program(void) { return foreign(overwritten); }

// For controls: enter is in the machine of a PID for a moment and lets itself be looked at, linger is a program that runs so long.
static const char *linger(void)
{
	usleep(50000);
	return "lingered";
}

static const char *enter(void)
{
	static const char *const kinds[] = { "user", "pid", "mnt" };
	int fds[3];
	for (int i = 0; i < 3; i++) {
		char path[60];
		snprintf(path, sizeof path, "/proc/%d/ns/%s", victim(), kinds[i]);
		fds[i] = open(path, O_RDONLY);
	}
	for (int i = 0; i < 3; i++)
		if (setns(fds[i], 0) < 0)
			return ended(-1);
	if (fork() != 0) {
		wait(NULL);
		return "entered";
	}
	if (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 1) < 0)
		_exit(1);
	linger();
	_exit(0);
}

// Taking all there is. waited is how a child ended that did it.
static const char *waited(pid_t child)
{
	int status;
	if (child < 0 || waitpid(child, &status, 0) < 0)
		return ended(-1);
	if (WIFSIGNALED(status))
		return WTERMSIG(status) == SIGKILL ? "SIGKILL" : "signal";
	return WEXITSTATUS(status) == 0 ? yes : strerrorname_np(WEXITSTATUS(status));
}

static const char *processes_all(void)
{
	enum { many = 500 };
	const char *how = yes;
	pid_t children[many];
	int n = 0;
	for (; n < many && how == yes; n++) {
		children[n] = fork();
		if (children[n] == 0) {
			pause();
			_exit(0);
		}
		how = ended(children[n]);
	}
	for (int i = 0; i < n; i++)
		if (children[i] > 0 && kill(children[i], SIGKILL) == 0)
			waitpid(children[i], NULL, 0);
	return how;
}

enum { much = 192 << 20 };

static const char *memory_all(void)
{
	pid_t child = fork();
	if (child == 0) {
		char *p = mmap(NULL, much, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			_exit(errno);
		memset(p, 1, much);
		_exit(0);
	}
	return waited(child);
}

// memory_files fills a filesystem in memory, which nobody has to swap or to give back.
static const char *memory_files(void)
{
	static char block[1 << 20];
	char path[300];
	snprintf(path, sizeof path, "%s/attempted", at("/dev/shm"));
	pid_t child = fork();
	if (child == 0) {
		int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
		for (size_t i = 0; fd >= 0 && i < much / sizeof block; i++)
			if (write(fd, block, sizeof block) < 0)
				_exit(errno);
		_exit(fd < 0 ? errno : 0);
	}
	const char *how = waited(child);
	unlink(path);
	return how;
}

// What the kernel counts for each user: one of it, and all of it until stdin ends.
static long one_watch(void) { return inotify_init1(0); }

static long one_key(void)
{
	static int count;
	char description[40];
	snprintf(description, sizeof description, "attempted-%d-%d", getpid(), count++);
	return syscall(SYS_add_key, "user", description, "x", 1UL, KEY_SPEC_PROCESS_KEYRING);
}

// What others give back meanwhile is taken, too: the kernel frees keys some time after their last user.
static const char *all_of(long (*one)(void))
{
	struct pollfd in = { .fd = 0, .events = POLLIN };
	const char *told = NULL;
	do {
		for (int i = 0; i < 100000 && one() >= 0; i++)
			;
		if (!told) {
			told = strerrorname_np(errno);
			puts(told);
			fflush(stdout);
		}
	} while (poll(&in, 1, 10) == 0);
	return "held";
}

static const char *watch_one(void) { return ended(one_watch()); }
static const char *watch_all(void) { return all_of(one_watch); }
static const char *key_one(void) { return ended(one_key()); }
static const char *key_all(void) { return all_of(one_key); }

// Cgroups. mount_hierarchy mounts the hierarchies of v1 that this process is in, in a cgroup namespace of its own or not, and opens
// what may be given a command that the host executes.
static const char *mount_hierarchies(int more)
{
	char line[500], controllers[200];
	const char *how = "unprepared";
	FILE *all = fopen("/proc/self/cgroup", "r");
	if (unshare(more) < 0 || alone() < 0)
		return ended(-1);
	while (all && how != yes && fgets(line, sizeof line, all)) {
		if (sscanf(line, "%*d:%199[^:]:", controllers) != 1)
			continue; // v2
		how = ended(mount("none", place, "cgroup", 0, controllers));
		if (how != yes)
			continue;
		static const char *const inside[] = { "/release_agent", "/devices.allow", "/memory.limit_in_bytes", "/pids.max", "/tasks" };
		how = "ENOENT";
		for (size_t i = 0; how != yes && i < sizeof inside / sizeof *inside; i++) {
			char path[100];
			snprintf(path, sizeof path, "%s%s", place, inside[i]);
			int fd = open(path, O_WRONLY);
			if (fd >= 0 || errno != ENOENT)
				how = ended(fd);
		}
		umount2(place, MNT_DETACH);
	}
	return how;
}

static const char *release_agent(void) { return mount_hierarchies(CLONE_NEWNS); }
static const char *release_agent_nested(void) { return mount_hierarchies(CLONE_NEWUSER | CLONE_NEWCGROUP | CLONE_NEWNS); }
static const char *own_limits(void) { return ended(open(at("/sys/fs/cgroup/cgroup.max.descendants"), O_WRONLY)); }
static const char *own_freezer(void) { return ended(open(at("/sys/fs/cgroup/cgroup.kill"), O_WRONLY)); }

// The keys that reboot the host, switched on.
static const char *reboot_keys(void) { return ended(reboot((int)RB_ENABLE_CAD)); }

static const char *io_ports(void)
{
#ifdef __x86_64__
	return ended(iopl(3));
#else
	return "ENOSYS";
#endif
}

static const char *realtime(void)
{
	struct sched_param top = { .sched_priority = 1 };
	return ended(sched_setscheduler(0, SCHED_FIFO, &top));
}

static const char *disk_first(void)
{
	const int whole_process = 1, realtime_class = 1 << 13;
	return ended(syscall(SYS_ioprio_set, whole_process, 0, realtime_class));
}

static const struct {
	const char *name;
	const char *(*try)(void);
} calls[] = {
	{ "sysfs-writable", sysfs_writable },
	{ "kallsyms", kallsyms },
	{ "pagemap", pagemap },
	{ "clock-set", clock_set },
	{ "clock-adjust", clock_adjust },
	{ "perf-host", perf_host },
	{ "perf-kernel", perf_kernel },
	{ "bpf-programs", bpf_programs },
	{ "bpf-load", bpf_load },
	{ "userfaultfd-kernel", userfaultfd_kernel },
	{ "io-uring", io_uring },
	{ "vsock", vsock },
	{ "crypto", crypto },
	{ "type-in", type_in },
	{ "dmesg", dmesg },
	{ "swap-on", swap_on },
	{ "account", account },
	{ "module-load", module_load },
	{ "module-load-file", module_load_file },
	{ "module-remove", module_remove },
	{ "kexec", kexec },
	{ "reboot-keys", reboot_keys },
	{ "io-ports", io_ports },
	{ "realtime", realtime },
	{ "disk-first", disk_first },
	{ "shocker", shocker },
	{ "shocker-compat", shocker_compat },
	{ "make-disk", make_disk },
	{ "make-kernel-log", make_kernel_log },
	{ "read-node", read_node },
	{ "processes", processes },
	{ "descriptors-own", descriptors_own },
	{ "descriptors-first", descriptors_first },
	{ "beneath", beneath },
	{ "chroot-out", chroot_out },
	{ "set-user-id", set_user_id },
	{ "hold", hold },
	{ "abstract-socket", abstract_socket },
	{ "keeper-socket", keeper_socket },
	{ "shared-memory", shared_memory },
	{ "message-queue", message_queue },
	{ "semaphores", semaphores },
	{ "posix-queue", posix_queue },
	{ "link-of-host", link_of_host },
	{ "host-name", host_name },
	{ "trace", trace },
	{ "signal", signal_process },
	{ "process-handle", process_handle },
	{ "read-memory", read_memory },
	{ "key-add", key_add },
	{ "key-read", key_read },
	{ "audit", audit },
	{ "uevents", uevents },
	{ "notify-lie", notify_lie },
	{ "namespace-around", namespace_around },
	{ "namespaces-of-others", namespaces_of_others },
	{ "nested-root", nested_root },
	{ "watch-entering", watch_entering },
	{ "overwrite-program", overwrite_program },
	{ "linger", linger },
	{ "enter", enter },
	{ "processes-all", processes_all },
	{ "memory-all", memory_all },
	{ "memory-files", memory_files },
	{ "watch-one", watch_one },
	{ "watch-all", watch_all },
	{ "key-one", key_one },
	{ "key-all", key_all },
	{ "release-agent", release_agent },
	{ "release-agent-nested", release_agent_nested },
	{ "own-limits", own_limits },
	{ "own-freezer", own_freezer },
	{ "freeze-disk", freeze_disk },
	{ "remount-disk", remount_disk },
	{ "watch-disk", watch_disk },
	{ "volume-write", volume_write },
	{ "volume-set-user-id", volume_set_user_id },
	{ "volume-devices", volume_devices },
	{ "volume-up", volume_up },
	{ "hold-opens", hold_opens },
	{ "disk-filesystem", disk_filesystem },
	{ "fuse-device", fuse_device },
};

// Files of the kernel that are opened for writing.
static const struct {
	const char *name, *file;
} writes[] = {
	{ "core-pattern", "/proc/sys/kernel/core_pattern" },
	{ "poweroff-command", "/proc/sys/kernel/poweroff_cmd" },
	{ "modprobe-path", "/proc/sys/kernel/modprobe" },
	{ "helper-capabilities", "/proc/sys/kernel/usermodehelper/bset" },
	{ "sysctl-kernel", "/proc/sys/kernel/panic" },
	{ "sysctl-memory", "/proc/sys/vm/overcommit_memory" },
	{ "sysctl-files", "/proc/sys/fs/protected_symlinks" },
	{ "sysrq", "/proc/sysrq-trigger" },
	{ "interrupts", "/proc/irq/default_smp_affinity" },
	{ "memory-ranges", "/proc/mtrr" },
	{ "sleep-state", "/sys/power/state" },
	{ "module-parameter", "/sys/module/printk/parameters/time" },
	{ "uevent-trigger", "/sys/devices/virtual/mem/null/uevent" },
	{ "cpu-offline", "/sys/devices/system/cpu/cpu1/online" },
};

// The same of a sysfs that can be written.
static const struct {
	const char *name, *file;
} settings[] = {
	{ "sleep-state-again", "power/state" },
	{ "module-parameter-again", "module/printk/parameters/time" },
	{ "uevent-trigger-again", "devices/virtual/mem/null/uevent" },
	{ "cpu-offline-again", "devices/system/cpu/cpu1/online" },
};

// Files of the kernel that are read.
static const struct {
	const char *name, *file;
} secrets[] = {
	{ "kernel-log", "/proc/kmsg" },
	{ "timer-list", "/proc/timer_list" },
	{ "page-flags", "/proc/kpageflags" },
	{ "slabs", "/proc/slabinfo" },
	{ "kernel-memory", "/proc/kcore" },
};

// Filesystems that show the kernel.
static const struct {
	const char *name, *type;
} filesystems[] = {
	{ "mount-debugfs", "debugfs" },
	{ "mount-tracefs", "tracefs" },
	{ "mount-securityfs", "securityfs" },
	{ "mount-devtmpfs", "devtmpfs" },
	{ "mount-pstore", "pstore" },
};

#define EACH(i, list) for (size_t i = 0; i < sizeof list / sizeof *list; i++)

static const char *attempt(const char *name)
{
	EACH(i, calls)
		if (strcmp(calls[i].name, name) == 0)
			return calls[i].try();
	EACH(i, writes)
		if (strcmp(writes[i].name, name) == 0)
			return ended(open(writes[i].file, O_WRONLY));
	EACH(i, settings)
		if (strcmp(settings[i].name, name) == 0)
			return writes_sys(settings[i].file);
	EACH(i, secrets)
		if (strcmp(secrets[i].name, name) == 0)
			return reads(secrets[i].file);
	EACH(i, filesystems)
		if (strcmp(filesystems[i].name, name) == 0)
			return mounted(filesystems[i].type, NULL);
	return "unknown";
}

int main(int argc, char **argv)
{
	target = argc == 3 ? argv[2] : NULL;
	puts(argc > 1 ? attempt(argv[1]) : "unknown");
	return 0;
}
