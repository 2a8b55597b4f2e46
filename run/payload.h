// payload.c: the tiny init as bytes.
#ifndef CROFT_PAYLOAD_H
#define CROFT_PAYLOAD_H
#include <stddef.h>

// It is executed as /proc/self/fd/N, and closes its program by that name. A LISTEN_PID in its environment gets the pid
// of the command, and must have room for that many digits.
#define PAYLOAD_PID_ROOM 10

struct payload {
	const void *code;
	size_t size;  // 0: not for this architecture
	size_t entry; // offset of its first instruction
	size_t trial; // the same of the command of a trial machine
	size_t boot;  // of what an init is executed by that is to have no terminal
};

struct payload croft_payload(void);
#endif
