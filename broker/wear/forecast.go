package wear

import (
	"encoding/json"
	"math"
	"time"
)

const (
	// samples of a trend lie so far apart; with one more than span/spacing of them it looks back over span.
	spacing = time.Hour
	span    = day
)

// Trend is how fast a number has changed in the last day. The zero Trend has seen nothing. It is not safe for concurrent
// use.
type Trend struct {
	seen [span/spacing + 1]sample
	n    int // of seen, the oldest first
	now  sample
}

type sample struct {
	at    time.Duration
	value int64
}

// Add takes a reading at a time, by a clock that never goes back.
func (t *Trend) Add(now time.Duration, value int64) {
	t.now = sample{now, value}
	if t.n > 0 && now-t.seen[t.n-1].at < spacing {
		return
	}
	if t.n == len(t.seen) {
		t.n = copy(t.seen[:], t.seen[1:])
	}
	t.seen[t.n] = t.now
	t.n++
}

// PerDay is the change of a day; false before there is an hour to go by.
func (t *Trend) PerDay() (float64, bool) {
	if t.n == 0 || t.now.at-t.seen[0].at < spacing {
		return 0, false
	}
	return float64(t.now.value-t.seen[0].value) / (t.now.at - t.seen[0].at).Hours() * 24, true
}

// DaysUntil is how long left lasts when a day takes perDay of it: +Inf when a day takes nothing.
func DaysUntil(left, perDay float64) float64 {
	switch {
	case left <= 0:
		return 0
	case perDay <= 0:
		return math.Inf(1)
	}
	return left / perDay
}

// Ledger is what has been written to one device as far as this board knows, over all its starts. It is kept in a file.
// Times are not in it: a board's clock may be wrong, and what is off does not wear.
type Ledger struct {
	// Device tells devices apart; a ledger of another is begun anew.
	Device string `json:"device"`
	// Boot is the system start that Counter is of: the kernel counts from 0 with each.
	Boot    string `json:"boot"`
	Counter int64  `json:"counter"` // bytes written since then
	Written int64  `json:"written"` // bytes in all
	// Step is the last that the device told of its life, 1 to 11; 0: none. First and Last are the first and the last change
	// of it that was seen.
	Step  int    `json:"step,omitempty"`
	First change `json:"first,omitzero"`
	Last  change `json:"last,omitzero"`
}

// change is a step of a device's life that began when so many bytes were written.
type change struct {
	Step    int   `json:"step"`
	Written int64 `json:"written"`
}

// OpenLedger goes on with what a file held: text may be nil, damaged, or of another device.
func OpenLedger(text []byte, device string) *Ledger {
	l := new(Ledger)
	if err := json.Unmarshal(text, l); err != nil || l.Device != device || l.Written < 0 || l.Counter < 0 {
		*l = Ledger{Device: device}
	}
	return l
}

// Text is what the file should hold.
func (l *Ledger) Text() []byte {
	text, err := json.Marshal(l)
	if err != nil {
		panic("wear: a ledger of numbers and strings: " + err.Error())
	}
	return append(text, '\n')
}

// Add takes the counter's reading in this start of the system, and the step the device tells, 0 when none.
func (l *Ledger) Add(boot string, counter int64, step int) {
	since := counter
	if boot == l.Boot && counter >= l.Counter {
		since -= l.Counter
	}
	l.Boot, l.Counter = boot, counter
	l.Written += since
	if step > l.Step {
		if l.Step > 0 { // a step more than one is a board that was off the record
			l.Last = change{step, l.Written}
			if l.First.Step == 0 {
				l.First = l.Last
			}
		}
		l.Step = step
	}
}

// Left is how many bytes can be written before the device's life is over; false when nothing tells. Where two changes of
// its steps were seen the device itself says how much a step is. Else it takes the endurance: how much may be written in a
// whole life, 0: unknown, of which the steps have used up what they say at most, or, where there are none, what was seen.
func (l *Ledger) Left(endurance int64) (float64, bool) {
	if steps := l.Last.Step - l.First.Step; steps > 0 {
		each := float64(l.Last.Written-l.First.Written) / float64(steps)
		return max(0, each*float64(lifeSteps+1-l.Last.Step)-float64(l.Written-l.Last.Written)), true
	}
	switch {
	case endurance <= 0:
		return 0, false
	case l.Step > 0:
		return max(0, float64(endurance)*float64(lifeSteps-l.Step)/lifeSteps), true
	}
	return max(0, float64(endurance)-float64(l.Written)), true
}

// lifeSteps are the steps of a whole life.
const lifeSteps = 10
