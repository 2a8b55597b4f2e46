package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// sizeText is n bytes for people: "512B", "1.2GiB".
func sizeText(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10) + "B"
	}
	units := "KMGTPE"
	f, i := float64(n)/1024, 0
	for f >= 1023.95 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return strings.TrimSuffix(strconv.FormatFloat(f, 'f', 1, 64), ".0") + units[i:i+1] + "iB"
}

// exactSize is n bytes so that parseSize reads the same number.
func exactSize(n int64) string {
	unit := ""
	for _, u := range [...]string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		if n == 0 || n%1024 != 0 {
			break
		}
		n, unit = n/1024, u
	}
	return strconv.FormatInt(n, 10) + unit
}

// durationText is a time for people, in its two largest units: "12s", "5m30s",
// "3d4h". Below a second it is in milliseconds, and nothing is "0s".
func durationText(d time.Duration) string {
	if d > 0 && d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	units := []struct {
		name string
		d    time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}
	for i, u := range units {
		if d < u.d {
			continue
		}
		text := fmt.Sprintf("%d%s", d/u.d, u.name)
		if rest := d % u.d; i+1 < len(units) && rest >= units[i+1].d {
			text += fmt.Sprintf("%d%s", rest/units[i+1].d, units[i+1].name)
		}
		return text
	}
	return "0s"
}

// parseSize reads "512M", "2GiB", "1.5g", "4096": K M G T P are powers of 1024
// with or without "iB", and powers of 1000 with "B" alone ("MB"), as LXD has it.
func parseSize(s string) (int64, error) {
	digits := strings.TrimRight(s, "KMGTPkmgtpiIbB ")
	f, err := strconv.ParseFloat(digits, 64)
	unit, ok := sizeUnit(strings.ToUpper(strings.TrimSpace(s[len(digits):])))
	if err != nil || !ok || strings.ContainsAny(digits, "xXeEpP_-+nN") {
		return 0, fmt.Errorf("is no size like 512M or 2GiB")
	}
	if f*unit >= math.MaxInt64 {
		return 0, fmt.Errorf("is too large a size")
	}
	return int64(f * unit), nil
}

func sizeUnit(u string) (float64, bool) {
	if u == "" || u == "B" {
		return 1, true
	}
	i := strings.IndexByte("KMGTP", u[0])
	if i < 0 {
		return 0, false
	}
	switch u[1:] {
	case "", "IB":
		return math.Pow(1024, float64(i+1)), true
	case "B":
		return math.Pow(1000, float64(i+1)), true
	}
	return 0, false
}

// parseDuration reads "30s", "5m", "1h30m", "500ms", "2d", "1d12h", and a bare
// number as seconds. There are no negative times.
func parseDuration(s string) (time.Duration, error) {
	wrong := fmt.Errorf("is no time like 30s or 5m")
	text, days := s, int64(0)
	if head, tail, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseUint(head, 10, 16)
		if err != nil {
			return 0, wrong
		}
		text, days = tail, int64(n)
		if text == "" {
			text = "0s"
		}
	}
	if n, err := strconv.ParseFloat(text, 64); err == nil && text == s {
		text = strconv.FormatFloat(n, 'f', -1, 64) + "s"
	}
	d, err := time.ParseDuration(text)
	whole := time.Duration(days) * 24 * time.Hour
	if err != nil || d < 0 || d > math.MaxInt64-whole {
		return 0, wrong
	}
	return d + whole, nil
}

// parseTime reads an RFC 3339 time, a date, or how long ago: "10m".
func parseTime(s string, now time.Time) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	d, err := parseDuration(s)
	if err != nil {
		return time.Time{}, fmt.Errorf("is no time like 2006-01-02T15:04:05Z or 10m (ago)")
	}
	return now.Add(-d), nil
}

// sizeValue is a flag of bytes: fs.Var((*sizeValue)(&spec.Memory), ...). It is a pflag.Value.
type sizeValue int64

func (v *sizeValue) Type() string { return "size" }

func (v *sizeValue) String() string {
	if *v == 0 {
		return ""
	}
	return exactSize(int64(*v))
}

func (v *sizeValue) Set(s string) error {
	n, err := parseSize(s)
	*v = sizeValue(n)
	return err
}

// durationValue is a flag of time that takes days and bare seconds too.
type durationValue time.Duration

func (v *durationValue) Type() string { return "duration" }

func (v *durationValue) String() string {
	if *v == 0 {
		return ""
	}
	return durationText(time.Duration(*v))
}

func (v *durationValue) Set(s string) error {
	d, err := parseDuration(s)
	*v = durationValue(d)
	return err
}

// secondsValue is a flag of time kept in whole seconds, as state keeps them; a
// part of a second counts as a whole one, so that no wish turns into 0.
type secondsValue int

func (v *secondsValue) Type() string { return "duration" }

func (v *secondsValue) String() string {
	if *v == 0 {
		return ""
	}
	// All of its units, unlike durationText: what is printed is read again.
	text := (time.Duration(*v) * time.Second).String()
	if rest, ok := strings.CutSuffix(text, "m0s"); ok {
		text = rest + "m"
	}
	if rest, ok := strings.CutSuffix(text, "h0m"); ok {
		text = rest + "h"
	}
	return text
}

func (v *secondsValue) Set(s string) error {
	d, err := parseDuration(s)
	*v = secondsValue(math.Ceil(d.Seconds()))
	return err
}

// timeValue is a flag of a point in time; the zero time is none.
type timeValue time.Time

func (v *timeValue) Type() string { return "time" }

func (v *timeValue) String() string {
	if time.Time(*v).IsZero() {
		return ""
	}
	return time.Time(*v).Format(time.RFC3339)
}

func (v *timeValue) Set(s string) error {
	t, err := parseTime(s, time.Now())
	*v = timeValue(t)
	return err
}

// choiceValue is a flag that is one of a few words.
type choiceValue struct {
	to    *string
	words []string
}

// oneOf makes a choice that starts as *to is.
func oneOf(to *string, words ...string) *choiceValue { return &choiceValue{to, words} }

func (v *choiceValue) Type() string { return "choice" }

func (v *choiceValue) String() string {
	if v.to == nil { // pflag asks the zero value
		return ""
	}
	return *v.to
}

func (v *choiceValue) Set(s string) error {
	for _, w := range v.words {
		if w == s {
			*v.to = s
			return nil
		}
	}
	return fmt.Errorf("is none of %s", strings.Join(v.words, ", "))
}
