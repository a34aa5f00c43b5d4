package contract

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// RateMin is the least rate, in bytes a second, that may be asked for. Below it a TLS handshake and one answer about a
	// topic take longer than any peer waits.
	RateMin = 4 << 10

	pieceMin = 512      // of what is sent or read in one go: with less, headers would be most of what is on the wire
	pieceMax = 16 << 10 // a TLS record
)

// DialFunc is a net.Dialer's DialContext, and what kgo.Dialer takes.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Meter counts and limits what all connections of one link carry together, in both directions, below TLS: handshakes, TLS's own
// bytes and the Kafka protocol are all in. Headers of TCP and IP, and what TCP sends twice, are not: no program sees these; they are
// 3 to 5 % with full packets. Safe for concurrent use.
//
// Writes are delayed, in small pieces, so that over any time t all connections carry at most rate*t bytes and a burst of
// half a second and an eighth of one for each connection. What is read counts as well: it is a debt that the next writes
// and reads wait for, so that a peer that sends too fast is slowed down by TCP itself.
//
// # Deadlines
//
// The time for which the Meter itself holds a write or a read back is not counted against the connection's deadlines: a
// deadline is about the peer and the network. One that is set to the past or to now ends a wait at once, which is how
// kgo passes on a context that is done. So a slow rate fires none of kgo's timeouts by itself: kgo gives each write
// RequestTimeoutOverhead (10 s), and begins to count for an answer when the write is over. What is left to the one who
// uses it:
//
//   - A peer's own clocks run while a request trickles in. A transaction has to be over before its transaction.timeout.ms,
//     and a batch before delivery timeouts and contexts. So a transaction holds at most what TransactionBytes says, which is
//     2 s of the link, and at least one record; transaction.timeout.ms is TransactionTimeout's of the largest record.
//   - A dial with a TLS handshake under a context needs DialTimeout instead of 10 s.
//   - The link without a configured rate may be as slow: the kernel's buffer takes a megabyte at once, and the 10 s for the
//     answer run while it drains. So the measured rate counts in TransactionBytes.
type Meter struct {
	bucket         bucket
	budget         *Budget // or nil
	sent, received atomic.Int64
}

// NewMeter has the rate in bytes a second, 0 for none, and the day's budget, nil for none.
func NewMeter(rate int64, budget *Budget) (*Meter, error) {
	m := &Meter{budget: budget}
	return m, m.SetRate(rate)
}

// SetRate changes the rate, in bytes a second; 0 is none. What is owed stays owed.
func (m *Meter) SetRate(rate int64) error {
	if rate != 0 && rate < RateMin {
		return fmt.Errorf("rate of %d bytes a second: at least %d are needed", rate, RateMin)
	}
	m.bucket.setRate(rate, time.Now())
	return nil
}

// Sent is how many bytes all connections have sent.
func (m *Meter) Sent() int64 { return m.sent.Load() }

// Received is how many bytes all connections have received.
func (m *Meter) Received() int64 { return m.received.Load() }

// Dial has the connections that dial makes counted and limited. TLS goes over them, not below.
func (m *Meter) Dial(dial DialFunc) DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		raw, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return m.Conn(raw), nil
	}
}

// piece is how much is sent or read in one go; 0 is all of it.
func (m *Meter) piece() int {
	rate, piece := m.bucket.perSecond(), 0
	if rate > 0 {
		piece = int(min(max(rate/8, pieceMin), pieceMax))
	}
	if m.budget != nil && (piece == 0 || m.budget.piece() < piece) {
		piece = m.budget.piece()
	}
	return piece
}

// bucket is the token bucket, as the time at which it is level: bytes taken move it on.
type bucket struct {
	mu   sync.Mutex
	rate int64     // bytes a second, 0 is none
	even time.Time // when all that was taken is paid; before now is what has been saved, half a second at most
}

func (b *bucket) perSecond() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rate
}

func (b *bucket) setRate(rate int64, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if owed := b.even.Sub(now); b.rate > 0 && rate > 0 && owed > 0 {
		b.even = now.Add(time.Duration(float64(owed) * float64(b.rate) / float64(rate)))
	} else {
		b.even = now
	}
	b.rate = rate
}

// take takes n bytes, and says how long to wait before they may go. With none it is how long others have to wait already.
func (b *bucket) take(n int, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rate == 0 {
		return 0
	}
	if saved := now.Add(-time.Second / 2); b.even.Before(saved) {
		b.even = saved
	}
	b.even = b.even.Add(time.Duration(int64(n) * int64(time.Second) / b.rate))
	return max(b.even.Sub(now), 0)
}

// TransactionBytes is how many bytes the next transaction should hold at most, before compression, where one record may be
// larger: 1 MiB, or what the link carries in 2 s if that is less. rate is the configured one and measured what the link has
// been seen to carry, both in bytes a second, 0 where there is none.
func TransactionBytes(rate int64, measured float64) int64 {
	const most, least = 1 << 20, 4 << 10
	bytes := int64(most)
	if rate > 0 && rate < most {
		bytes = min(bytes, 2*rate)
	}
	if measured > 0 && measured < most {
		bytes = min(bytes, int64(2*measured))
	}
	return max(bytes, least)
}

// TransactionTimeout is the transaction.timeout.ms for a link on which the largest request has so many bytes: twice what they take at
// the rate, and a minute. A peer allows 15 minutes by default (transaction.max.timeout.ms), which is what it is at most.
func TransactionTimeout(rate, largest int64) time.Duration {
	return min(time.Minute+2*carries(rate, largest), 15*time.Minute)
}

// DialTimeout is how long a connect with a TLS handshake and a login may take on a link of the rate: 10 s, and what 16 KiB take.
func DialTimeout(rate int64) time.Duration { return 10*time.Second + carries(rate, 16<<10) }

// carries is how long a link of the rate takes for the bytes, an hour at most.
func carries(rate, bytes int64) time.Duration {
	if rate <= 0 || bytes <= 0 {
		return 0
	}
	return time.Duration(min(float64(bytes)/float64(rate), 3600) * float64(time.Second))
}
