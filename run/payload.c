// The tiny init: PID 1 of a machine that boots nothing (--no-boot). It starts the command, passes signals on
// to it, reaps what is orphaned, and ends with the command's status.
//
// The machine can open the program of its PID 1, so that must not be croft. This code stands in a section of
// its own, calls nothing outside of it and uses no data but its stack; payload.go puts an ELF header before
// the section's bytes and has that executed from a sealed memory file.
#include <linux/wait.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include "payload.h"

#if defined(__x86_64__)
#define START(main) "mov %rsp, %rdi\n and $-16, %rsp\n call " main "\n"
#define SYSCALL(n, a, b, c, d) \
	({ long ret; register long r10 __asm__("r10") = d; \
	   __asm__ volatile("syscall" : "=a"(ret) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory"); ret; })
#elif defined(__aarch64__)
#define START(main) "mov x0, sp\n bl " main "\n"
#define SYSCALL(n, a, b, c, d) \
	({ register long x8 __asm__("x8") = n; register long x0 __asm__("x0") = a; register long x1 __asm__("x1") = b; \
	   register long x2 __asm__("x2") = c; register long x3 __asm__("x3") = d; \
	   __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory"); x0; })
#elif defined(__riscv) && __riscv_xlen == 64
#define START(main) "mv a0, sp\n jal " main "\n"
#define SYSCALL(n, a, b, c, d) \
	({ register long a7 __asm__("a7") = n; register long a0 __asm__("a0") = a; register long a1 __asm__("a1") = b; \
	   register long a2 __asm__("a2") = c; register long a3 __asm__("a3") = d; \
	   __asm__ volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2), "r"(a3) : "memory"); a0; })
#endif

#ifdef START

__asm__(".pushsection croft_payload_text, \"ax\", @progbits\n"
	".globl croft_payload_entry\n"
	"croft_payload_entry:\n" START("croft_payload_main")
	".popsection");

#define INLINE static inline __attribute__((always_inline))

enum { CHLD = 17, SET_NAME = 15, CHILD_FAILED = 126, NOT_FOUND = 127, NO_ENTRY = 2, NOT_DIR = 20, DENIED = 13, PATHMAX = 4096 };

INLINE size_t length(const char *s)
{
	size_t n = 0;
	while (s[n]) {
		n++;
		__asm__ volatile(""); // keeps the compiler from making a call of strlen of it
	}
	return n;
}

INLINE void copy(char *to, const char *from, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		to[i] = from[i];
		__asm__ volatile(""); // nor of memcpy
	}
}

// path is the value of PATH, or null.
INLINE const char *path(char **envp)
{
	for (; *envp; envp++) {
		const char *e = *envp;
		if (e[0] == 'P' && e[1] == 'A' && e[2] == 'T' && e[3] == 'H' && e[4] == '=')
			return e + 5;
	}
	return 0;
}

INLINE int is_listen_pid(const char *e)
{
	return e[0] == 'L' && e[1] == 'I' && e[2] == 'S' && e[3] == 'T' && e[4] == 'E' && e[5] == 'N' && e[6] == '_' &&
		e[7] == 'P' && e[8] == 'I' && e[9] == 'D' && e[10] == '=';
}

// put writes a number over the room that was left for it.
INLINE void put(char *to, int n)
{
	char digits[PAYLOAD_PID_ROOM];
	int len = 0;
	for (; n > 0 && len < PAYLOAD_PID_ROOM; n /= 10)
		digits[len++] = (char)('0' + n % 10);
	while (len > 0)
		*to++ = digits[--len];
	*to = 0;
}

// number_in is the one that a name ends with.
INLINE int number_in(const char *name)
{
	int n = 0;
	for (; *name; name++)
		n = *name >= '0' && *name <= '9' ? n * 10 + (*name - '0') : 0;
	return n;
}

// execute replaces the process by the command, and gives the status of a shell that could not.
INLINE int execute(char **argv, char **envp)
{
	const char *name = argv[0], *p = path(envp);
	size_t len = length(name);
	for (size_t i = 0; i < len; i++)
		if (name[i] == '/') {
			long e = SYSCALL(SYS_execve, (long)name, (long)argv, (long)envp, 0);
			return e == -NO_ENTRY || e == -NOT_DIR ? NOT_FOUND : CHILD_FAILED;
		}
	int status = NOT_FOUND;
	while (p && *p) {
		char file[PATHMAX];
		size_t n = 0;
		while (p[n] && p[n] != ':')
			n++;
		if (n > 0 && n + len + 2 <= PATHMAX) {
			copy(file, p, n);
			file[n] = '/';
			copy(file + n + 1, name, len + 1);
			long e = SYSCALL(SYS_execve, (long)file, (long)argv, (long)envp, 0);
			if (e != -NO_ENTRY && e != -NOT_DIR)
				status = CHILD_FAILED;
		}
		p += n + (p[n] == ':');
	}
	return status;
}

// reap collects the dead; the status when the command is among them, else -1.
INLINE int reap(int child)
{
	int found = -1;
	for (;;) {
		int status = 0;
		long pid = SYSCALL(SYS_wait4, -1, (long)&status, WNOHANG, 0);
		if (pid <= 0)
			return found;
		if (pid == child)
			found = (status & 0x7f) ? 128 + (status & 0x7f) : (status >> 8) & 0xff;
	}
}

__attribute__((section("croft_payload_text"), used, noreturn, noinline))
void croft_payload_main(long *sp)
{
	char **argv = (char **)(sp + 1), **envp = argv + sp[0] + 1;
	unsigned long all = ~0UL, before = 0;
	SYSCALL(SYS_close, number_in(argv[0]), 0, 0, 0);
	// Over "/proc/self/fd/N", a name that says what this is. Volatile: four stores at once would take a constant
	// from outside of the section.
	volatile char *me = argv[0];
	while (*me)
		*me++ = 0;
	me = argv[0];
	me[0] = 'i', me[1] = 'n', me[2] = 'i', me[3] = 't';
	SYSCALL(SYS_prctl, SET_NAME, (long)me, 0, 0);
	SYSCALL(SYS_rt_sigprocmask, 0, (long)&all, (long)&before, 8);
	int child = (int)SYSCALL(SYS_clone, CHLD, 0, 0, 0);
	if (child == 0) {
		// A group of its own in the foreground of the terminal, if there is one: ctrl-c is for the command.
		int self = (int)SYSCALL(SYS_getpid, 0, 0, 0, 0);
		SYSCALL(SYS_setpgid, 0, 0, 0, 0);
		SYSCALL(SYS_ioctl, 0, TIOCSPGRP, (long)&self, 0);
		SYSCALL(SYS_rt_sigprocmask, 2, (long)&before, 0, 8);
		for (char **e = envp; *e; e++)
			if (is_listen_pid(*e))
				put(*e + 11, self);
		int status = execute(argv + 1, envp);
		for (;;)
			SYSCALL(SYS_exit_group, status, 0, 0, 0);
	}
	SYSCALL(SYS_close_range, 3, ~0U, 0, 0); // sockets of a unit: the command's alone
	for (;;) {
		long sig = SYSCALL(SYS_rt_sigtimedwait, (long)&all, 0, 0, 8);
		int status = sig == CHLD ? reap(child) : -1;
		while (status >= 0)
			SYSCALL(SYS_exit_group, status, 0, 0, 0);
		if (sig > 0 && sig != CHLD)
			SYSCALL(SYS_kill, child, sig, 0, 0);
	}
}

// The command of a machine made of croft alone (trial.go): with an operand it succeeds at once, without one it rests
// until a signal ends it.
__asm__(".pushsection croft_payload_text, \"ax\", @progbits\n"
	".globl croft_trial_entry\n"
	"croft_trial_entry:\n" START("croft_trial_main")
	".popsection");

__attribute__((section("croft_payload_text"), used, noreturn, noinline))
void croft_trial_main(const long *sp)
{
	while (sp[0] > 1)
		SYSCALL(SYS_exit_group, 0, 0, 0, 0);
	for (;;)
		SYSCALL(SYS_ppoll, 0, 0, 0, 0);
}

// What an init is executed by that is to have no terminal (tty.c), where nobody but the init itself can give it up. As
// PID 1 it does not die of the hangup.
__asm__(".pushsection croft_payload_text, \"ax\", @progbits\n"
	".globl croft_boot_entry\n"
	"croft_boot_entry:\n" START("croft_boot_main")
	".popsection");

__attribute__((section("croft_payload_text"), used, noreturn, noinline))
void croft_boot_main(long *sp)
{
	char **argv = (char **)(sp + 1), **envp = argv + sp[0] + 1;
	SYSCALL(SYS_close, number_in(argv[0]), 0, 0, 0);
	SYSCALL(SYS_ioctl, 0, TIOCNOTTY, 0, 0);
	int status = execute(argv + 1, envp);
	for (;;)
		SYSCALL(SYS_exit_group, status, 0, 0, 0);
}

extern const char croft_trial_entry[], croft_boot_entry[];
extern const char __start_croft_payload_text[], __stop_croft_payload_text[], croft_payload_entry[];

struct payload croft_payload(void)
{
	return (struct payload){ __start_croft_payload_text, (size_t)(__stop_croft_payload_text - __start_croft_payload_text),
		(size_t)(croft_payload_entry - __start_croft_payload_text), (size_t)(croft_trial_entry - __start_croft_payload_text),
		(size_t)(croft_boot_entry - __start_croft_payload_text) };
}

#else

struct payload croft_payload(void)
{
	return (struct payload){ 0, 0, 0, 0, 0 };
}

#endif
