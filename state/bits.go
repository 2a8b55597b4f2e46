//go:build 386 || arm || mips || mipsle

package state

// The ids and offsets that croft deals in do not fit 32 bits; the compiler says so in its own way.
var _ = croft_needs_a_64_bit_machine
