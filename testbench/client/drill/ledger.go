package drill

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// place is a partition of a topic.
type place struct {
	topic     string
	partition int32
}

func (p place) String() string { return fmt.Sprintf("%s-%d", p.topic, p.partition) }

// ledger holds what was written against what the members of a group tell. Its methods may be called by several goroutines.
type ledger struct {
	keeps func(*Record)

	mu sync.Mutex
	// want is by offset.
	want map[place][]Record
	next map[place]int64
	// owners are those who may read what was not yet read; nil while partitions move.
	owners map[place]string
	bad    []string
	// more is signalled when something was told.
	more chan struct{}
}

func newLedger(keeps func(*Record)) *ledger {
	return &ledger{keeps: keeps, want: map[place][]Record{}, next: map[place]int64{}, more: make(chan struct{}, 1)}
}

// write is called before records are sent: they are the next of their partitions.
func (l *ledger) write(records ...Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range records {
		at := place{r.Topic, r.Partition}
		l.want[at] = append(l.want[at], r)
	}
}

// tell judges one record that a member has read.
func (l *ledger) tell(who string, r Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := place{r.Topic, r.Partition}
	wrong := func(format string, args ...any) {
		l.bad = append(l.bad, fmt.Sprintf("%s: %v offset %d: ", who, at, r.Offset)+fmt.Sprintf(format, args...))
	}
	switch next := l.next[at]; {
	case r.Offset < 0 || r.Offset >= int64(len(l.want[at])):
		wrong("nobody wrote it")
	case r.Offset < next:
		wrong("a duplicate or out of order, %d is next", next)
	case r.Offset > next:
		wrong("a gap or out of order, %d is next", next)
	case l.owners != nil && l.owners[at] != who:
		wrong("the partition is %s's", l.owners[at])
	default:
		want := l.want[at][r.Offset]
		if l.keeps != nil {
			l.keeps(&r)
			l.keeps(&want)
		}
		if d := diff(r, want); d != "" {
			wrong("%s", d)
		}
		l.next[at]++
	}
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// own says who has which partition from now on; nil that they move.
func (l *ledger) own(owners map[place]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.owners = owners
}

// check fails the test with what was found wrong, and returns how many records are still to be read.
func (l *ledger) check(t testing.TB) (missing int64) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.bad) > 0 {
		t.Fatalf("%d faults, the first: %q", len(l.bad), l.bad[:min(len(l.bad), 5)])
	}
	if t.Failed() {
		t.FailNow() // a member says why
	}
	for at, want := range l.want {
		missing += int64(len(want)) - l.next[at]
	}
	return missing
}

// ends are where the partitions end.
func (l *ledger) ends() map[place]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	ends := map[place]int64{}
	for at, want := range l.want {
		ends[at] = int64(len(want))
	}
	return ends
}

// drain waits until every record was read, once and in order.
func (l *ledger) drain(t testing.TB, ctx context.Context) {
	t.Helper()
	for {
		missing := l.check(t)
		if missing == 0 {
			return
		}
		select {
		case <-l.more:
		case <-time.After(time.Second): // has a member failed?
		case <-ctx.Done():
			t.Fatalf("%d records were not read: %v", missing, ctx.Err())
		}
	}
}

// pause waits a little between two looks at what another process does.
func pause(t testing.TB, ctx context.Context, what func() string) {
	t.Helper()
	select {
	case <-time.After(25 * time.Millisecond):
	case <-ctx.Done():
		t.Fatalf("%v; %s", ctx.Err(), what())
	}
}
