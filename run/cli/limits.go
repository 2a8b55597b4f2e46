package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"croft/man"
	"croft/state"

	"github.com/spf13/pflag"
)

// bindLimits binds the flags of limits that have one value.
func bindLimits(fs *pflag.FlagSet, l *state.Limits) {
	fs.VarP((*sizeValue)(&l.Memory), "memory", "m", "let it have `SIZE` of memory at most; what asks for more is killed, in it alone")
	fs.Var((*cpusValue)(&l.CPUs), "cpus", "let it have as much time as `N` processors have, such as 1.5")
	fs.StringVar(&l.CPUSet, "cpu-set", "", "let it run on the processors of `LIST` alone, such as 0-3,6")
	fs.Var((*weightValue)(&l.CPUWeight), "cpu-weight", "where processors are scarce its part is `N` to the 100 of others, 1 to 10000")
	fs.Var((*pidsValue)(&l.PIDs), "pids-limit", fmt.Sprintf("let it have `N` processes and threads at most, or unlimited; default: %d", state.DefaultPIDs))
	fs.Var((*weightValue)(&l.IOWeight), "io-weight", "where a disk is busy its part is `N` to the 100 of others, if the disk's scheduler heeds that (croft doctor)")
}

// cpusValue is a number of processors as a flag: 0.01 and more.
type cpusValue float64

func (v *cpusValue) Type() string { return "cpus" }

func (v *cpusValue) String() string {
	if *v == 0 {
		return ""
	}
	return strconv.FormatFloat(float64(*v), 'f', -1, 64)
}

func (v *cpusValue) Set(s string) error {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f <= 0 || strings.Trim(s, "0123456789.") != "" {
		return errors.New("is no number of processors like 2 or 0.5")
	}
	*v = cpusValue(f)
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

// limitsCPU is LXD's key for two settings of croft: a number of processors is cpus, a list of them cpu-set.
const limitsCPU = "limits.cpu"

func processors() field {
	return field{
		get: func(s *state.Spec) []string {
			if s.Limits.CPUSet != "" {
				return []string{s.Limits.CPUSet}
			}
			return some((*cpusValue)(&s.Limits.CPUs).String())
		},
		put: func(s *state.Spec, values []string) error {
			s.Limits.CPUs, s.Limits.CPUSet = 0, ""
			value, err := only(values)
			switch {
			case err != nil || value == "":
				return err
			case strings.ContainsAny(value, ",-"):
				s.Limits.CPUSet = value
				return nil
			}
			return (*cpusValue)(&s.Limits.CPUs).Set(value)
		},
	}
}

// limitLines say what limits a machine, for people.
func limitLines(l *state.Limits) (out []string) {
	say := func(format string, a ...any) { out = append(out, fmt.Sprintf(format, a...)) }
	if l.Memory > 0 {
		say("%s of memory", sizeText(l.Memory))
	}
	if l.CPUs > 0 {
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
	return out
}
