package upstream

import "time"

// State is what a link is doing.
type State string

// The states of a link.
const (
	StateStarting   State = "starting"   // Run has not been called
	StateConnecting State = "connecting" // it takes over, reads cursors, or waits to try again: Reason says why
	StateSending    State = "sending"    // there is something to send, and it goes
	StateIdle       State = "idle"       // all is delivered
	StateWaiting    State = "waiting"    // a window, a budget or the class holds it back
	StatePaused     State = "paused"     // by Pause
	StateFenced     State = "fenced"     // another process has the board's identity: until Resume
	StateRefused    State = "refused"    // the peer will not have it: Reason says why; it is tried again now and then
	StateStopped    State = "stopped"    // Run has returned
)

// Status is what a link can say about itself. It is bounded: PartitionsShown partitions at most.
type Status struct {
	Name   string
	State  State
	Reason string    // why it is in this state; while it connects, what is being done
	Since  time.Time // when the state began
	// Records and Bytes are what is behind: Records counts offsets, Bytes is an estimate by the log's size.
	Records, Bytes int64
	// Classes are what is behind of each class of the Scheduler, nil where there is one only, or the link goes down.
	Classes []Lag
	// Partitions is how many are carried; Behind, Stopped and Refused how many of them are so; Left how many are left out
	// because there are too many.
	Partitions, Behind, Stopped, Refused, Left int
	// LastSuccess is when something was last committed in this life, zero for never.
	LastSuccess time.Time
	// Rate is how fast transactions go, in bytes of keys, values and headers per second of sending, 0 before the first.
	Rate float64
	// Sent are counters of this life.
	Sent Counters
	// Groups are those whose offsets are committed upstream.
	Groups GroupsStatus
	// Notes are what a person may want to know that holds no record up.
	Notes []string
	// List are the partitions that are not simply delivered, stopped ones first; More is how many did not fit.
	List []PartitionStatus
	More int
}

// Lag is what is behind: Records counts offsets, Bytes is an estimate by the log's size.
type Lag struct{ Records, Bytes int64 }

// PartitionsShown is how many partitions a Status lists.
const PartitionsShown = 64

// Counters count what happened in this life of a link.
type Counters struct {
	Records      int64 // committed
	Bytes        int64 // of keys, values and headers, committed
	Transactions int64 // committed
	Unknown      int64 // transactions whose outcome had to be looked up
	Connects     int64 // sessions begun
	Gaps         int64 // gap records committed
	Lost         int64 // offsets in them
	Looped       int64 // records left out because they came from the peer
	Heartbeats   int64 // committed
}

// PartitionStatus is one partition of a link.
type PartitionStatus struct {
	Topic     string
	Partition int32
	Verdict   Verdict
	Reason    string // for a person, "" for Go
	// Next is the first offset that the live lane has not delivered, Records how many are behind in both lanes.
	Next, Records int64
	// Ranges are what the backfill lane has to do yet.
	Ranges []Range
}

// Range is the offsets First to End-1.
type Range struct{ First, End int64 }

// Status says how the link is.
func (l *Link) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Status{
		Name: l.cfg.Name, State: l.state, Reason: l.reason, Since: l.since, Left: l.table.left,
		LastSuccess: l.lastSuccess, Rate: l.rate, Sent: l.count,
		Groups: l.groupsLocked(),
	}
	if n := l.env.Scheduler.Classes(); n > 1 {
		s.Classes = make([]Lag, n)
	}
	for _, note := range []struct{ what, reason string }{{"no heartbeats", l.beats.reason}, {"settings of topics do not follow", l.follows.reason}} {
		if note.reason != "" {
			s.Notes = append(s.Notes, note.what+": "+note.reason)
		}
	}
	topics := map[string]bool{} // a deleted one needs no decision, and the table may not know yet
	for _, name := range l.env.Log.Names() {
		topics[name] = true
	}
	for stopped := range 2 { // these first
		for _, p := range l.table.all {
			if p.verdict.Stopped() != (stopped == 0) || !topics[p.topic] {
				continue
			}
			s.Partitions++
			records, bytes := p.lag()
			s.Records += records
			s.Bytes += bytes
			if p.class < len(s.Classes) {
				s.Classes[p.class].Records += records
				s.Classes[p.class].Bytes += bytes
			}
			switch {
			case p.verdict.Stopped():
				s.Stopped++
			case p.verdict != Go:
				s.Refused++
			case records == 0:
				continue
			}
			if records > 0 {
				s.Behind++
			}
			if len(s.List) == PartitionsShown {
				s.More++
				continue
			}
			s.List = append(s.List, PartitionStatus{
				Topic: p.topic, Partition: p.index, Verdict: p.verdict, Reason: p.reason, Next: p.lane[Live].cursor.Next,
				Records: records, Ranges: p.open(),
			})
		}
	}
	return s
}
