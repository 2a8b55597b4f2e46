package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"croft/man"
	"croft/run"
	"croft/state"

	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// load is one row of top; its JSON names are a promise (docs/json.md). nil: this host does not count it.
type load struct {
	Name        string   `json:"name"`
	CPU         *float64 `json:"cpu_percent"` // of one processor
	Memory      *int64   `json:"memory_bytes"`
	MemoryLimit *int64   `json:"memory_limit_bytes"`
	Tasks       *int64   `json:"tasks"`
	Read        *int64   `json:"read_bytes"`
	Written     *int64   `json:"written_bytes"`
	OOMKills    *int64   `json:"oom_kills"`
	Uptime      int64    `json:"uptime_seconds"`
}

func loadView() view[load] {
	return view[load]{
		{Head: "NAME", Cell: func(l load) string { return l.Name }},
		{Head: "CPU", Cell: func(l load) string {
			if l.CPU == nil {
				return "-"
			}
			return strconv.FormatFloat(*l.CPU, 'f', 1, 64) + "%"
		}},
		{Head: "MEMORY", Cell: func(l load) string { return sizeOrDash(l.Memory) }},
		{Head: "LIMIT", Cell: func(l load) string { return sizeOrDash(l.MemoryLimit) }},
		{Head: "TASKS", Cell: func(l load) string { return numberOrDash(l.Tasks) }},
		{Head: "READ", Cell: func(l load) string { return sizeOrDash(l.Read) }},
		{Head: "WRITTEN", Cell: func(l load) string { return sizeOrDash(l.Written) }},
		{Head: "UPTIME", Cell: func(l load) string { return durationText(time.Duration(l.Uptime) * time.Second) }},
	}
}

func sizeOrDash(n *int64) string {
	if n == nil {
		return "-"
	}
	return sizeText(*n)
}

func timeOrDash(d *time.Duration) string {
	if d == nil {
		return "-"
	}
	return durationText(*d)
}

func numberOrDash(n *int64) string {
	if n == nil {
		return "-"
	}
	return strconv.FormatInt(*n, 10)
}

// The time between two looks: of the first, which shall be soon, and of all others.
const (
	topFirst = 500 * time.Millisecond
	topEvery = 2 * time.Second
)

func (a *app) top() func(*pflag.FlagSet) man.Run {
	return func(fs *pflag.FlagSet) man.Run {
		format := formatValue("table")
		once := fs.Bool("once", false, "print one table and end; so it is where stdout is no terminal")
		fs.Var(&format, "format", "print `table|json|yaml|csv|TEMPLATE`, once")
		return func(ctx context.Context, names []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			if err := areRunning(e, names); err != nil {
				return err
			}
			m := &meter{engine: e, names: names}
			if _, err := m.loads(); err != nil {
				return err
			}
			if !*once && format == "table" && isTerminal(os.Stdout) {
				return watch(ctx, m)
			}
			time.Sleep(topFirst)
			rows, err := m.loads()
			if err != nil {
				return err
			}
			return loadView().write(os.Stdout, string(format), rows)
		}
	}
}

// areRunning wants those that are named to be there and to run.
func areRunning(e *run.Engine, names []string) error {
	for _, name := range names {
		in, err := e.Dir.Get(name)
		if err != nil {
			return err
		}
		if st, err := e.Dir.Status(in); err != nil || st.State == state.Stopped {
			return errors.Join(err, state.Hint(fmt.Errorf("%s: %w", name, state.ErrNotRunning), "croft start "+name))
		}
	}
	return nil
}

// meter looks at machines again and again: the processor's load is the difference of two looks.
type meter struct {
	engine *run.Engine
	names  []string // none: all
	last   map[string]look
}

// look is what a machine had used at a time, since the start that its id stands for.
type look struct {
	started, at time.Time
	cpu         *time.Duration
}

// loads are those of the machines that run, the busiest first. The first time there is no load of the processor yet.
func (m *meter) loads() ([]load, error) {
	all, _, err := m.engine.Dir.List()
	if err != nil {
		return nil, err
	}
	rows, now := []load{}, map[string]look{}
	for _, in := range all {
		name := in.Spec.Name
		if len(m.names) > 0 && !slices.Contains(m.names, name) {
			continue
		}
		st, err := m.engine.Dir.Status(in)
		if err != nil {
			return nil, err
		}
		if st.State == state.Stopped || in.Applied == nil {
			continue
		}
		u, at := run.UsageOf(in.Applied), time.Now()
		now[name] = look{in.Applied.Started, at, u.CPU}
		rows = append(rows, load{
			Name: name, CPU: percent(m.last[name], now[name]), Memory: u.Memory, MemoryLimit: u.MemoryLimit,
			Tasks: u.Tasks, Read: u.Read, Written: u.Written, OOMKills: u.OOMKills, Uptime: int64(at.Sub(in.Applied.Started) / time.Second),
		})
	}
	m.last = now
	slices.SortStableFunc(rows, func(a, b load) int {
		return cmp.Or(cmp.Compare(value(b.CPU), value(a.CPU)), cmp.Compare(value(b.Memory), value(a.Memory)))
	})
	return rows, nil
}

// percent is how much of one processor was used between two looks at the same run of a machine.
func percent(before, now look) *float64 {
	if before.cpu == nil || now.cpu == nil || !before.started.Equal(now.started) {
		return nil
	}
	p := 100 * float64(*now.cpu-*before.cpu) / float64(now.at.Sub(before.at))
	return &p
}

func value[T int64 | float64](p *T) T {
	if p == nil {
		return 0
	}
	return *p
}

// watch shows the loads on the terminal until q, ctrl-c or a signal, and leaves it as it was.
func watch(ctx context.Context, m *meter) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGWINCH, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	quit := make(chan bool, 1)
	if isTerminal(os.Stdin) {
		saved, err := term.MakeRaw(int(os.Stdin.Fd()))
		if err != nil {
			return err
		}
		defer term.Restore(int(os.Stdin.Fd()), saved)
		go waitForQuit(quit)
	}
	fmt.Print("\x1b[?1049h\x1b[?25l")       // the other screen, no cursor
	defer fmt.Print("\x1b[?25h\x1b[?1049l") // and back: what was there is there again
	next := time.After(topFirst)
	for {
		select {
		case <-next:
			next = time.After(topEvery)
			rows, err := m.loads()
			if err != nil {
				return err
			}
			if err := draw(rows); err != nil {
				return err
			}
		case sig := <-signals:
			if sig != syscall.SIGWINCH {
				return nil
			}
			next = time.After(0)
		case <-quit:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

func waitForQuit(quit chan<- bool) {
	var key [1]byte
	for {
		switch _, err := os.Stdin.Read(key[:]); {
		case err != nil, strings.ContainsRune("qQ\x03\x04", rune(key[0])):
			quit <- true
			return
		}
	}
}

// draw fills the screen with as much as it has room for. Raw, the terminal wants a carriage return of its own.
func draw(rows []load) error {
	var text bytes.Buffer
	fmt.Fprintf(&text, "%s  %d running  q leaves\n\n", time.Now().Format(time.TimeOnly), len(rows))
	if err := loadView().table(&text, rows); err != nil {
		return err
	}
	width, height, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil || width <= 0 || height <= 0 { // a serial line has no size
		width, height = 80, 24
	}
	lines := strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n")
	lines = lines[:min(len(lines), height)]
	for i, line := range lines {
		lines[i] = line[:min(len(line), width)] + "\x1b[K" // names are ASCII, and so is all else
	}
	_, err = os.Stdout.WriteString("\x1b[H" + strings.Join(lines, "\r\n") + "\x1b[J")
	return err
}
