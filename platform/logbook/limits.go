package logbook

import (
	"bytes"
	"log/slog"
	"strings"
	"time"
)

const (
	// knownMax bounds the messages that are told apart; what is beyond shares one limit.
	knownMax = 512
	// messageMax is how much of a message tells it from others, in bytes.
	messageMax = 120
	day        = 24 * time.Hour
)

// key is a message of a component.
type key struct{ component, message string }

func (k key) String() string {
	if k.component == "" {
		return k.message
	}
	return k.component + ": " + k.message
}

// clip is as much of a message as tells it apart, and holds on to no more.
func clip(message string) string {
	if len(message) > messageMax {
		return strings.Clone(message[:messageMax])
	}
	return message
}

// bucket bounds one message.
type bucket struct {
	// next is when the lines passed so far would be over, were they evenly spread (the generic cell rate algorithm).
	next    time.Time
	dropped int64 // since it was told
}

// limits decide which lines are written.
type limits struct {
	gap   time.Duration // between two lines of one message, evenly; 0: no limit
	known map[key]*bucket

	budget int64     // of a day, in bytes; 0: no limit
	saved  float64   // bytes that may be written now
	at     time.Time // when saved was right
}

func (l *limits) configure(s Settings, now time.Time) {
	l.gap = 0
	if s.Rate > 0 {
		l.gap = time.Minute / time.Duration(s.Rate)
	}
	if l.budget != s.Budget {
		l.budget, l.saved, l.at = s.Budget, float64(burst(s.Budget)), now
	}
}

// burst is how much of a day's budget may be written at once. The rest comes evenly, so that no 24 hours, wherever they
// begin, have more than the budget.
func burst(budget int64) int64 { return budget / 4 }

// repeat takes a line of a message, or returns how many of it are left out by now.
func (l *limits) repeat(k key, now time.Time) (dropped int64) {
	if l.gap == 0 {
		return 0
	}
	b := l.known[k]
	if b == nil {
		if len(l.known) >= knownMax {
			l.forget(now)
		}
		if len(l.known) >= knownMax {
			k = key{message: "messages of many kinds"}
			b = l.known[k]
		}
		if b == nil {
			b = &bucket{next: now}
			l.known[k] = b
		}
	}
	if b.next.Before(now) {
		b.next = now
	}
	if b.next.Sub(now) > time.Minute-l.gap {
		b.dropped++
		return b.dropped
	}
	b.next = b.next.Add(l.gap)
	return 0
}

// forget drops the messages that could be said as often as if they had never been.
func (l *limits) forget(now time.Time) {
	for k, b := range l.known {
		if b.dropped == 0 && !b.next.After(now) {
			delete(l.known, k)
		}
	}
}

// told begins to count anew.
func (l *limits) told() {
	for _, b := range l.known {
		b.dropped = 0
	}
}

// afford takes n bytes off the budget.
func (l *limits) afford(n int64, level slog.Level, now time.Time) bool {
	if l.budget == 0 {
		return true
	}
	whole := float64(burst(l.budget))
	l.saved = min(whole, l.saved+now.Sub(l.at).Seconds()*(float64(l.budget)-whole)/day.Seconds())
	l.at = now
	left := l.saved - float64(n)
	if left < 0 || level < slog.LevelWarn && left < whole/2 {
		return false
	}
	l.saved = left
	return true
}

// ring is the last lines, whole ones, at most max bytes.
type ring struct {
	max   int
	lines []byte
}

// add appends a line, which ends in a newline and is no longer than half of max.
func (r *ring) add(line []byte) {
	if over := len(r.lines) + len(line) - r.max; over > 0 {
		over = min(len(r.lines), over+r.max/4) // so that not every line moves all the others
		end := len(r.lines)
		if i := bytes.IndexByte(r.lines[over:], '\n'); over < end && i >= 0 {
			end = over + i + 1
		}
		r.lines = r.lines[:copy(r.lines, r.lines[end:])]
	}
	r.lines = append(r.lines, line...)
}
