package upstreamtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"millrace/bridge/upstream"
	"millrace/broker/record"
)

// Life is one life of a board that writes to a Log: what Append appends is there whole or not at all, whenever the power goes.
// It implements upstream.Store.
type Life struct {
	*Log
	// Apart is a defect: cursors are appended by themselves, after the records.
	Apart bool
	// Most is the most records that Append takes of a partition at once, 0: any number.
	Most int

	mu   sync.Mutex
	rng  *rand.Rand
	dead bool
	full bool
	// cut is the chance that the power goes with an append, vague that nobody learns what became of it.
	cut, vague float64
}

// Life begins a life.
func (l *Log) Life(rng *rand.Rand) *Life { return &Life{Log: l, rng: rng} }

// Dead says whether the power is gone.
func (l *Life) Dead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

// Kill ends the life: nothing is appended any more.
func (l *Life) Kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
}

// Fail sets the chances that the power goes with an append, and that nobody learns what became of one.
func (l *Life) Fail(cut, vague float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut, l.vague = cut, vague
}

// Fill has the disk be full, or not.
func (l *Life) Fill(full bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.full = full
}

// Make implements upstream.Store.
func (l *Life) Make(_ context.Context, topic string, partitions int32, settings map[string]string) error {
	if l.Dead() {
		return errPower
	}
	have := len(l.Partitions(topic))
	switch {
	case have == 0:
		l.Create(topic, int(partitions), settings["cleanup.policy"] == "compact" || topic == upstream.LandingTopic)
	case have < int(partitions):
		l.Grow(topic, int(partitions))
	}
	return nil
}

var (
	errPower = errors.New("the power is gone")
	errVague = errors.New("nobody knows")
)

// Append implements upstream.Store.
func (l *Life) Append(parts []upstream.Part) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.full && !l.dead {
		return fmt.Errorf("append: %w", upstream.ErrFull)
	}
	for _, p := range parts {
		if l.Most > 0 && len(p.Records) > l.Most && p.Partition.Topic() != upstream.LandingTopic {
			return fmt.Errorf("append: %w", upstream.ErrTooLarge)
		}
	}
	if !l.Apart {
		return l.group(parts)
	}
	var marks, rest []upstream.Part
	for _, p := range parts {
		if p.Partition.Topic() == upstream.LandingTopic {
			marks = append(marks, p)
		} else {
			rest = append(rest, p)
		}
	}
	if len(rest) > 0 {
		if err := l.group(rest); err != nil {
			return err
		}
	}
	return l.group(marks)
}

// group appends together.
func (l *Life) group(parts []upstream.Part) error {
	dice, after := l.rng.Float64(), l.rng.IntN(2) == 0
	power, vague := dice < l.cut, dice >= l.cut && dice < l.cut+l.vague
	if l.dead || (power || vague) && !after {
		l.dead = l.dead || power
		return errVague
	}
	for _, part := range parts {
		recs := make([]record.Record, len(part.Records))
		copy(recs, part.Records)
		part.Partition.(*Partition).Append(record.None, recs...)
	}
	if power || vague {
		l.dead = power
		return errVague
	}
	return nil
}
