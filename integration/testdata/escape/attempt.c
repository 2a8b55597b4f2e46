// attempt NAME tries one thing that a machine's root might do to get out, and prints how that ended: "succeeded", the errno of the
// call that was refused, or a word for what it got instead. It is the same program in the machine and in the control, where the wall
// is off: so whatever it gets hold of it leaves as it is. A file that only root may write is opened for it and not written; a call
// that changes the kernel is made with a value that the kernel looks at only once it has let the caller pass, and refuses then.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <unistd.h>

static const char yes[] = "succeeded";

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
	{ "dmesg", dmesg },
	{ "swap-on", swap_on },
	{ "account", account },
	{ "module-load", module_load },
	{ "module-load-file", module_load_file },
	{ "module-remove", module_remove },
	{ "kexec", kexec },
	{ "io-ports", io_ports },
	{ "realtime", realtime },
	{ "disk-first", disk_first },
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
	puts(argc == 2 ? attempt(argv[1]) : "unknown");
	return 0;
}
