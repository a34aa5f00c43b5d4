package upstream

import (
	"math/rand/v2"
	"time"
)

// Scheduler says what may be sent when: classes of topics with their priorities and shares, windows, budgets.
// bridge/upstream/contract has the real one. Its methods are called by both lanes, concurrently.
type Scheduler interface {
	// Classes is how many classes there are, at least 1.
	Classes() int
	// Class is the one a topic is in, 0 <= class < Classes().
	Class(topic string) int
	// Priority is that of a class, 0 the highest: what is kept longest where something has to go.
	Priority(class int) int
	// Linger is how long records of a class are gathered where usual is the link's Config.Linger. One that may not go now
	// hurries nobody: it has usual, or more.
	Linger(class int, usual time.Duration) time.Duration
	// Next says of which class a lane may send now, of those that are ready, and how many bytes at most: at least one
	// record goes, however large. With no class, -1, nothing may be sent before wait has passed. ready is not kept.
	Next(now time.Time, lane Lane, ready []bool) (class, bytes int, wait time.Duration)
	// Sent says what was put into a transaction of a class, in bytes of keys, values and headers. It may have to go again.
	Sent(now time.Time, lane Lane, class, bytes int)
}

// oneClass is the Scheduler of a link without a contract.
type oneClass struct{}

func (oneClass) Classes() int                                    { return 1 }
func (oneClass) Class(string) int                                { return 0 }
func (oneClass) Priority(int) int                                { return 0 }
func (oneClass) Linger(_ int, usual time.Duration) time.Duration { return usual }
func (oneClass) Sent(time.Time, Lane, int, int)                  {}
func (oneClass) Next(_ time.Time, _ Lane, ready []bool) (class, bytes int, wait time.Duration) {
	return 0, 1 << 30, 0
}

// Backoff says how long to wait before the next try.
type Backoff interface {
	// Next is the wait after one more failure.
	Next() time.Duration
	// Reset is told of a success.
	Reset()
}

// doubling is a Backoff: 1 s, doubled up to 60 s, of which a random half is waited at least.
type doubling struct{ failures int }

func (d *doubling) Next() time.Duration {
	wait := min(time.Second<<min(d.failures, 6), time.Minute)
	d.failures++
	return wait/2 + rand.N(wait/2)
}

func (d *doubling) Reset() { d.failures = 0 }
