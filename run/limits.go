package run

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"croft/rootfs"
	"croft/state"

	"golang.org/x/sys/unix"
)

// knob is one limit and how the kernel is told it. Of the ways those are taken whose files there are: which version
// of cgroups a host has, and where, is not asked.
type knob struct {
	flag       string // of run
	controller string // as cgroup v2 calls it
	asked      bool   // it must hold: without a controller for it nothing starts
	ways       [][]order
}

// order is what is written to a file of a cgroup, each line by itself.
type order struct {
	file  string
	lines []string
}

// one is a way of a single value.
func one(file, value string) []order { return []order{{file, []string{value}}} }

// knobs are all limits, in cgroup v2 (cgroup-v2.rst) and v1 (cgroup-v1/). One that is not asked for is lifted. rules
// are of all disks that have or had a limit. It is pure.
func knobs(l *state.Limits, rules []rule) []knob {
	swap, both := "max", "-1" // v1 has no limit of swap but one of memory and swap together
	if l.Swap != nil {
		swap, both = strconv.FormatInt(*l.Swap, 10), strconv.FormatInt(l.Memory+*l.Swap, 10)
	}
	quota, period := l.Quota(), strconv.FormatInt(l.Period(), 10)
	all := []knob{
		// Swap first: v2 then knows what else there is room for when the memory shrinks. v1 wants the sum to be above the
		// memory at every moment, so it is lifted, and limited again behind the memory.
		{"swap", "memory", l.Swap != nil, [][]order{one("memory.swap.max", swap), one(sumFile, "-1")}},
		{"memory", "memory", l.Memory > 0, [][]order{
			one("memory.max", most(l.Memory, "max")),
			one(sumFile, "-1"), one("memory.limit_in_bytes", most(l.Memory, "-1")), one(sumFile, both)}},
		{"memory-soft", "memory", l.MemorySoft > 0, [][]order{
			one("memory.high", most(l.MemorySoft, "max")), one("memory.soft_limit_in_bytes", most(l.MemorySoft, "-1"))}},
		{"cpus", "cpu", quota > 0, [][]order{
			one("cpu.max", most(quota, "max")+" "+period),
			{{"cpu.cfs_period_us", []string{period}}, {"cpu.cfs_quota_us", []string{most(quota, "-1")}}}}},
		{"cpu-set", "cpuset", l.CPUSet != "", [][]order{one("cpuset.cpus", l.CPUSet)}},
		{"cpu-weight", "cpu", l.CPUWeight > 0, [][]order{
			one("cpu.weight", strconv.Itoa(weight(l.CPUWeight))), one("cpu.shares", strconv.Itoa(shares(l.CPUWeight)))}},
		{"pids-limit", "pids", l.PIDs > 0, [][]order{one("pids.max", most(l.MostPIDs(), "max"))}}, // of both
		{"io-max", "io", len(l.IOMax) > 0, ioMax(rules)},
		{"io-weight", "io", l.IOWeight > 0, [][]order{
			one("io.weight", fmt.Sprint("default ", weight(l.IOWeight))), one("io.bfq.weight", strconv.Itoa(bfq(l.IOWeight))),
			one("blkio.bfq.weight", strconv.Itoa(bfq(l.IOWeight)))}},
	}
	for _, size := range state.HugePageSizes {
		v2, asked := "max", false
		for _, p := range l.HugePages {
			if p.Size == size {
				v2, asked = strconv.FormatInt(p.Bytes, 10), true
			}
		}
		v1 := v2
		if !asked {
			v1 = "-1"
		}
		all = append(all, knob{"huge-pages", "hugetlb", asked, [][]order{
			one("hugetlb."+size+".max", v2), one("hugetlb."+size+".limit_in_bytes", v1)}})
	}
	return all
}

// sumFile is v1's limit of memory and swap together, where the kernel counts that.
const sumFile = "memory.memsw.limit_in_bytes"

// most writes a limit, or what stands for none.
func most(n int64, none string) string {
	if n <= 0 {
		return none
	}
	return strconv.FormatInt(n, 10)
}

// weight is the kernel's own where none is asked for.
func weight(n int) int {
	if n == 0 {
		return 100
	}
	return n
}

// shares is a weight of processor time as v1 has it, 2 to 262144 with 1024 in the middle.
func shares(n int) int { return min(max(weight(n)*1024/100, 2), 262144) }

// bfq is a weight of io as that scheduler has it, 1 to 1000 with 100 in the middle; systemd reckons so.
func bfq(n int) int {
	if n = weight(n); n > 100 {
		return 100 + (n-100)*900/9900
	}
	return n
}

// rule is a limit of one disk, whose number is MAJOR:MINOR.
type rule struct {
	number string
	state.IOMax
}

func ioMax(rules []rule) [][]order {
	var v2 []string
	v1 := []order{{file: "blkio.throttle.read_bps_device"}, {file: "blkio.throttle.write_bps_device"},
		{file: "blkio.throttle.read_iops_device"}, {file: "blkio.throttle.write_iops_device"}}
	for _, r := range rules {
		line := r.number
		for i, n := range []int64{r.ReadBytes, r.WriteBytes, r.ReadOps, r.WriteOps} {
			line += " " + []string{"rbps", "wbps", "riops", "wiops"}[i] + "=" + most(n, "max")
			v1[i].lines = append(v1[i].lines, r.number+" "+strconv.FormatInt(n, 10))
		}
		v2 = append(v2, line)
	}
	return [][]order{{{"io.max", v2}}, v1}
}

// rulesFor are the rules of wanted, and empty ones of the disks that had others before. A disk of those may be gone.
func rulesFor(wanted, before []state.IOMax) ([]rule, error) {
	var rules []rule
	seen := map[string]bool{}
	for _, m := range wanted {
		number, err := diskOf(m.Device)
		if err == nil && seen[number] {
			err = fmt.Errorf("is the same disk as another: %w", state.ErrInvalid)
		}
		if err != nil {
			return nil, fmt.Errorf("--io-max %s: %w", m.Device, err)
		}
		seen[number] = true
		rules = append(rules, rule{number, m})
	}
	for _, m := range before {
		if number, err := diskOf(m.Device); err == nil && !seen[number] {
			seen[number] = true
			rules = append(rules, rule{number: number})
		}
	}
	return rules, nil
}

// diskOf finds the disk that path is the node of, or lies on: the kernel limits whole ones, and no partitions.
func diskOf(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", err
	}
	dev := st.Dev
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		dev = st.Rdev
	case unix.S_IFCHR:
		return "", fmt.Errorf("is no disk: %w", state.ErrInvalid)
	}
	at := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(dev), unix.Minor(dev))
	if !exists(at) {
		err := fmt.Errorf("is on no disk of its own: %w", state.ErrUnsupported)
		return "", state.Hint(err, "name the disk: lsblk prints them")
	}
	if exists(at + "/partition") {
		at += "/.."
	}
	number, err := os.ReadFile(at + "/dev")
	return strings.TrimSpace(string(number)), err
}

// free is a machine that nothing limits, as a new cgroup is.
func free() *state.Limits { return &state.Limits{PIDs: state.Unlimited} }

// setLimits changes what holds in the cgroups of a machine from before to after. What both have alike is not written.
func setLimits(cgroups []string, before, after *state.Limits) error {
	rules, err := rulesFor(after.IOMax, before.IOMax)
	if err != nil {
		return err
	}
	old, _ := rulesFor(before.IOMax, after.IOMax) // compared, and never written
	was := knobs(before, old)
	for i, k := range knobs(after, rules) {
		if fmt.Sprint(k.ways) == fmt.Sprint(was[i].ways) {
			continue
		}
		if err := k.turn(cgroups); err != nil {
			return err
		}
	}
	return nil
}

// turn writes the knob where there are files for it.
func (k knob) turn(cgroups []string) error {
	found := false
	for _, way := range k.ways {
		for _, dir := range cgroups {
			if !exists(filepath.Join(dir, way[0].file)) {
				continue
			}
			found = true
			for _, o := range way {
				if err := o.write(dir); err != nil {
					return k.refused(err)
				}
			}
		}
	}
	if !found && k.asked {
		return k.missing()
	}
	return nil
}

func (o order) write(dir string) error {
	for _, line := range o.lines {
		if n := number(line); o.file == "memory.max" && n != nil {
			if err := fits(dir, *n); err != nil {
				return err
			}
		}
		err := os.WriteFile(filepath.Join(dir, o.file), []byte(line+"\n"), 0)
		if line == "" && errors.Is(err, unix.ENOSPC) { // a cpuset with processes keeps some processors: all that there are
			err = os.WriteFile(filepath.Join(dir, o.file), allProcessors(dir), 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fits is EBUSY when the cgroup holds more than n bytes that the kernel cannot take back: what is neither cached nor
// has room in the swap. v1 finds out by itself when a limit is lowered; v2 would kill until the rest fits, the
// machine's init at last. To have it tried (memory.reclaim) can take minutes.
func fits(dir string, n int64) error {
	text, err := os.ReadFile(filepath.Join(dir, "memory.current"))
	held := number(string(text))
	if err != nil || held == nil {
		return err
	}
	stat, _ := os.ReadFile(filepath.Join(dir, "memory.stat"))
	for _, key := range [...]string{"active_file", "inactive_file", "slab_reclaimable"} {
		if cached := keyed(string(stat), key); cached != nil {
			*held -= *cached
		}
	}
	info, err := meminfo()
	if err == nil && *held-min(int64(info["SwapFree"])<<10, swapLeft(dir)) > n {
		err = unix.EBUSY
	}
	return err
}

// swapLeft is how much more swap the limit of a v2 cgroup allows.
func swapLeft(dir string) int64 {
	limit, err := os.ReadFile(filepath.Join(dir, "memory.swap.max"))
	most := number(string(limit))
	if err != nil || most == nil {
		return math.MaxInt64
	}
	text, _ := os.ReadFile(filepath.Join(dir, "memory.swap.current"))
	if used := number(string(text)); used != nil {
		*most -= *used
	}
	return max(*most, 0)
}

// allProcessors lists those that a cpuset may have: in v2 more than the one above it, whatever that has at the moment.
func allProcessors(dir string) []byte {
	if exists(filepath.Join(dir, "cpuset.cpus.effective")) {
		return []byte(online())
	}
	text, _ := os.ReadFile(filepath.Join(filepath.Dir(dir), "cpuset.cpus"))
	return text
}

// online lists the processors of this host; "" when that cannot be found out.
func online() string {
	text, _ := os.ReadFile("/sys/devices/system/cpu/online")
	return strings.TrimSpace(string(text))
}

// refused says why the kernel does not want a limit.
func (k knob) refused(err error) error {
	switch {
	case errors.Is(err, unix.EBUSY) && k.controller == "memory":
		return fmt.Errorf("--memory: the machine uses more, and the kernel cannot take it back: %w", state.ErrBusy)
	case k.controller == "cpuset":
		return fmt.Errorf("--cpu-set: none of these processors may be used here: %w", err)
	}
	return fmt.Errorf("--%s: %w", k.flag, err)
}

// missing says why there is no controller, and what helps.
func (k knob) missing() error {
	have, _ := controllersHere()
	if k.flag == "swap" && slices.Contains(have, k.controller) {
		return state.Hint(fmt.Errorf("--swap: this kernel does not count it: %w", state.ErrUnsupported), "boot with swapaccount=1")
	}
	err := fmt.Errorf("--%s: the machine's cgroup has no controller of %s: %w", k.flag, k.controller, state.ErrUnsupported)
	if k.flag == "huge-pages" {
		return state.Hint(err, "--supervisor none, where the host has cgroup v2 alone: systemd need not hand this controller to units")
	}
	if k.flag != "io-weight" && slices.Contains(have, k.controller) { // but not in that cgroup
		return state.Hint(err, "Delegate=yes in the unit that croft is started in, or systemd-run --scope -p Delegate=yes croft ...")
	}
	return state.Hint(err, "croft doctor")
}

// holdLimits limits the machine while its init waits. Nobody changes the record meanwhile, so that what is set at
// this moment comes before or after.
func holdLimits(_ context.Context, l *launch) error {
	return l.engine.Dir.Look(l.Instance.Spec.Name, func(in *state.Instance) error {
		asked := &in.Applied.Spec.Limits
		if err := setLimits(l.Cgroups, free(), sized(asked)); err != nil {
			return err
		}
		if err := l.engine.limitDisk(in); err != nil {
			return err
		}
		return setUlimits(l.container.pid, in.Facts.Range, asked.Ulimits)
	})
}

// sized are the limits on this host, with parts of its memory as sizes.
func sized(l *state.Limits) *state.Limits { return l.On(memoryTotal()) }

func memoryTotal() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil { // it fails for no process of ours
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

// relimit has what runs follow a change of in, whose record is about to be written: all of it or nothing.
func (e *Engine) relimit(in *state.Instance) error {
	held, err := e.Dir.Claimed(in.Spec.Name)
	if err != nil {
		return err
	}
	if !held { // its unit may be there, and yet to begin
		return e.relimitUnit(in.Spec.Name, free(), sized(&in.Spec.Limits))
	}
	var now state.Applied // of a machine that waits for its restart there is none
	if in.Applied != nil {
		now = *in.Applied
	}
	there := len(now.Cgroups) > 0 && exists(now.Cgroups[0]) // else it is about to be made, and read from the record
	was, is := sized(&now.Spec.Limits), sized(&in.Spec.Limits)
	if there {
		err = errors.Join(setLimits(now.Cgroups, was, is), changeUlimits(&now, was.Ulimits, is.Ulimits))
	}
	if err == nil {
		err = e.relimitUnit(in.Spec.Name, was, is)
	}
	if err != nil && there {
		return errors.Join(err, setLimits(now.Cgroups, is, was), changeUlimits(&now, is.Ulimits, was.Ulimits))
	}
	if err != nil {
		return err
	}
	if in.Applied != nil {
		now.Spec.Limits = in.Spec.Limits
		in.Applied = &now
	}
	return nil
}

// checkLimits wants the host to be as large as what is asked of it: more is a slip of the hand. On a host that has shrunk
// since a machine starts all the same, since such a limit holds by itself.
func (e *Engine) checkLimits(l *state.Limits) error {
	if l.Disk > 0 {
		if err := rootfs.CanLimit(e.Dir.Roots()); err != nil {
			return fmt.Errorf("--disk: %w", err)
		}
	}
	var v state.Violations
	if has := memoryTotal(); l.Memory > has {
		v = append(v, fmt.Sprintf("memory: %d MiB are more than the %d MiB of this host", l.Memory>>20, has>>20))
	}
	if on := sized(l); l.MemorySoft > 0 && on.Memory > 0 && l.MemorySoft > on.Memory {
		v = append(v, fmt.Sprintf("memory-soft: %d MiB are more than the %d MiB of memory", l.MemorySoft>>20, on.Memory>>20))
	}
	if l.CPUs > 0 || l.CPUSet != "" {
		v = append(v, checkCPUs(l)...)
	}
	if _, err := rulesFor(l.IOMax, nil); err != nil {
		return errors.Join(err, v.Err())
	}
	return v.Err()
}

func checkCPUs(l *state.Limits) (v state.Violations) {
	list := online()
	has, err := state.CPUList(list)
	if err != nil || has == nil {
		return nil // the kernel will say so
	}
	if l.CPUs > float64(len(has)) {
		v = append(v, fmt.Sprintf("cpus: %v are more than the %d of this host", l.CPUs, len(has)))
	}
	there := map[int]bool{}
	for _, n := range has {
		there[n] = true
	}
	wanted, _ := state.CPUList(l.CPUSet)
	for _, n := range wanted {
		if !there[n] {
			return append(v, fmt.Sprintf("cpu-set: %s has processors that this host has not: its own are %s", l.CPUSet, list))
		}
	}
	return v
}
