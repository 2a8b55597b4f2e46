# What the scripts that break things share: `. "$FAULTS"` in bash. A fault test prints what it tried, and the seed of what it picked at
# random: CROFT_TEST_SEED=N makes it pick the same again.
set -u
RANDOM=$SEED

# crofts: the pids of all that runs from this script's croft.
crofts() { find /proc -maxdepth 2 -name exe -lname "$CROFT_BIN" 2>/dev/null | cut -d/ -f3; }

# slay PID...: SIGKILL, and the end of all that they had open, locks above all, before it returns.
slay() {
	local pid
	kill -9 "$@" 2>/dev/null
	for pid; do
		while [[ $(cat /proc/"$pid"/task/*/stat 2>/dev/null) == *") "[^ZX]* ]]; do sleep 0.01; done
	done
}

# soon COMMAND...: an end within 30 s, whatever its status.
soon() {
	timeout 30 "$@" # whose own status may be 137, of a command that died with its machine
	local status=$?
	[ $status != 124 ] || fail "$*: it does not end"
	return $status
}

# must COMMAND...: success, soon; what it printed is shown only when it fails.
must() { soon "$@" >must.log 2>&1 || fail "$*: status $?: $(cat must.log)"; }

# fail TEXT: says what was tried last ($try), and what there is now.
fail() {
	echo "FAIL: seed $SEED, ${try-}: $*"
	croft list
	ps -fp "$(crofts | paste -sd, | sed "s|^$|1|")"
	exit 1
} >&2

# strays NAME...: what is there that belongs to no record when NAME... are all the records, and none of them runs.
strays() {
	local known
	known=$(printf '%s\n' "$@" .lock .seccomp)
	find /sys/fs/cgroup -path "*/$TAG*"
	find "$CROFT_ROOT" \( -name '.new-*' -o -name '.gone-*' \)
	ls -A "$CROFT_ROOT/instances" | grep -vxF "$known"
	ls -A "$CROFT_ROOT/roots" | grep -vxF "$known"
	ls -A "$CROFT_RUN" | grep -v '^\.seccomp-\|^\.apparmor-\|lock$'
	grep "$WORK" /proc/self/mountinfo
	losetup --list --noheadings --output BACK-FILE | grep "$WORK"
	crofts | sed 's/^/process /'
	local file
	for file in $(grep -l "\"$CROFT_ROOT\"" /run/croft-host/ids/* 2>/dev/null); do
		[ $# -gt 0 ] && grep -qE "\"name\":\"($(IFS='|'; echo "$*"))\"" "$file" || echo "$file: $(cat "$file")"
	done
	return 0
}

# manifest DIR: everything of a tree, to compare.
manifest() {
	(cd "$1" && find . -mindepth 1 -printf '%y %m %U:%G %P -> %l\n' | sort && find . -type f -print0 | sort -z | xargs -0r sha256sum)
}
