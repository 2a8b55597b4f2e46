// Between the starter's last look for signals and the keeper's first lies an execve(2). A signal that came in between
// would be lost or, since execve takes the handlers away, kill the keeper to be, and the machine would be an orphan.
#define _GNU_SOURCE
#include "hold.h"
#include <pthread.h>
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

// hold blocks the signal in the thread that it came to and sends it to the process again, until no thread of it
// takes it any more: what is pending for a process stays so over an execve.
static void hold(int sig, siginfo_t *info, void *context)
{
	(void)info;
	ucontext_t *interrupted = context;
	sigaddset(&interrupted->uc_sigmask, sig);
	kill(getpid(), sig);
}

void croft_hold_signals(void)
{
	static const int held[] = { SIGTERM, SIGINT, SIGQUIT };
	// On the signal stack: those of goroutines are too small.
	struct sigaction action = { .sa_sigaction = hold, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };
	sigset_t mine;
	sigemptyset(&mine);
	for (size_t i = 0; i < sizeof held / sizeof *held; i++)
		sigaddset(&mine, held[i]);
	pthread_sigmask(SIG_BLOCK, &mine, NULL); // this thread alone is left by the execve, and its mask stays
	for (size_t i = 0; i < sizeof held / sizeof *held; i++)
		sigaction(held[i], &action, NULL);
}
