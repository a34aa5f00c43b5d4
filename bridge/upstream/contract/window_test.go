package contract

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := ownZone(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func schedule(t testing.TB, z *time.Location, windows ...string) Schedule {
	t.Helper()
	s, err := ParseSchedule(windows, z)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// known is a moment at which the time is known.
func known(at time.Time) Moment { return Moment{Time: at, Known: true} }

// opened lists when the windows open and close from at on, n changes, in the zone's time of day.
func opened(s Schedule, at time.Time, n int) string {
	var list []string
	for range n {
		next, ok := s.Next(known(at))
		if !ok {
			list = append(list, "never")
			break
		}
		what := "closes"
		if s.Open(known(next)) {
			what = "opens"
		}
		list = append(list, what+" "+next.Format("02 15:04 MST"))
		at = next
	}
	return strings.Join(list, ", ")
}

func TestWindows(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	day := func(month time.Month, day, hour int) time.Time {
		return time.Date(2027, month, day, hour, 0, 0, 0, berlin)
	}
	for _, tt := range []struct {
		name    string
		windows []string
		from    time.Time
		changes int
		want    string
	}{
		{"none is always", nil, day(1, 10, 12), 3, "never"},
		{"an ordinary day", []string{"00:00-06:00", "12:00-13:00"}, day(1, 10, 3), 4, "closes 10 06:00 CET, opens 10 12:00 CET, closes 10 13:00 CET, opens 11 00:00 CET"},
		{"over midnight", []string{"22:00-02:00"}, day(1, 10, 12), 3, "opens 10 22:00 CET, closes 11 02:00 CET, opens 11 22:00 CET"},
		{"until midnight", []string{"22:00-24:00"}, day(1, 10, 12), 2, "opens 10 22:00 CET, closes 11 00:00 CET"},
		{"until midnight, said otherwise", []string{"22:00-00:00"}, day(1, 10, 12), 2, "opens 10 22:00 CET, closes 11 00:00 CET"},
		{"one ends where the next begins", []string{"12:00-13:00", "11:00-12:00", "13:00-14:00"}, day(1, 10, 0), 2, "opens 10 11:00 CET, closes 10 14:00 CET"},
		{"one within another", []string{"10:00-20:00", "12:00-13:00"}, day(1, 10, 0), 2, "opens 10 10:00 CET, closes 10 20:00 CET"},
		{"all day", []string{"00:00-24:00"}, day(1, 10, 0), 3, "never"},
		{"all day in parts", []string{"06:00-18:00", "18:00-06:00"}, day(1, 10, 0), 3, "never"},
		// On 28 March 2027 Berlin goes from 02:00 to 03:00, on 31 October from 03:00 back to 02:00.
		{"the hour that there is not", []string{"02:00-03:00"}, day(3, 27, 12), 3, "opens 29 02:00 CEST, closes 29 03:00 CEST, opens 30 02:00 CEST"},
		{"inside the hour that there is not", []string{"02:15-02:45"}, day(3, 27, 12), 2, "opens 29 02:15 CEST, closes 29 02:45 CEST"},
		{"into the hour that there is not", []string{"01:00-02:30"}, day(3, 27, 12), 2, "opens 28 01:00 CET, closes 28 03:00 CEST"},
		{"out of the hour that there is not", []string{"02:30-04:00"}, day(3, 27, 12), 2, "opens 28 03:00 CEST, closes 28 04:00 CEST"},
		{"around the hour that there is not", []string{"01:00-04:00"}, day(3, 27, 12), 2, "opens 28 01:00 CET, closes 28 04:00 CEST"},
		{"the hour that there is twice", []string{"02:00-03:00"}, day(10, 30, 12), 3, "opens 31 02:00 CEST, closes 31 03:00 CET, opens 01 02:00 CET"},
		{"inside the hour that there is twice", []string{"02:15-02:45"}, day(10, 30, 12), 4, "opens 31 02:15 CEST, closes 31 02:45 CEST, opens 31 02:15 CET, closes 31 02:45 CET"},
		{"into the hour that there is twice", []string{"01:00-02:30"}, day(10, 30, 12), 4, "opens 31 01:00 CEST, closes 31 02:30 CEST, opens 31 02:00 CET, closes 31 02:30 CET"},
		{"around the hour that there is twice", []string{"01:00-04:00"}, day(10, 30, 12), 2, "opens 31 01:00 CEST, closes 31 04:00 CET"},
	} {
		if got := opened(schedule(t, berlin, tt.windows...), tt.from, tt.changes); got != tt.want {
			t.Errorf("%s: %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

func TestNoWindowIsOpenBeforeTheTimeIsKnown(t *testing.T) {
	at := time.Date(2027, 5, 1, 12, 0, 0, 0, time.UTC)
	for name, s := range map[string]Schedule{"noon": schedule(t, nil, "11:00-13:00"), "all day": schedule(t, nil, "00:00-24:00")} {
		if s.Open(Moment{Time: at}) {
			t.Errorf("%s: open, and nobody knows what time it is", name)
		}
		if next, ok := s.Next(Moment{Time: at}); ok {
			t.Errorf("%s: opens at %v by a clock that nobody vouches for", name, next)
		}
		if !s.Open(known(at)) {
			t.Errorf("%s: closed at noon", name)
		}
	}
	if s := (Schedule{}); !s.Open(Moment{}) {
		t.Error("no windows at all need no clock")
	}
}

// reads says what a window means, by the digits that the clock on the wall shows.
func reads(windows []string, at time.Time) bool {
	clock := at.Format("15:04")
	return slices.ContainsFunc(windows, func(w string) bool {
		from, to := w[:5], w[6:]
		if from < to {
			return clock >= from && clock < to
		}
		return clock >= from || clock < to
	})
}

// Stepping minute by minute over three days around a change of the offset, in zones that change by an hour, by half of one, by two,
// at midnight, for a month a year, or never, Open and Next say what the clock on the wall says.
func TestWindowsAreWhatTheWallClockSays(t *testing.T) {
	zones := []string{
		"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Antarctica/Troll", "America/Havana", "Asia/Beirut", "Africa/Cairo",
		"Africa/Casablanca", "Asia/Kathmandu", "America/St_Johns", "Asia/Gaza", "America/Santiago", "Pacific/Chatham", "UTC",
	}
	rapid.Check(t, func(r *rapid.T) {
		z := zone(t, rapid.SampledFrom(zones).Draw(r, "zone"))
		// Half of the time around the first change after a random moment.
		at := time.Unix(rulesFrom+rapid.Int64Range(0, 20*366*86400).Draw(r, "second"), 0).In(z)
		if rapid.Bool().Draw(r, "change") {
			for range 400 {
				if change, ok := changeOf(z, at, at.Add(24*time.Hour)); ok {
					at = change.Add(-time.Duration(rapid.IntRange(0, 30*60).Draw(r, "before")) * time.Minute)
					break
				}
				at = at.Add(24 * time.Hour)
			}
		}
		var windows []string
		minute := rapid.OneOf(rapid.IntRange(0, dayMinutes-1), rapid.IntRange(0, 200), rapid.Map(rapid.IntRange(0, 23), func(h int) int { return h * 60 }))
		for range rapid.IntRange(1, 3).Draw(r, "windows") {
			from, to := minute.Draw(r, "from"), minute.Draw(r, "to")
			if from == to {
				to = dayMinutes
			}
			windows = append(windows, fmt.Sprintf("%02d:%02d-%02d:%02d", from/60, from%60, to/60, to%60))
		}
		s := schedule(t, z, windows...)
		if got := s.Open(known(at)); got != reads(windows, at) {
			r.Fatalf("%v at %v: Open %v", windows, at, got)
		}
		// What Next says must be the first whole minute, or the very second, at which the answer is another.
		next, ok := s.Next(known(at))
		for step := at.Truncate(time.Minute).In(z); step.Before(at.Add(72 * time.Hour)); step = step.Add(time.Minute) {
			if step.Before(at) {
				continue
			}
			open := reads(windows, step)
			if got := s.Open(known(step)); got != open {
				r.Fatalf("%v at %v: Open %v", windows, step, got)
			}
			for ok && !step.Before(next) {
				before, after := reads(windows, next.Add(-time.Second)), reads(windows, next)
				if before == after || next.After(step) {
					r.Fatalf("%v: Next is %v, where nothing changes", windows, next)
				}
				last := next
				if next, ok = s.Next(known(last)); ok && !next.After(last) {
					r.Fatalf("%v: Next of %v is %v", windows, last, next)
				}
			}
			if past := step.Add(-time.Minute); !past.Before(at) && reads(windows, past) != open {
				// A change between both minutes: Next has just passed it, so it lies beyond step now, and one lay here.
				if prior, fine := s.Next(known(past)); !fine || prior.After(step) {
					r.Fatalf("%v: a change at %v that Next of %v does not see: %v", windows, step, past, prior)
				}
			}
		}
		if ok && next.Sub(at) < 72*time.Hour-time.Minute {
			r.Fatalf("%v: Next %v was never met", windows, next)
		}
	})
}

// A day ends when the date is a later one, also where midnight is skipped or comes twice.
func TestDaysEnd(t *testing.T) {
	for _, name := range []string{"Europe/Berlin", "America/Havana", "Asia/Beirut", "America/Santiago", "Africa/Cairo", "Pacific/Chatham", "UTC"} {
		z := zone(t, name)
		at := time.Date(2027, 1, 1, 5, 30, 0, 0, z)
		for range 800 {
			end := dayEnd(z, at)
			if d := end.Sub(at); d <= 0 || d > 25*time.Hour {
				t.Fatalf("%s: the day of %v ends at %v", name, at, end)
			}
			if before, after := dateOf(z, end.Add(-time.Second)), dateOf(z, end); before != dateOf(z, at) || after != before+1 {
				t.Fatalf("%s: the day of %v ends at %v, from date %d to %d", name, at, end, before, after)
			}
			at = end
		}
	}
}

func FuzzParseSchedule(f *testing.F) {
	for _, seed := range []string{"00:00-06:00", "22:00-02:00", "00:00-24:00", "24:00-01:00", "12:00", "-", "1:00-2:00", "00:60-01:00", "00:00-24:01", "06:00-06:00", "٠٠:٠٠-٠٦:٠٠"} {
		f.Add(seed)
	}
	at := time.Date(2027, 5, 1, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, window string) {
		s, err := ParseSchedule([]string{window}, nil)
		if err != nil {
			return
		}
		if len(window) != 11 || s.always() {
			t.Fatalf("%q is read as %v", window, s.spans)
		}
		total := 0
		for i, w := range s.spans {
			if w.from >= w.to || w.to > dayMinutes || i > 0 && w.from <= s.spans[i-1].to {
				t.Fatalf("%q is read as %v", window, s.spans)
			}
			total += w.to - w.from
		}
		next, ok := s.Next(known(at))
		if ok != (total < dayMinutes) || ok && (next.Sub(at) <= 0 || next.Sub(at) > 24*time.Hour) {
			t.Fatalf("%q: Next %v, %v", window, next, ok)
		}
		if open := s.Open(known(at)); open != reads([]string{window}, at) {
			t.Fatalf("%q at noon: %v", window, open)
		}
	})
}

func TestTooManyWindows(t *testing.T) {
	if _, err := ParseSchedule(make([]string, WindowsMax+1), nil); err == nil || !strings.Contains(err.Error(), "24 are allowed") {
		t.Errorf("%v", err)
	}
}
