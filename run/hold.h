// hold.c: signals that come while one program replaces another.
#ifndef CROFT_HOLD_H
#define CROFT_HOLD_H

// croft_hold_signals leaves SIGTERM, SIGINT and SIGQUIT pending from now on, for the program that the calling thread
// executes next.
void croft_hold_signals(void);
#endif
