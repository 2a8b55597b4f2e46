package cli

import (
	"testing"
	"time"
)

func TestSizeText(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0B", 1023: "1023B", 1024: "1KiB", 1536: "1.5KiB", 1<<20 - 1: "1MiB", 1 << 20: "1MiB",
		1288490189: "1.2GiB", 5 << 40: "5TiB", 1<<63 - 1: "8EiB",
	} {
		if got := sizeText(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"512M": 512 << 20, "512m": 512 << 20, "2GiB": 2 << 30, "2gib": 2 << 30, "1.5g": 3 << 29, "4096": 4096, "10B": 10,
		"1MB": 1000000, "1kB": 1000, "1 GiB": 1 << 30, "0": 0, "1P": 1 << 50,
	} {
		if got, err := parseSize(s); err != nil || got != want {
			t.Errorf("%s: got %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "M", "-1", "-1M", "1e3", "0x10", "inf", "NaN", "1X", "1MMiB", "1iB", "99999999T", "1_000", "5Mi"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("%q: got %d, want an error", s, got)
		}
	}
}

func TestDurationText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", -time.Second: "0s", 12 * time.Second: "12s", 850 * time.Millisecond: "850ms", 90 * time.Second: "1m30s",
		time.Hour: "1h", time.Hour + 59*time.Second: "1h", 76 * time.Hour: "3d4h", 400 * 24 * time.Hour: "400d",
		1500 * time.Millisecond: "1s",
	} {
		if got := durationText(d); got != want {
			t.Errorf("%d: got %s, want %s", d, got, want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"30s": 30 * time.Second, "5m": 5 * time.Minute, "90": 90 * time.Second, "1.5": 1500 * time.Millisecond,
		"1h30m": 90 * time.Minute, "2d": 48 * time.Hour, "1d12h": 36 * time.Hour, "0": 0, "500ms": 500 * time.Millisecond,
	} {
		if got, err := parseDuration(s); err != nil || got != want {
			t.Errorf("%s: got %s, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "-5s", "-5", "soon", "d", "1d5", "5y", "1d-5s", "inf", "nan"} {
		if got, err := parseDuration(s); err == nil {
			t.Errorf("%q: got %s, want an error", s, got)
		}
	}
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 5, 6, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Time{
		"2026-01-02T03:04:05Z":      time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		"2026-01-02T03:04:05+01:00": time.Date(2026, 1, 2, 2, 4, 5, 0, time.UTC),
		"2026-01-02 03:04:05":       time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		"2026-01-02":                time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC),
		"10m":                       now.Add(-10 * time.Minute),
	} {
		if got, err := parseTime(s, now); err != nil || !got.Equal(want) {
			t.Errorf("%s: got %s, %v", s, got, err)
		}
	}
	if _, err := parseTime("yesterday", now); err == nil {
		t.Error("yesterday: want an error")
	}
}

func TestValues(t *testing.T) {
	var size int64
	if err := (*sizeValue)(&size).Set("1.5G"); err != nil || size != 3<<29 || (*sizeValue)(&size).String() != "1536MiB" {
		t.Errorf("size: %d, %v", size, err)
	}
	if err := (*sizeValue)(&size).Set("much"); err == nil {
		t.Error("size: much is taken")
	}
	var d time.Duration
	if err := (*durationValue)(&d).Set("90"); err != nil || d != 90*time.Second || (*durationValue)(&d).String() != "1m30s" {
		t.Errorf("duration: %s, %v", d, err)
	}
	var seconds int
	if err := (*secondsValue)(&seconds).Set("100ms"); err != nil || seconds != 1 || (*secondsValue)(&seconds).String() != "1s" {
		t.Errorf("seconds: %d, %v", seconds, err)
	}
	var at time.Time
	if err := (*timeValue)(&at).Set("2026-01-02T03:04:05Z"); err != nil || (*timeValue)(&at).String() != "2026-01-02T03:04:05Z" {
		t.Errorf("time: %s, %v", at, err)
	}
	word := "no"
	choice := oneOf(&word, "no", "always")
	if err := choice.Set("always"); err != nil || word != "always" {
		t.Errorf("choice: %s, %v", word, err)
	}
	if err := choice.Set("never"); err == nil || err.Error() != "is none of no, always" || word != "always" {
		t.Errorf("choice: %s, %v", word, err)
	}
}
