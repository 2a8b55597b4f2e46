// Package idmap decides which ids of the host a machine gets, and makes the user namespace that has them.
//
// Ranges are picked by a pure function from what is excluded; ownership on disk is never changed here.
package idmap

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"croft/state"
)

// Size is the number of ids of a machine: nobody (65534) must be among them.
const Size = 1 << 16

// NestingSize is the number of ids of a machine that gives some of them to machines of its own.
const NestingSize = 1 << 20

// Pool is systemd's range for containers (UIDS-GIDS.md): no distribution gives these ids to users.
var Pool = state.Range{Base: 524288, Size: 1879048192 - 524288}

// Pick gives the lowest range of size ids in pool, aligned to 64 Ki, that overlaps nothing taken.
func Pick(pool state.Range, size uint32, taken []state.Range) (state.Range, error) {
	taken = append([]state.Range(nil), taken...)
	sort.Slice(taken, func(i, j int) bool { return taken[i].Base < taken[j].Base })
	at := align(uint64(pool.Base))
	for _, t := range taken {
		if at+uint64(size) <= uint64(t.Base) {
			break
		}
		if t.End() > at {
			at = align(t.End())
		}
	}
	if at+uint64(size) > pool.End() {
		return state.Range{}, fmt.Errorf("no %d ids are free between %d and %d: %w", size, pool.Base, pool.End(), state.ErrBusy)
	}
	return state.Range{Base: uint32(at), Size: size}, nil
}

// Room counts the ranges that Pick can still give, one after the other.
func Room(pool state.Range, size uint32, taken []state.Range) int {
	behind := state.Range{Base: uint32(pool.End()), Size: 1}
	taken = append([]state.Range{behind}, taken...)
	sort.Slice(taken, func(i, j int) bool { return taken[i].Base < taken[j].Base })
	room, at := 0, align(uint64(pool.Base))
	for _, t := range taken {
		for end := min(uint64(t.Base), pool.End()); at+uint64(size) <= end; at = align(at + uint64(size)) {
			room++
		}
		at = max(at, align(t.End()))
	}
	return room
}

func align(id uint64) uint64 { return (id + Size - 1) &^ (Size - 1) }

// Foreign are the ids of this host that belong to somebody else: those that this user namespace does not have,
// subordinate ids, users and groups, and the ranges that systemd-nspawn holds.
func Foreign() []state.Range {
	all := append(unmapped("/proc/self/uid_map"), unmapped("/proc/self/gid_map")...)
	for _, f := range []string{"/etc/subuid", "/etc/subgid"} {
		all = append(all, Delegated(f)...)
	}
	for _, f := range []string{"/etc/passwd", "/etc/group"} {
		all = append(all, accounts(f)...)
	}
	return append(all, nspawn("/run/systemd/nspawn-uid")...)
}

// Delegated are the ranges of a subuid(5) or subgid(5) file; a missing file delegates nothing.
func Delegated(file string) []state.Range {
	var all []state.Range
	eachLine(file, func(fields []string) {
		if len(fields) == 3 {
			base, err1 := strconv.ParseUint(fields[1], 10, 32)
			size, err2 := strconv.ParseUint(fields[2], 10, 32)
			if err1 == nil && err2 == nil && size > 0 {
				all = append(all, state.Range{Base: uint32(base), Size: uint32(size)})
			}
		}
	})
	return all
}

// unmapped are the ids that a map of user_namespaces(7) leaves out.
func unmapped(file string) []state.Range {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var mapped []state.Range
	for line := range strings.Lines(string(data)) {
		var r state.Range
		var outside uint32
		if _, err := fmt.Sscan(line, &r.Base, &outside, &r.Size); err == nil {
			mapped = append(mapped, r)
		}
	}
	sort.Slice(mapped, func(i, j int) bool { return mapped[i].Base < mapped[j].Base })
	var all []state.Range
	at := uint64(0)
	for _, m := range append(mapped, state.Range{Base: math.MaxUint32}) { // the last id is nobody's anywhere
		if uint64(m.Base) > at {
			all = append(all, state.Range{Base: uint32(at), Size: m.Base - uint32(at)})
		}
		at = max(at, m.End())
	}
	return all
}

func accounts(file string) []state.Range {
	var all []state.Range
	eachLine(file, func(fields []string) {
		if len(fields) > 2 {
			if id, err := strconv.ParseUint(fields[2], 10, 32); err == nil && id >= Size { // below it nobody gets ranges
				all = append(all, state.Range{Base: uint32(id), Size: 1})
			}
		}
	})
	return all
}

// eachLine reads whole files, since a line may have any length: a group has as many members as it has.
func eachLine(file string, line func(fields []string)) {
	data, err := os.ReadFile(file)
	if err != nil {
		return
	}
	for text := range strings.Lines(string(data)) {
		line(strings.Split(strings.TrimSuffix(text, "\n"), ":"))
	}
}

// nspawn reads the lock files that systemd-nspawn names after the ranges it picked.
func nspawn(dir string) []state.Range {
	files, _ := filepath.Glob(filepath.Join(dir, "[0-9]*"))
	var all []state.Range
	for _, f := range files {
		if base, err := strconv.ParseUint(filepath.Base(f), 10, 32); err == nil {
			all = append(all, state.Range{Base: uint32(base), Size: Size})
		}
	}
	return all
}
