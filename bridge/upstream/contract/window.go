package contract

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Moment is what a board knows of the time.
type Moment struct {
	Time  time.Time     // the board's clock
	Known bool          // whether anybody vouches for it
	Run   time.Duration // only runs, in this life of the program, whatever the clock is set to
}

// WindowsMax is how many windows a Schedule has at most.
const WindowsMax = 24

const dayMinutes = 24 * 60

// Schedule is when a link, or a class, may send: windows of every day, by what the clock on the wall says in a time zone.
//
// A window is open while that clock reads its first minute or later and not yet its last: "00:00-06:00". One that ends
// before it begins goes over midnight: "22:00-02:00". So where the clock is put forward, what it skips is never read: a window
// inside is not open on that day, one around it is shorter. Where it is put back, what it reads twice counts twice: a window
// inside opens twice, one around it is longer. A board that does not know the time is in no window.
//
// The zero Schedule has no windows and is always open. Immutable.
type Schedule struct {
	spans []span // sorted, apart from one another, within the day; empty: always
	zone  *time.Location
}

// span is from, and to but without it, in minutes of the day.
type span struct{ from, to int }

// ParseSchedule reads windows like "22:00-02:00"; the last minute of a day is before "24:00". None at all is always. zone is
// UTC where it is nil.
func ParseSchedule(windows []string, zone *time.Location) (Schedule, error) {
	if len(windows) > WindowsMax {
		return Schedule{}, fmt.Errorf("%d windows, and %d are allowed", len(windows), WindowsMax)
	}
	if zone == nil {
		zone = time.UTC
	}
	s := Schedule{zone: zone}
	var all []span
	for _, w := range windows {
		first, second, ok := strings.Cut(w, "-")
		from, err1 := minuteOf(first)
		to, err2 := minuteOf(second)
		switch {
		case !ok || err1 != nil || err2 != nil:
			return Schedule{}, fmt.Errorf(`window %q is not like "00:00-06:00"`, w)
		case from == to || from == dayMinutes:
			return Schedule{}, fmt.Errorf("window %q is never open; leave all windows out for always", w)
		case from < to:
			all = append(all, span{from, to})
		default:
			all = append(all, span{from, dayMinutes}, span{0, to})
		}
	}
	slices.SortFunc(all, func(a, b span) int { return a.from - b.from })
	for _, w := range all {
		if n := len(s.spans); n > 0 && w.from <= s.spans[n-1].to {
			s.spans[n-1].to = max(s.spans[n-1].to, w.to)
		} else if w.from < w.to {
			s.spans = append(s.spans, w)
		}
	}
	return s, nil
}

var errMinute = errors.New("not a minute of the day")

// minuteOf reads HH:MM, up to 24:00.
func minuteOf(s string) (int, error) {
	if len(s) != 5 || s[2] != ':' {
		return 0, errMinute
	}
	for _, i := range []int{0, 1, 3, 4} {
		if s[i] < '0' || s[i] > '9' {
			return 0, errMinute
		}
	}
	hour, minute := int(s[0]-'0')*10+int(s[1]-'0'), int(s[3]-'0')*10+int(s[4]-'0')
	if n := hour*60 + minute; minute < 60 && n <= dayMinutes {
		return n, nil
	}
	return 0, errMinute
}

// always tells whether nothing is ever closed.
func (s Schedule) always() bool { return len(s.spans) == 0 }

// whole tells whether the windows leave nothing of the day: only the time must be known.
func (s Schedule) whole() bool { return s.spans[0] == span{0, dayMinutes} }

// Open tells whether one may send.
func (s Schedule) Open(now Moment) bool {
	return s.always() || now.Known && s.openAt(now.Time)
}

func (s Schedule) openAt(t time.Time) bool {
	second, _ := wall(t.In(s.zone))
	return slices.ContainsFunc(s.spans, func(w span) bool { return second >= w.from*60 && second < w.to*60 })
}

// wall is the second of the day that the clock on the wall reads, and how far it is before UTC, in seconds.
func wall(t time.Time) (second, offset int) {
	hour, minute, second := t.Clock()
	_, offset = t.Zone()
	return (hour*60+minute)*60 + second, offset
}

// Next is when Open will be another than it is now; false where it never will be, or nobody knows because the time is not known.
func (s Schedule) Next(now Moment) (at time.Time, ok bool) {
	if s.always() || !now.Known || s.whole() {
		return time.Time{}, false
	}
	open := s.openAt(now.Time)
	t := now.Time
	// Each step passes a change of the zone's offset, of which there are a few a year, or finds the answer.
	for range 16 {
		edge := s.edge(t)
		change, changes := changeOf(s.zone, t, edge)
		if t = edge; changes {
			t = change
		}
		if s.openAt(t) != open {
			return t.In(s.zone), true
		}
	}
	return time.Time{}, false
}

// edge is when, after t, a window would begin or end if the zone's offset stayed what it is.
func (s Schedule) edge(t time.Time) time.Time {
	second, _ := wall(t.In(s.zone))
	least := 2 * dayMinutes * 60
	for _, w := range s.spans {
		for _, minute := range []int{w.from, w.to} {
			ahead := minute*60 - second
			if ahead <= 0 {
				ahead += dayMinutes * 60
			}
			least = min(least, ahead)
		}
	}
	return t.Truncate(time.Second).Add(time.Duration(least) * time.Second)
}

// changeOf is the first moment after a, and not after b, at which the zone's offset is another than at a. Two changes so close to one
// another that they cancel out are not seen. (time.Time.ZoneBounds is of no use: on the last day of a leap year it ends before
// the moment it was asked about.)
func changeOf(zone *time.Location, a, b time.Time) (at time.Time, ok bool) {
	offset := func(t int64) int { _, o := wall(time.Unix(t, 0).In(zone)); return o }
	low, high := a.Unix(), b.Unix()
	before := offset(low)
	if offset(high) == before {
		return time.Time{}, false
	}
	for high-low > 1 {
		if middle := low + (high-low)/2; offset(middle) == before {
			low = middle
		} else {
			high = middle
		}
	}
	return time.Unix(high, 0).In(zone), true
}

// dateOf is the date in the zone, in days since 1970.
func dateOf(zone *time.Location, t time.Time) int64 {
	y, m, d := t.In(zone).Date()
	return time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / (dayMinutes * 60)
}

// dayEnd is when, after t, the zone has a later date than at t.
func dayEnd(zone *time.Location, t time.Time) time.Time {
	date := dateOf(zone, t)
	for range 4 {
		second, _ := wall(t.In(zone))
		midnight := t.Truncate(time.Second).Add(time.Duration(dayMinutes*60-second) * time.Second)
		change, changes := changeOf(zone, t, midnight)
		if t = midnight; changes {
			t = change
		}
		if dateOf(zone, t) > date {
			break
		}
	}
	return t
}
