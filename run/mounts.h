// mounts.c: a mount namespace of its own for the process that starts a machine.
#ifndef CROFT_MOUNTS_H
#define CROFT_MOUNTS_H

// Descriptor of the host's mount namespace where this process has left it, -errno where it could not, and 0
// where it was not to.
extern int croft_host_mounts;
#endif
