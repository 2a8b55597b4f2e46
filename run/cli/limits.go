package cli

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"croft/man"
	"croft/state"

	"github.com/spf13/pflag"
)

// bindLimits binds the flags of limits that have one value each.
func bindLimits(fs *pflag.FlagSet, l *state.Limits) {
	fs.VarP(memoryValue{&l.Memory, &l.MemoryPercent}, "memory", "m", "let it have `SIZE` of memory at most, or N% of the host's; what asks for more is killed, in it alone")
	fs.Var(memoryValue{&l.MemorySoft, &l.MemorySoftPercent}, "memory-soft", "take memory above `SIZE`, or N% of the host's, back from it, and slow it down, before anything is killed")
	fs.Var(swapValue{&l.Swap}, "swap", "let it have `SIZE` of swap beside its memory, none (false), or all of the host's (true); default: true")
	fs.Var((*diskValue)(&l.Disk), "disk", "keep `SIZE` of files for it at most: what it writes, and with --storage dir those of the image, too")
	fs.Var(cpusValue{&l.CPUs, &l.CPUPeriod}, "cpus", "let it have as much time as `N` processors have, such as 1.5, or so much of each period: 25ms/100ms")
	fs.StringVar(&l.CPUSet, "cpu-set", "", "let it run on the processors of `LIST` alone, such as 0-3,6")
	fs.Var((*weightValue)(&l.CPUWeight), "cpu-weight", "where processors are scarce its part is `N` to the 100 of others, 1 to 10000")
	fs.Var((*pidsValue)(&l.PIDs), "pids-limit", fmt.Sprintf("let it have `N` processes and threads at most, or unlimited; default: %d", state.DefaultPIDs))
	fs.Var((*weightValue)(&l.IOWeight), "io-weight", "where a disk is busy its part is `N` to the 100 of others, if the disk's scheduler heeds that (croft doctor)")
}

// diskValue is a size that can be unlimited, as a flag.
type diskValue sizeValue

func (v *diskValue) Type() string { return "size" }

func (v *diskValue) String() string { return (*sizeValue)(v).String() }

func (v *diskValue) Set(s string) error {
	if s == unlimited {
		s = "0"
	}
	return (*sizeValue)(v).Set(s)
}

// memoryValue is a size, or a part of the host's memory, as a flag.
type memoryValue struct {
	bytes   *int64
	percent *int
}

func (v memoryValue) Type() string { return "size" }

func (v memoryValue) String() string {
	if *v.percent > 0 {
		return strconv.Itoa(*v.percent) + "%"
	}
	return (*sizeValue)(v.bytes).String()
}

func (v memoryValue) Set(s string) error {
	if s == unlimited {
		*v.bytes, *v.percent = 0, 0
		return nil
	}
	number, part := strings.CutSuffix(s, "%")
	if !part {
		n, err := parseSize(s)
		if err == nil {
			*v.bytes, *v.percent = n, 0
		}
		return err
	}
	n, err := strconv.ParseUint(number, 10, 31)
	if err != nil || n < 1 || n > 100 {
		return errors.New("is none from 1% to 100%")
	}
	*v.bytes, *v.percent = 0, int(n)
	return nil
}

// swapValue is a limit of swap as a flag, as LXD has it.
type swapValue struct{ at **int64 }

func (v swapValue) Type() string { return "swap" }

func (v swapValue) String() string {
	switch {
	case *v.at == nil:
		return ""
	case **v.at == 0:
		return "false"
	}
	return exactSize(**v.at)
}

func (v swapValue) Set(s string) error {
	if s == "true" || s == unlimited {
		*v.at = nil
		return nil
	}
	n := int64(0)
	if s != "false" {
		var err error
		if n, err = parseSize(s); err != nil {
			return errors.New("is neither a size like 1G nor true or false")
		}
	}
	*v.at = &n
	return nil
}

// cpusValue is processor time as a flag: a number of processors, or a part of each period.
type cpusValue struct {
	cpus   *float64
	period *int
}

func (v cpusValue) Type() string { return "cpus" }

func (v cpusValue) String() string {
	switch {
	case *v.cpus == 0:
		return ""
	case *v.period == 0:
		return strconv.FormatFloat(*v.cpus, 'f', -1, 64)
	}
	l := state.Limits{CPUs: *v.cpus, CPUPeriod: *v.period}
	return msText(l.Quota()) + "/" + msText(l.Period())
}

// msText writes microseconds as time is given for --cpus.
func msText(us int64) string {
	return strconv.FormatFloat(float64(us)/1000, 'f', -1, 64) + "ms"
}

func (v cpusValue) Set(s string) error {
	if s == unlimited || s == "0" {
		*v.cpus, *v.period = 0, 0
		return nil
	}
	if part, period, timed := strings.Cut(s, "/"); timed {
		return v.setTime(part, period)
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f <= 0 || strings.Trim(s, "0123456789.") != "" {
		return errors.New("is no number of processors like 2 or 0.5, and no time like 25ms/100ms")
	}
	*v.cpus, *v.period = f, 0
	return nil
}

func (v cpusValue) setTime(part, period string) error {
	a, err := time.ParseDuration(part)
	b, err2 := time.ParseDuration(period)
	if err != nil || err2 != nil || min(a, b) < time.Millisecond || b > time.Second {
		return errors.New("is no time like 25ms/100ms: 1ms or more of each 1ms to 1s")
	}
	*v.cpus, *v.period = float64(a)/float64(b), int(b.Microseconds())
	if *v.period == state.DefaultPeriod {
		*v.period = 0
	}
	return nil
}

// pidsValue is a number of processes as a flag.
type pidsValue int64

const unlimited = "unlimited"

func (v *pidsValue) Type() string { return "pids" }

func (v *pidsValue) String() string {
	switch *v {
	case 0:
		return ""
	case state.Unlimited:
		return unlimited
	}
	return strconv.FormatInt(int64(*v), 10)
}

func (v *pidsValue) Set(s string) error {
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case s == unlimited, s == "-1": // as docker has it
		n = state.Unlimited
	case err != nil || n <= 0:
		return errors.New("is neither a number above 0 nor " + unlimited)
	}
	*v = pidsValue(n)
	return nil
}

// weightValue is a weight as a flag; which ones there are the spec's check says.
type weightValue int

func (v *weightValue) Type() string { return "weight" }

func (v *weightValue) String() string {
	if *v == 0 {
		return ""
	}
	return strconv.Itoa(int(*v))
}

func (v *weightValue) Set(s string) error {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || n == 0 {
		return errors.New("is no number from 1 to 10000")
	}
	*v = weightValue(n)
	return nil
}

func weight(at func(*state.Spec) *int) field {
	return as(at, func(n *int) pflag.Value { return (*weightValue)(n) })
}

func (s *specFlags) disks(out *state.Spec) error {
	for _, text := range s.ioMax {
		m, err := ioMax(text)
		if err != nil {
			return err
		}
		out.Limits.IOMax = append(out.Limits.IOMax, m)
	}
	return nil
}

// ioMax reads PATH:KEY=N[,...], with the keys of the kernel's io.max. A path may have colons, as those in
// /dev/disk/by-path do.
func ioMax(text string) (state.IOMax, error) {
	m := state.IOMax{Device: deviceOf(text)}
	if m.Device == text {
		return m, man.Misused("io-max %q is not PATH:rbps=SIZE,wbps=SIZE,riops=N,wiops=N", text)
	}
	for _, o := range strings.Split(text[len(m.Device)+1:], ",") {
		key, value, _ := strings.Cut(o, "=")
		at := rate(&m, key)
		if at == nil {
			return m, man.Misused("io-max %q: %q is none of rbps, wbps, riops and wiops", text, o)
		}
		n, err := parseSize(value)
		if err == nil && n == 0 {
			err = errors.New("is none")
		}
		if err != nil {
			return m, man.Misused("io-max %q: %s %q %v", text, key, value, err)
		}
		*at = n
	}
	return m, nil
}

// deviceOf is the path in a value of --io-max.
func deviceOf(value string) string {
	if i := strings.LastIndex(value, ":"); i >= 0 {
		return value[:i]
	}
	return value
}

// ioMaxText writes a limit as --io-max takes it.
func ioMaxText(m state.IOMax) string { return m.Device + ":" + ratesText(m) }

func ratesText(m state.IOMax) string {
	var options []string
	for _, key := range rates {
		if n := *rate(&m, key); n > 0 {
			options = append(options, key+"="+exactSize(n))
		}
	}
	return strings.Join(options, ",")
}

var rates = [...]string{"rbps", "wbps", "riops", "wiops"}

// rate is where m keeps that of key; nil when there is none.
func rate(m *state.IOMax, key string) *int64 {
	switch key {
	case "rbps":
		return &m.ReadBytes
	case "wbps":
		return &m.WriteBytes
	case "riops":
		return &m.ReadOps
	case "wiops":
		return &m.WriteOps
	}
	return nil
}

// pages reads the values of --huge-pages, SIZE=BYTES.
func (s *specFlags) pages(out *state.Spec) error {
	for _, text := range s.hugePages {
		size, bytes, given := strings.Cut(text, "=")
		if given && bytes == "" {
			continue // it is lifted
		}
		n, err := parseSize(bytes)
		if err != nil {
			return man.Misused("huge-pages %q is not SIZE=BYTES, such as 2MB=64M", text)
		}
		out.Limits.HugePages = append(out.Limits.HugePages, state.HugePage{Size: size, Bytes: n})
	}
	return nil
}

// processes reads the values of --ulimit, NAME=SOFT[:HARD].
func (s *specFlags) processes(out *state.Spec) error {
	for _, text := range s.ulimits {
		name, value, given := strings.Cut(text, "=")
		if !slices.Contains(state.UlimitNames[:], name) {
			err := &man.Misuse{Say: fmt.Sprintf("ulimit %q: no limit of processes is called so", name)}
			if err.Hint = man.Nearest(name, state.UlimitNames[:]); err.Hint == "" {
				err.Hint = strings.Join(state.UlimitNames[:], ", ")
			}
			return err
		}
		if given && value == "" {
			continue
		}
		soft, hard, two := strings.Cut(value, ":")
		if !two {
			hard = soft
		}
		a, err := ulimitNumber(soft)
		b, err2 := ulimitNumber(hard)
		if err != nil || err2 != nil {
			return man.Misused("ulimit %q is not NAME=SOFT[:HARD] with numbers or unlimited", text)
		}
		out.Limits.Ulimits = append(out.Limits.Ulimits, state.Ulimit{Name: name, Soft: a, Hard: b})
	}
	return nil
}

func ulimitNumber(s string) (int64, error) {
	if s == unlimited || s == "-1" {
		return state.Unlimited, nil
	}
	return parseSize(s)
}

// ulimitText writes a limit of processes as --ulimit takes it.
func ulimitText(u state.Ulimit) string {
	number := func(n int64) string {
		if n == state.Unlimited {
			return unlimited
		}
		return strconv.FormatInt(n, 10)
	}
	text := u.Name + "=" + number(u.Soft)
	if u.Hard != u.Soft {
		text += ":" + number(u.Hard)
	}
	return text
}

// limitLines say what limits a machine, for people.
func limitLines(l *state.Limits) (out []string) {
	say := func(format string, a ...any) { out = append(out, fmt.Sprintf(format, a...)) }
	if text := amountText(l.Memory, l.MemoryPercent); text != "" {
		say("%s of memory", text)
	}
	if text := amountText(l.MemorySoft, l.MemorySoftPercent); text != "" {
		say("%s of memory before it is slowed down", text)
	}
	switch {
	case l.Swap == nil:
	case *l.Swap == 0:
		say("no swap")
	default:
		say("%s of swap", sizeText(*l.Swap))
	}
	switch {
	case l.CPUPeriod > 0:
		say("%s of processor time in each %s", msText(l.Quota()), msText(l.Period()))
	case l.CPUs > 0:
		say("the time of %v processors", l.CPUs)
	}
	if l.CPUSet != "" {
		say("processors %s", l.CPUSet)
	}
	if l.CPUWeight > 0 {
		say("%d of processor time to the 100 of others", l.CPUWeight)
	}
	if n := l.MostPIDs(); n > 0 {
		say("%d processes and threads", n)
	}
	for _, m := range l.IOMax {
		say("%s on the disk of %s", ratesText(m), m.Device)
	}
	if l.IOWeight > 0 {
		say("%d of a disk's time to the 100 of others", l.IOWeight)
	}
	if l.Disk > 0 {
		say("%s of files", sizeText(l.Disk))
	}
	for _, p := range l.HugePages {
		say("%s in huge pages of %s", sizeText(p.Bytes), p.Size)
	}
	for _, u := range l.Ulimits {
		say("%s for each process", ulimitText(u))
	}
	return out
}

// amountText is a size, or a part of the host's memory; empty for no limit.
func amountText(bytes int64, percent int) string {
	switch {
	case percent > 0:
		return strconv.Itoa(percent) + "% of the host's"
	case bytes > 0:
		return sizeText(bytes)
	}
	return ""
}
