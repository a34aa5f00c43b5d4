package contract

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// ClaimsMax is how many claimants a Scheduler serves: a Set holds no more.
const ClaimsMax = 64

// Set is a set of claimants by their index, one bit each.
type Set uint64

// With is the set and i.
func (s Set) With(i int) Set { return s | 1<<i }

// Has tells whether i is in the set.
func (s Set) Has(i int) bool { return s>>i&1 != 0 }

// Claim is what one claimant may ask of what they share.
type Claim struct {
	Priority     int     // 0 is the highest
	MinimumShare float64 // of all bytes, 0 to 1, while it has something to send, whatever those above it have
}

const (
	million = 1_000_000 // shares are counted in millionths, so that what is owed is exact
	// owedMax bounds what is owed, in bytes: it is more than any transaction's bytes, and its millionths fit an int64.
	owedMax = 1 << 40
)

// Scheduler shares a link among its classes, or a class among the lanes. Minimum shares come first; what they leave goes to
// the highest priority that has something to send, by turns where several have the same. It holds a few numbers for each
// claimant and remembers nothing else. It is not safe for concurrent use.
//
// The promise, which the tests prove: over any stretch in which a claimant has something to send all the time and N bytes are
// sent in all, its own are at least its minimum share of N, less (claimants + 1) times the largest transaction. Those who
// have nothing to send save nothing up, and who was served by priority owes nothing for it. While no minimum is owed, nothing is sent of a class while one of a higher priority waits.
type Scheduler struct {
	claims []claim
}

type claim struct {
	priority int
	share    int64 // millionths
	// owed is what its minimum share entitles it to and it has not sent, in millionths of bytes. It grows by the share of
	// what is sent; what it sends because it is owed pays, what it sends by priority neither pays nor earns.
	//
	// Invariant: -owedMax*million <= owed <= owedMax*million, and after Pick at most 0 where it has nothing to send. It is
	// never below what the largest transaction costs.
	owed int64
	// ahead is how many bytes it had more than the one of the same priority that had least, and has something to send.
	//
	// Invariant: 0 <= ahead <= owedMax, and after Pick at most the room of a transaction.
	ahead int64
}

// NewScheduler refuses more than ClaimsMax claims, negative priorities, and minimum shares that are none or more than all
// together.
func NewScheduler(claims []Claim) (*Scheduler, error) {
	if len(claims) == 0 || len(claims) > ClaimsMax {
		return nil, fmt.Errorf("%d classes: there may be 1 to %d", len(claims), ClaimsMax)
	}
	s := &Scheduler{claims: make([]claim, len(claims))}
	var all int64
	for i, c := range claims {
		if math.IsNaN(c.MinimumShare) || c.MinimumShare < 0 || c.MinimumShare > 1 {
			return nil, fmt.Errorf("minimum share %v is not between 0 and 1", c.MinimumShare)
		}
		if c.Priority < 0 {
			return nil, fmt.Errorf("priority %d: 0 is the highest", c.Priority)
		}
		s.claims[i] = claim{priority: c.Priority, share: int64(math.Round(c.MinimumShare * million))}
		all += s.claims[i].share
	}
	if all > million {
		return nil, errors.New("the minimum shares are more than 1 together")
	}
	return s, nil
}

// Pick says who of pending sends next, and how many bytes at most, which is room; -1 and 0 where pending is empty or room is
// not positive. A transaction that has room left may be filled by another Pick without those that have nothing more. What
// was sent is said to Sent.
func (s *Scheduler) Pick(pending Set, room int64) (claimant int, bytes int64) {
	if room = min(room, owedMax); room <= 0 {
		return -1, 0
	}
	claimant = -1
	owed := int64(0)
	for i := range s.claims {
		c := &s.claims[i]
		if !pending.Has(i) {
			c.owed, c.ahead = min(c.owed, 0), 0
			continue
		}
		// One transaction ahead is all that counts among equals, so that nobody pays for long for what was long ago.
		c.ahead = min(c.ahead, room)
		if c.owed > owed {
			claimant, owed = i, c.owed
		}
	}
	if claimant >= 0 {
		return claimant, room
	}
	if claimant = s.highest(pending); claimant < 0 {
		return -1, 0
	}
	least := s.claims[claimant].ahead
	for i := range s.claims {
		if c := &s.claims[i]; pending.Has(i) && c.priority == s.claims[claimant].priority {
			c.ahead -= least
		}
	}
	return claimant, room
}

// highest is the one of the highest priority, of several the one that had least, of several the first; -1 if pending is empty.
func (s *Scheduler) highest(pending Set) int {
	best := -1
	for left := uint64(pending); left != 0; left &= left - 1 {
		i := bits.TrailingZeros64(left)
		if i >= len(s.claims) {
			break
		}
		if best < 0 || s.claims[i].priority < s.claims[best].priority ||
			s.claims[i].priority == s.claims[best].priority && s.claims[i].ahead < s.claims[best].ahead {
			best = i
		}
	}
	return best
}

// Sent takes note of what the claimant of the last Pick sent, before the next Pick. They may be more bytes than Pick allowed, as
// one record can be.
func (s *Scheduler) Sent(claimant int, bytes int64) {
	if bytes = min(bytes, owedMax); bytes <= 0 {
		return
	}
	c := &s.claims[claimant]
	c.ahead = min(c.ahead+bytes, owedMax)
	paid := c.owed > 0
	for i := range s.claims {
		if i != claimant {
			o := &s.claims[i].owed
			*o = min(*o+s.claims[i].share*bytes, owedMax*million)
		}
	}
	if paid {
		c.owed = max(c.owed-(million-c.share)*bytes, -owedMax*million)
	}
}
