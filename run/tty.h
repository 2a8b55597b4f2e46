// tty.c: the console of a machine belongs to nobody's session when its init begins.
#ifndef CROFT_TTY_H
#define CROFT_TTY_H

// croft_free_tty takes a terminal away from the session that it controls; 0, or an errno.
int croft_free_tty(int tty);
#endif
