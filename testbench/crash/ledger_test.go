package crash

import (
	"fmt"
	"hash/crc32"
	"sync"
)

// ledger is what one producer knows: which of its records were acknowledged.
type ledger struct {
	name string
	// once: every record may be in the log at most once (an idempotent Kafka producer). Otherwise at least once if
	// acknowledged (MQTT QoS 1).
	once bool

	mu    sync.Mutex
	sent  int          // records 0 to sent-1 were sent
	acked map[int]bool // those acknowledged
	// period counts the lives of the connection; periodOf says in which one a record was sent, if it was acknowledged in
	// the same. Between two lives a client sends again, and may do so in any order.
	periodOf map[int]int
}

func newLedger(name string, once bool) *ledger {
	return &ledger{name: name, once: once, acked: make(map[int]bool), periodOf: make(map[int]int)}
}

// next numbers the next record to be sent.
func (l *ledger) next() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	return l.sent - 1
}

func (l *ledger) ack(n, sentIn, ackedIn int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[n] = true
	if sentIn == ackedIn {
		l.periodOf[n] = sentIn
	}
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// stored is one record as the log has it.
type stored struct {
	partition int32
	offset    int64
	n         int
}

// verdict holds what the log has of this producer, in log order, against the ledger.
func (l *ledger) verdict(log []stored) []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var faults []error
	fault := func(format string, args ...any) {
		if len(faults) < 10 {
			faults = append(faults, fmt.Errorf(l.name+": "+format, args...))
		}
	}
	times := make(map[int]int, len(log))
	last, lastIn := -1, make(map[int]int)
	for _, r := range log {
		if r.n < 0 || r.n >= l.sent {
			fault("record %d at %d-%d was never sent", r.n, r.partition, r.offset)
			continue
		}
		times[r.n]++
		if l.once && times[r.n] > 1 {
			fault("record %d is there again at %d-%d", r.n, r.partition, r.offset)
			continue
		}
		if l.once && r.n < last {
			fault("record %d at %d-%d comes after %d", r.n, r.partition, r.offset, last)
		}
		last = max(last, r.n)
		period, ordered := l.periodOf[r.n]
		if !l.once && ordered && times[r.n] == 1 {
			if r.n < lastIn[period]-1 {
				fault("record %d at %d-%d comes after %d of the same connection", r.n, r.partition, r.offset, lastIn[period]-1)
			}
			lastIn[period] = max(lastIn[period], r.n+1)
		}
	}
	for n := range l.acked {
		if times[n] == 0 {
			fault("record %d was acknowledged and is lost", n)
		}
	}
	return faults
}

// seen remembers what a live consumer was given, by place, as a checksum: nobody may ever be given anything else there.
type seen struct {
	mu     sync.Mutex
	values map[place]uint32
	faults []error
}

type place struct {
	topic     string
	partition int32
	offset    int64
}

func (s *seen) add(p place, value []byte) {
	sum := crc32.ChecksumIEEE(value)
	s.mu.Lock()
	defer s.mu.Unlock()
	if had, ok := s.values[p]; ok && had != sum && len(s.faults) < 10 {
		s.faults = append(s.faults, fmt.Errorf("%v had another record before", p))
	}
	s.values[p] = sum
}
