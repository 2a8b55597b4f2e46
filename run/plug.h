// plug.c: mounts in a machine that runs.
#ifndef CROFT_PLUG_H
#define CROFT_PLUG_H
#include "enter.h"

struct plug {
	int userns;       // the machine's; -1: it is in the host's
	int mounts;       // its mount namespace
	const char *from; // what is to be mounted, in the caller's mount namespace; NULL: what is at the target is to be unmounted
	const char *target; // in the machine, absolute, without a link at its end where it is to be unmounted
	const char *dir;  // the directory of that
	const char *name; // and its name there
	int is_dir;       // what is mounted there
	int is_node;      // of a device
	int errors;       // close-on-exec; gets a struct enter_error when it fails
};

// croft_plug forks a process that does it and gives its pid, or -errno.
int croft_plug(const struct plug *p);
#endif
