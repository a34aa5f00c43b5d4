// Package contract is what a link may send when: classes of topics with priorities and minimum shares, windows of the day in a time zone,
// bytes a second and a day, how long to wait after a failure, and an honest estimate of how long a backlog will take. It
// decides and counts; what it decides about is bridge/upstream's. Time is handed in as a Moment, except that connections
// under a Meter wait by the process's timers.
package contract

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"millrace/broker/catalog"
)

// ClassesMax is how many classes may be declared.
const ClassesMax = 32

// Class is one [[upstream.class]].
type Class struct {
	Topics       []string // patterns of whole topic names, in which * is any run of characters
	Priority     int      // 0 is the highest
	MinimumShare float64  // of the link's bytes, 0 to 1, while it has something to send
	Windows      []string // nil: the link's; empty: always
	// Metered classes go over a link that is metered, too. Those of priority 0 do in any case.
	Metered bool
	Linger  *time.Duration // how long its records are gathered; nil: as long as the link's
}

// Config is the part of an [[upstream]] that says what is sent when.
type Config struct {
	Classes []Class // in order: a topic is in the first that matches
	Windows []string
	Zone    *time.Location // nil is UTC
	Metered bool
}

// Contract is what the classes of a link may send when. Behind the declared classes there is one more, for all topics that no
// declared one matches: its windows are the link's, and its priority is one below the lowest that was declared, or 0 where there
// is none.
//
// A link can be metered: it is paid for by the byte now, as a connection of NetworkManager can be. Then only classes of priority 0
// and those that say Metered go; the others wait until it no longer is. Where no class is declared all topics are of priority
// 0, and all go.
//
// Safe for concurrent use.
type Contract struct {
	classes []class

	mu      sync.Mutex
	share   *Scheduler
	metered bool
}

type class struct {
	Class
	schedule Schedule
}

// New refuses what ParseSchedule and NewScheduler refuse, and classes without topics.
func New(cfg Config) (*Contract, error) {
	if n := len(cfg.Classes); n > ClassesMax {
		return nil, fmt.Errorf("%d classes, and %d are allowed", n, ClassesMax)
	}
	ofLink, err := ParseSchedule(cfg.Windows, cfg.Zone)
	if err != nil {
		return nil, err
	}
	c := &Contract{metered: cfg.Metered}
	rest := Class{Topics: []string{"*"}}
	for i, in := range cfg.Classes {
		if len(in.Topics) == 0 || slices.Contains(in.Topics, "") {
			return nil, fmt.Errorf("class %d has no topics", i+1)
		}
		schedule := ofLink
		if in.Windows != nil {
			if schedule, err = ParseSchedule(in.Windows, cfg.Zone); err != nil {
				return nil, fmt.Errorf("class %d: %w", i+1, err)
			}
		}
		c.classes = append(c.classes, class{in, schedule})
		rest.Priority = max(rest.Priority, min(in.Priority, math.MaxInt-1)+1)
	}
	c.classes = append(c.classes, class{rest, ofLink})
	claims := make([]Claim, len(c.classes))
	for i, in := range c.classes {
		claims[i] = Claim{in.Priority, in.MinimumShare}
	}
	if c.share, err = NewScheduler(claims); err != nil {
		return nil, err
	}
	return c, nil
}

// Classes is how many there are, the one for the rest included, which is the last.
func (c *Contract) Classes() int { return len(c.classes) }

// Class is the index of the topic's class.
func (c *Contract) Class(topic string) int {
	for i, in := range c.classes[:len(c.classes)-1] {
		if slices.ContainsFunc(in.Topics, func(p string) bool { return catalog.Matches(p, topic) }) {
			return i
		}
	}
	return len(c.classes) - 1
}

// Priority is the class's; 0 is the highest.
func (c *Contract) Priority(class int) int { return c.classes[class].Priority }

// Linger is how long records of the class are gathered, where usual is what the link says.
func (c *Contract) Linger(class int, usual time.Duration) time.Duration {
	if own := c.classes[class].Linger; own != nil {
		return *own
	}
	return usual
}

// Schedule is the class's windows.
func (c *Contract) Schedule(class int) Schedule { return c.classes[class].schedule }

// SetMetered says whether the link is metered now.
func (c *Contract) SetMetered(metered bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.metered = metered
}

// Metered tells whether the link is metered now.
func (c *Contract) Metered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.metered
}

// Allowed is the classes that may send now: whose windows are open, and, where the link is metered, that go over one.
func (c *Contract) Allowed(now Moment) Set {
	metered := c.Metered()
	var s Set
	for i, in := range c.classes {
		if in.schedule.Open(now) && (!metered || in.Metered || in.Priority == 0) {
			s = s.With(i)
		}
	}
	return s
}

// Next is when the windows of a class open or close next; false where none ever will, or nobody knows because the time is not known.
func (c *Contract) Next(now Moment) (at time.Time, ok bool) {
	for _, in := range c.classes {
		if t, fine := in.schedule.Next(now); fine && (!ok || t.Before(at)) {
			at, ok = t, true
		}
	}
	return at, ok
}

// Pick is Scheduler.Pick among the classes of pending that are allowed now.
func (c *Contract) Pick(now Moment, pending Set, room int64) (class int, bytes int64) {
	pending &= c.Allowed(now)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.share.Pick(pending, room)
}

const (
	// leftMin is what of a day's bytes is too little for another transaction: it would be headers and goodbyes.
	leftMin = 4 << 10
	// lookAgain is how soon a link that may send nothing looks again: the time can become known, or the link no longer metered.
	lookAgain = time.Minute
)

// Turn is Pick with the bytes of the day considered. Where nothing may be sent class is -1, and nothing may be before wait has passed,
// which is until a window opens or the day renews, and a minute at most. room is TransactionBytes.
func (c *Contract) Turn(now Moment, pending Set, room int64, day Day) (class int, bytes int64, wait time.Duration) {
	soon := func(at time.Time) time.Duration {
		return min(max(at.Sub(now.Time), time.Millisecond), lookAgain)
	}
	if day.Err != nil || day.Left < leftMin {
		if day.Renews.IsZero() {
			return -1, 0, lookAgain
		}
		return -1, 0, soon(day.Renews)
	}
	if class, bytes = c.Pick(now, pending, min(room, day.Left)); class >= 0 {
		return class, bytes, 0
	}
	if at, ok := c.Next(now); ok {
		return -1, 0, soon(at)
	}
	return -1, 0, lookAgain
}

// Sent is Scheduler.Sent.
func (c *Contract) Sent(class int, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.share.Sent(class, bytes)
}
