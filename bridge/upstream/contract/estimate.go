package contract

import (
	"fmt"
	"math"
	"time"
)

const (
	speedOver   = time.Minute // of being busy, after which what was before counts for a third
	speedLeast  = time.Second // of being busy, before which nothing is said
	horizon     = 100 * 24 * time.Hour
	stretchesTo = 4096 // windows and days that are looked at
)

// Speed is what a link carries while it is busy: a moving average over busy time, so that pauses, closed windows and an
// empty log do not make it slower than it is. The zero Speed knows nothing. It is not safe for concurrent use.
type Speed struct {
	perSecond float64 // bytes of the log
	wire      float64 // bytes on the wire for a byte of the log
	busy      time.Duration
}

// Add takes note of bytes of the log that were delivered, the bytes on the wire they took, and for how long the link was busy
// with them, from reading the first to the answer to the commit. What makes no sense is left out.
func (s *Speed) Add(bytes, wire int64, busy time.Duration) {
	if bytes <= 0 || wire < 0 || busy <= 0 {
		return
	}
	keep := math.Exp(-busy.Seconds() / speedOver.Seconds())
	if s.busy == 0 {
		keep = 0
	}
	s.perSecond = keep*s.perSecond + (1-keep)*float64(bytes)/busy.Seconds()
	s.wire = keep*s.wire + (1-keep)*float64(wire)/float64(bytes)
	s.busy = min(s.busy+busy, 2*speedOver)
}

// PerSecond is bytes of the log a second, 0 while not enough is known.
func (s *Speed) PerSecond() float64 {
	if s.busy < speedLeast {
		return 0
	}
	return s.perSecond
}

// Wire is bytes on the wire for a byte of the log, 0 while not enough is known.
func (s *Speed) Wire() float64 {
	if s.busy < speedLeast {
		return 0
	}
	return s.wire
}

// Backlog is what an estimate is made from.
type Backlog struct {
	Behind   int64    // bytes of the log that are not delivered
	Speed    *Speed   // of the link
	Share    float64  // of the link that these get, (0, 1]
	Growth   float64  // bytes a second that come in meanwhile, 0 or more
	Schedule Schedule // of the class, or of the link
	Day      Day      // the budget's, Limit 0 where there is none
	Zone     *time.Location
}

// Estimate is how far a link, or a class, is behind, and for how long.
type Estimate struct {
	Behind int64         // bytes of the log
	In     time.Duration // until all is delivered, where Known
	Known  bool
}

// Estimate goes through the windows and days ahead at the speed that was measured. It is not Known where nothing has been measured
// yet, where as much comes in as goes out, where windows or a day's end depend on a time that is not known, and where it
// would take more than a hundred days.
func (b Backlog) Estimate(now Moment) Estimate {
	e := Estimate{Behind: max(b.Behind, 0)}
	if b.Behind <= 0 {
		e.Known = true
		return e
	}
	unknown := e
	speed, onWire := 0.0, 0.0 // bytes a second: of the log, of these; on the wire, of all the link carries
	if b.Speed != nil {
		speed, onWire = b.Speed.PerSecond()*b.Share, b.Speed.PerSecond()*b.Speed.Wire()
	}
	if !(speed > 0) || !(b.Share > 0 && b.Share <= 1) || !(b.Growth >= 0) || math.IsInf(b.Growth, 0) || !now.Known && !b.Schedule.always() {
		return unknown
	}
	zone := b.Zone
	if zone == nil {
		zone = time.UTC
	}
	left, perDay := math.Inf(1), math.Inf(1) // seconds of sending that the day has room for
	if b.Day.Limit > 0 && b.Day.Limit < math.MaxInt64 && onWire > 0 {
		left, perDay = float64(b.Day.Left)/onWire, float64(b.Day.Limit)/onWire
	}
	behind := float64(b.Behind)
	at, end := now, now.Time.Add(horizon)
	for range stretchesTo {
		if !at.Time.Before(end) {
			return unknown
		}
		until, renews := end, false
		if next, ok := b.Schedule.Next(at); ok && next.Before(until) {
			until = next
		}
		if now.Known && !math.IsInf(perDay, 1) {
			if next := dayEnd(zone, at.Time); !next.After(until) {
				until, renews = next, true
			}
		}
		stretch := until.Sub(at.Time).Seconds()
		if b.Schedule.Open(at) {
			sending := min(stretch, left)
			if net := speed - b.Growth; net > 0 && behind <= net*sending {
				e.In = until.Sub(now.Time) - seconds(stretch) + seconds(behind/net)
				e.Known = true
				return e
			}
			behind -= (speed - b.Growth) * sending
			behind += b.Growth * (stretch - sending)
			left -= sending
		} else {
			behind += b.Growth * stretch
		}
		if at.Time = until; renews {
			left = perDay
		}
	}
	return unknown
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// String is like "23 MB behind, about 14 min".
func (e Estimate) String() string {
	switch {
	case e.Behind == 0:
		return "up to date"
	case !e.Known:
		return amount(e.Behind) + " behind, for an unknown time"
	}
	return amount(e.Behind) + " behind, " + about(e.In)
}

// amount is bytes in the unit that leaves few digits.
func amount(n int64) string {
	value, unit := float64(n), 0
	units := []string{"B", "kB", "MB", "GB", "TB"}
	for value >= 999.5 && unit < len(units)-1 {
		value /= 1000
		unit++
	}
	if value < 9.95 && unit > 0 {
		return fmt.Sprintf("%.1f %s", value, units[unit])
	}
	return fmt.Sprintf("%.0f %s", value, units[unit])
}

// about is a time with no more digits than an estimate has.
func about(d time.Duration) string {
	switch {
	case d < time.Minute:
		return "less than a minute"
	case d < 90*time.Minute:
		return fmt.Sprintf("about %.0f min", d.Minutes())
	case d < 72*time.Hour:
		return fmt.Sprintf("about %.0f h", d.Hours())
	}
	return fmt.Sprintf("about %.0f days", d.Hours()/24)
}
