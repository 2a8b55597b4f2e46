// payload.c: the tiny init as bytes.
#ifndef CROFT_PAYLOAD_H
#define CROFT_PAYLOAD_H
#include <stddef.h>

#define PAYLOAD_FD 3 // where it finds its own program open

struct payload {
	const void *code;
	size_t size;  // 0: not for this architecture
	size_t entry; // offset of its first instruction
	size_t trial; // the same of the command of a trial machine
};

struct payload croft_payload(void);
#endif
