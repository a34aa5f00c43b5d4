// Package wear keeps what a board writes to its flash in a day within a budget: commits wait a little longer for company,
// and fewer of them take the blocks and the metadata that each costs. It is a control loop without a clock. And it
// tells how long flash and free space will last, of what was written to the device and what the device says of itself.
package wear

import (
	"math"
	"time"
)

const (
	day = 24 * time.Hour
	// margin is the part of the budget that is aimed at: the loop is slow, and what it aims at it may exceed a little.
	margin = 0.95
	// calm is the part of the allowed rate below which the interval shrinks again. Between it and the whole it stays.
	calm = 0.8
	// grow and shrink bound a step of the loop, ten seconds long: from nothing to a second takes four minutes, and back ten.
	grow   = 1.25
	shrink = 1.1
	// first is the shortest interval there is beside none: a commit to a card takes about as long.
	first = 5 * time.Millisecond
	// smooth is the time over which the rate is averaged.
	smooth = 2 * time.Minute
	// stepMin is the least time between two steps.
	stepMin = time.Second
)

// Config is the budget and the means to keep it.
type Config struct {
	Budget   int64         // bytes a day; 0: none, and the interval is Min
	Min, Max time.Duration // of the commit interval
}

// Governor is the state of the loop. A day begins when it does, and every 24 hours from then on: what was written before
// a restart is forgotten. It is not safe for concurrent use.
type Governor struct {
	c        Config
	interval time.Duration

	begun   bool
	last    time.Duration // of the last step, since any moment
	counter int64         // what was written in all, then
	rate    float64       // bytes a second, averaged
	settled bool          // rate is of a step at least
	dayFrom time.Duration
	spent   int64 // in this day
}

// NewGovernor begins with the shortest interval.
func NewGovernor(c Config) *Governor { return &Governor{c: c, interval: c.Min} }

// Configure changes budget and bounds. What was measured stays; an interval outside the new bounds goes to the nearer one.
func (g *Governor) Configure(c Config) {
	g.c = c
	if c.Budget == 0 {
		g.interval = c.Min
	}
	g.interval = min(max(g.interval, c.Min), max(c.Max, c.Min))
}

// Interval is the commit interval now.
func (g *Governor) Interval() time.Duration { return g.interval }

// Budget is the budget in force, in bytes a day; 0: none.
func (g *Governor) Budget() int64 { return g.c.Budget }

// PerDay is what a day comes to at the rate of the last minutes, in bytes.
func (g *Governor) PerDay() int64 { return int64(min(g.rate*day.Seconds(), math.MaxInt64/2)) }

// Spent is what was written since the day began, in bytes.
func (g *Governor) Spent() int64 { return g.spent }

// Rebase takes written for the counter's reading from now on, and counts nothing: the counter is another one.
func (g *Governor) Rebase(written int64) { g.counter = written }

// Step is told the time, by a clock that never goes back, and how many bytes were written in all. It returns the commit
// interval that should hold now. It is meant to be called every ten seconds; other times do little harm. A counter that
// went back counts as nothing written.
func (g *Governor) Step(now time.Duration, written int64) time.Duration {
	if !g.begun {
		g.begun, g.last, g.counter, g.dayFrom = true, now, written, now
		return g.interval
	}
	elapsed := now - g.last
	if elapsed < stepMin {
		return g.interval
	}
	fresh := max(written-g.counter, 0)
	g.last, g.counter = now, written
	if over := (now - g.dayFrom) / day; over > 0 {
		g.dayFrom += over * day
		g.spent = 0
	}
	g.spent += fresh
	rate := float64(fresh) / elapsed.Seconds()
	if !g.settled {
		g.rate, g.settled = rate, true
	} else {
		g.rate += (rate - g.rate) * (1 - math.Exp(-elapsed.Seconds()/smooth.Seconds()))
	}
	if g.c.Budget > 0 {
		g.steer(now)
	}
	return g.interval
}

// steer moves the interval by a bounded factor, up when more is written than the rest of the day allows, down when it is
// clearly less.
func (g *Governor) steer(now time.Duration) {
	left := max(g.dayFrom+day-now, stepMin)
	allowed := max(margin*float64(g.c.Budget)-float64(g.spent), 0) / left.Seconds()
	high := max(g.c.Max, g.c.Min)
	switch {
	case g.rate > allowed:
		next := float64(max(g.interval, first)) * min(g.rate/max(allowed, 1), grow)
		g.interval = min(time.Duration(next), high)
	case g.rate < calm*allowed:
		g.interval = time.Duration(float64(g.interval) / min(calm*allowed/max(g.rate, 1), shrink))
		if g.interval < max(first, g.c.Min) {
			g.interval = g.c.Min
		}
	}
}

// Strained tells whether the interval is as long as it may be and more is written than the budget allows.
func (g *Governor) Strained() bool {
	return g.c.Budget > 0 && g.interval >= g.c.Max && g.PerDay() > g.c.Budget
}
