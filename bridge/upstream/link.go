package upstream

import (
	"context"
	"errors"
)

// Link is one way upstream. Its methods are safe for concurrent use.
type Link struct {
	cfg Config
	env Env
}

// New makes a link that does nothing until Run. It returns ErrConfig.
func New(cfg Config, env Env) (*Link, error) {
	cfg, err := cfg.whole()
	if err != nil {
		return nil, err
	}
	return &Link{cfg: cfg, env: env}, nil
}

// Run sends until ctx ends, and returns when everything it began has ended. It is called once. What goes wrong is waited
// out, and in Status; there is no error that ends it.
func (l *Link) Run(ctx context.Context) { <-ctx.Done() }

// Pause stops sending after the transaction that is under way. A link may be paused before Run.
func (l *Link) Pause() {}

// Resume goes on after Pause, and after the link was fenced.
func (l *Link) Resume() {}

// Kick makes a link try again, or look at the time and the contract again, now.
func (l *Link) Kick() {}

// Status says how the link is.
func (l *Link) Status() Status { return Status{} }

// Needed is the lowest offset of a partition that the link still has to send, and the priority of its class: 0 is the
// highest. needed is false for what it does not carry, or has delivered. A topic with another id is not carried.
// What a stopped partition has not delivered is needed.
func (l *Link) Needed(topic string, id [16]byte, partition int32) (from int64, priority int, needed bool) {
	return 0, 0, false
}

// Decision is what a person decides about a partition that stopped.
type Decision struct {
	// How is Accept, Earliest, Latest or At.
	How How
	// Offset is where to go on with At.
	Offset int64
}

// How is the kind of a Decision.
type How int

const (
	// Accept takes the topics as they are now, and goes on where it was.
	Accept How = iota
	// Earliest sends all that the log has.
	Earliest
	// Latest goes on with what is written from now on.
	Latest
	// At goes on at an offset.
	At
)

// ErrUnknownPartition is returned by Resolve for a partition that the link does not carry.
var ErrUnknownPartition = errors.New("the link does not carry that partition")

// Resolve carries out a decision: it writes the cursor, and a gap record for what is skipped, in a transaction upstream,
// and returns when that is committed, or ctx ends: then it may still happen. It works on partitions that go, too.
func (l *Link) Resolve(ctx context.Context, topic string, partition int32, d Decision) error {
	return ErrUnknownPartition
}
