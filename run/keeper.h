// The keeper's socket: SOCK_SEQPACKET, one request a packet. Version 1 is for ever; what is unknown is ignored.
#ifndef CROFT_KEEPER_H
#define CROFT_KEEPER_H
#include <stdint.h>

#define KEEPER_MAGIC 0x74667263u // "crft"
#define KEEPER_VERSION 1

// The first packet a client gets; a pidfd of the machine's init comes with it.
struct keeper_hello {
	uint32_t magic;
	uint32_t version;
	int32_t init; // pid as the host sees it
	uint32_t stopping;
};

// The first byte of a client's packet.
#define KEEPER_ATTACH 'A' // console bytes come as packets from now on
#define KEEPER_INPUT 'I'  // the rest goes to the console
#define KEEPER_SIZE 'W'   // rows and columns, uint16 each
#define KEEPER_STOP 'S'   // seconds and 0, uint16 each: cleanly; the end of the connection is the end of it all
#define KEEPER_KILL 'K'   // at once
#define KEEPER_BIND 'B'   // stop the machine when this connection ends
#define KEEPER_UNBIND 'U'
#define KEEPER_WATCH 'X'  // with a descriptor of cgroup.kill: written when this connection ends
#define KEEPER_DONE 'D'   // no longer
#define KEEPER_READY 'Y'  // the machine is up: for an init that does not tell by itself
#endif
