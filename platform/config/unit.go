package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

var sizeUnits = []struct {
	name string
	size int64
}{
	{"KiB", kib},
	{"MiB", mib},
	{"GiB", gib},
	{"TiB", 1 << 40},
	{"kB", 1e3},
	{"KB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"TB", 1e12},
	{"B", 1},
}

var timeUnits = []struct {
	name string
	unit time.Duration
}{
	{"ms", time.Millisecond}, {"s", second}, {"m", minute}, {"h", hour}, {"d", day}, {"w", 7 * day},
}

// parseSize reads "64MiB", "1.5GB" or a plain number of bytes. -1 is Kafka's "no limit".
func parseSize(s string) (int64, error) {
	for _, u := range sizeUnits {
		if number, ok := strings.CutSuffix(s, u.name); ok {
			return scaled(number, u.size, s, `a size like "64MiB"`)
		}
	}
	return scaled(s, 1, s, `a size like "64MiB"`)
}

// parseTime reads "7d", "1.5h", "200ms" or "1h30m"; never a bare number, whose unit nobody could know.
func parseTime(s string) (time.Duration, error) {
	for _, u := range timeUnits {
		number, ok := strings.CutSuffix(s, u.name)
		if !ok || strings.ContainsAny(number, "abcdefghijklmnopqrstuvwxyz") {
			continue
		}
		n, err := scaled(number, int64(u.unit), s, `a time like "10s" or "7d"`)
		return time.Duration(n), err
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf(`%q is not a time like "10s" or "7d"`, s)
	}
	return d, nil
}

// scaled multiplies exactly where the number is whole, so that 2^53 bytes and more survive.
func scaled(number string, unit int64, whole, want string) (int64, error) {
	number = strings.TrimSpace(number)
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		if n > math.MaxInt64/unit || n < math.MinInt64/unit {
			return 0, fmt.Errorf("%q is too large", whole)
		}
		return n * unit, nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(f) {
		return 0, fmt.Errorf("%q is not %s", whole, want)
	}
	if f *= float64(unit); math.Abs(f) >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is too large", whole)
	}
	return int64(math.Round(f)), nil
}

// formatSize is the shortest exact way to write n.
func formatSize(n int64) string {
	for i := 3; i >= 0; i-- {
		if u := sizeUnits[i]; n != 0 && n%u.size == 0 {
			return strconv.FormatInt(n/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// formatTime is the shortest exact way to write d, to the millisecond.
func formatTime(d time.Duration) string {
	for i := len(timeUnits) - 2; i >= 0; i-- { // weeks read badly
		if u := timeUnits[i]; d != 0 && d%u.unit == 0 {
			return strconv.FormatInt(int64(d/u.unit), 10) + u.name
		}
	}
	return d.String()
}
