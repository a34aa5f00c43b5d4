package config

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// setting ties one key of a table to its place in the Config.
type setting struct {
	key  string
	bind binding
	// live: a reload may change it while the broker runs.
	live bool
}

// binding is a typed place for a value. set takes what TOML knows: string, int64, float64, bool, []any.
// get gives the value back in the form a person would write.
type binding struct {
	set func(v any) error
	get func() any
	// put takes one entry of a table whose keys are the user's; nil: the value is no such table.
	put func(name string, v any) error
}

// The functions below are not inlined: each of some two hundred settings would carry its own copy of them, 128 KiB of the
// program in all.

//go:noinline
func number[T ~int | ~int16 | ~int32 | ~int64 | ~uint16](p *T, low, high int64) binding {
	return binding{
		set: func(v any) error {
			n, ok := v.(int64)
			if !ok {
				return fmt.Errorf("want a whole number, have %s", kind(v))
			}
			if err := within(n, low, high, decimal); err != nil {
				return err
			}
			*p = T(n)
			return nil
		},
		get: func() any { return int64(*p) },
	}
}

// size is in bytes: a number, or a string with its unit.
//
//go:noinline
func size[T ~int | ~int64](p *T, low, high int64) binding {
	return binding{
		set: func(v any) error {
			n, err := int64(0), error(nil)
			switch v := v.(type) {
			case int64:
				n = v
			case string:
				n, err = parseSize(v)
			default:
				err = fmt.Errorf(`want bytes or a size like "64MiB", have %s`, kind(v))
			}
			if err = cmp.Or(err, within(n, low, high, formatSize)); err != nil {
				return err
			}
			*p = T(n)
			return nil
		},
		get: func() any { return formatSize(int64(*p)) },
	}
}

// perDay is a size each day, as "2GiB/day"; empty is 0, no limit.
//
//go:noinline
func perDay(p *int64, low, high int64) binding {
	const unit = "/day"
	return binding{
		set: func(v any) error {
			s, ok := v.(string)
			number, each := strings.CutSuffix(strings.TrimSpace(s), unit)
			switch {
			case ok && s == "":
				*p = 0
				return nil
			case !ok || !each:
				return errors.New(`want bytes a day, like "2GiB/day", or "" for no limit`)
			}
			n, err := parseSize(strings.TrimSpace(number))
			if err == nil {
				err = within(n, low, high, func(n int64) string { return formatSize(n) + unit })
			}
			if err != nil {
				return err
			}
			*p = n
			return nil
		},
		get: func() any {
			if *p == 0 {
				return ""
			}
			return formatSize(*p) + unit
		},
	}
}

// millis is a time whose key ends in .ms: a number of milliseconds, or a string with its unit.
//
//go:noinline
func millis(p *time.Duration, low, high time.Duration) binding {
	return units(p, low, high, time.Millisecond, "ms")
}

// minutes is a time whose key ends in .minutes.
func minutes(p *time.Duration, low, high time.Duration) binding {
	return units(p, low, high, time.Minute, "m")
}

// units is a time in the unit its key says: a number of these, or a string with its own unit.
//
//go:noinline
func units(p *time.Duration, low, high, unit time.Duration, name string) binding {
	b := span(p, low, high)
	return binding{
		set: func(v any) error {
			if n, ok := v.(int64); ok {
				if n < 0 || n > math.MaxInt64/int64(unit) {
					return fmt.Errorf("%d %s is out of range: %s to %s", n, name, formatTime(low), formatTime(high))
				}
				v = strconv.FormatInt(n, 10) + name
			}
			return b.set(v)
		},
		get: func() any { return int64(*p / unit) },
	}
}

// span is a time as a string with its unit.
//
//go:noinline
func span(p *time.Duration, low, high time.Duration) binding {
	return binding{
		set: func(v any) error {
			s, ok := v.(string)
			if !ok {
				return fmt.Errorf(`want a time like "10s", have %s`, kind(v))
			}
			d, err := parseTime(s)
			if err != nil {
				return err
			}
			if err := within(int64(d), int64(low), int64(high), func(n int64) string { return formatTime(time.Duration(n)) }); err != nil {
				return err
			}
			*p = d
			return nil
		},
		get: func() any { return formatTime(*p) },
	}
}

//go:noinline
func flag(p *bool) binding {
	return binding{
		set: func(v any) error {
			b, ok := v.(bool)
			if !ok {
				return fmt.Errorf("want true or false, have %s", kind(v))
			}
			*p = b
			return nil
		},
		get: func() any { return *p },
	}
}

// text takes any string that passes the checks.
//
//go:noinline
func text(p *string, checks ...func(string) error) binding {
	return binding{
		set: func(v any) error {
			s, ok := v.(string)
			if !ok {
				return fmt.Errorf("want a string, have %s", kind(v))
			}
			for _, check := range checks {
				if err := check(s); err != nil {
					return err
				}
			}
			*p = s
			return nil
		},
		get: func() any { return *p },
	}
}

//go:noinline
func choice(p *string, names ...string) binding { return text(p, oneOf(names...)) }

func oneOf(names ...string) func(string) error {
	return func(s string) error {
		if slices.Contains(names, s) {
			return nil
		}
		return fmt.Errorf("%q is not one of: %s", s, strings.Join(names, ", "))
	}
}

// texts takes a list of strings that each pass the checks.
//
//go:noinline
func texts(p *[]string, checks ...func(string) error) binding {
	return binding{
		set: func(v any) error {
			list, ok := v.([]any)
			if !ok {
				return fmt.Errorf("want a list of strings, have %s", kind(v))
			}
			out := make([]string, len(list))
			for i, element := range list {
				if err := text(&out[i], checks...).set(element); err != nil {
					return err
				}
			}
			*p = out
			return nil
		},
		get: func() any { return *p },
	}
}

// named is a table of strings under names of the user's own.
//
//go:noinline
func named(p *map[string]string, checks ...func(string) error) binding {
	return binding{
		set: func(v any) error {
			m, ok := v.(map[string]string)
			if !ok {
				return fmt.Errorf(`want a table like { name = "value" }, have %s`, kind(v))
			}
			*p = m
			return nil
		},
		get: func() any { return *p },
		put: func(name string, v any) error {
			var s string
			if err := text(&s, checks...).set(v); err != nil {
				return err
			}
			if *p == nil {
				*p = map[string]string{}
			}
			(*p)[name] = s
			return nil
		},
	}
}

// bound is a number at or above zero, kept in a map under the rest of its key.
//
//go:noinline
func bound(m *map[string]float64, name string) binding {
	return binding{
		set: func(v any) error {
			f, ok := v.(float64)
			if n, whole := v.(int64); whole {
				f, ok = float64(n), true
			}
			if !ok || !(f >= 0) || math.IsInf(f, 0) {
				return errors.New("want a number, 0 or above")
			}
			if f == 0 { // as if it were not there
				delete(*m, name)
				return nil
			}
			if *m == nil {
				*m = map[string]float64{}
			}
			(*m)[name] = f
			return nil
		},
		get: func() any { return (*m)[name] },
	}
}

func within(n, low, high int64, show func(int64) string) error {
	if n >= low && n <= high {
		return nil
	}
	return fmt.Errorf("%s is out of range: %s to %s", show(n), show(low), show(high))
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

func kind(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case int64:
		return "a whole number"
	case float64:
		return "a number"
	case bool:
		return "a truth value"
	case []any:
		return "a list"
	}
	return "a date"
}
