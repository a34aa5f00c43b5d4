// Package cleaner gives disk space back: retention by arrival time and by size, compaction to the last value of every key,
// and, where a topic's policy says so, the oldest segments of a disk that is full; what links still need goes last. Beside that it reads, slowly, what nobody reads, and finds what has rotted.
package cleaner

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync/atomic"
	"time"

	"millrace/broker/catalog"
	"millrace/broker/partition"
)

// Partition is what the cleaner needs of one. *partition.Partition is the real one.
type Partition interface {
	fmt.Stringer
	Config() *catalog.TopicConfig
	Retain(nowMS int64) (partition.Retained, error)
	// Offer is the oldest segment that could go, DropOldest gives it up unless its class is below the one told.
	Offer() (partition.Offer, bool)
	DropOldest(class int) (partition.Retained, error)
	// Needed is the lowest offset that a link still needs, math.MaxInt64 for none, and its class.
	Needed() (from int64, class int)
	Scrub(maxBytes int) (checked int64, err error)
	Log
}

// Space is what the cleaner needs of the disk. *disk.Space is the real one.
type Space interface {
	Refresh(nowMS int64)
	// Low says whether n more bytes would cut into the reserve.
	Low(n int64) bool
	// Room says whether n more bytes leave what nobody may touch.
	Room(n int64) bool
}

const (
	scrubBytes = 8 << 20         // checked again in a pass, of all partitions together: a GiB in half a day
	scrubSlice = 1 << 20         // of one partition at a time, which a checkpoint may have to wait for
	scrubEvery = 4 * time.Minute // passes for want of space come more often
)

// Config is what a Cleaner is given.
type Config struct {
	Partitions func() iter.Seq[Partition]
	Space      Space // nil: no limit to keep
	// Now is a time that only runs, whatever happens to the board's clock: ages go by it.
	Now func() time.Time
	// Date is the date for what happens at such a time: tombstones carry it into later lives. nil: the same
	Date func(time.Time) time.Time
	// Elapsed is when Now began to run, or any other instant since.
	Elapsed func() time.Duration
	Logger  *slog.Logger
	// Headroom is how far above the reserve a full disk is cleared, in bytes, so that it is not full again at once.
	Headroom int64
	// Checkpoint makes one of the store's: only what both slots have seen may be compacted. nil: it waits for them.
	Checkpoint func() error
	// Save writes down how far logs are compacted. nil: after a restart it begins anew.
	Save func() error
	// Memory is what compaction takes while it works, in bytes, Budget how much it reads and writes in a pass.
	// [1 MiB, 64 MiB]
	Memory int
	Budget int64
}

// Cleaner makes its passes in one goroutine, Run, whenever Sweep asks for one.
type Cleaner struct {
	cfg      Config
	wake     chan struct{}
	scrubbed time.Duration // when the last scrub began

	job          *job  // the compaction that the last pass did not come to the end of
	spent        int64 // bytes of the pass's share of compaction
	breath       int64 // at so many it looks whether somebody waits
	unsaved      bool
	checkpointed bool // for the sake of compaction, in this pass

	compacted atomic.Int64 // logs
	saved     atomic.Int64 // bytes
	removed   atomic.Int64 // segments
	freed     atomic.Int64 // bytes
	dropped   atomic.Int64 // records given up because the disk was full

	// Of those, what a link still needed.
	sacrificedRecords, sacrificedBytes atomic.Int64
}

// New makes a cleaner. Run it.
func New(cfg Config) *Cleaner {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Date == nil {
		cfg.Date = func(now time.Time) time.Time { return now }
	}
	if cfg.Memory == 0 {
		cfg.Memory = compactMemory
	}
	if cfg.Budget == 0 {
		cfg.Budget = compactBudget
	}
	return &Cleaner{cfg: cfg, wake: make(chan struct{}, 1)}
}

// Sweep asks for a pass soon: by a slow timer, and when an append met a full disk. It never blocks.
func (c *Cleaner) Sweep() {
	select {
	case c.wake <- struct{}{}:
	default: // one is asked for already
	}
}

// Run makes passes until ctx is done. The caller owns the goroutine.
func (c *Cleaner) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		if err := c.Pass(ctx); err != nil {
			c.cfg.Logger.Error("retention and compaction", "err", err)
		}
	}
}

// Removed is the segments removed so far, Freed their bytes, Dropped the records given up for want of space.
func (c *Cleaner) Removed() int64 { return c.removed.Load() }

// Freed is the bytes of the segments removed so far.
func (c *Cleaner) Freed() int64 { return c.freed.Load() }

// Dropped is the records that were given up because the disk was full.
func (c *Cleaner) Dropped() int64 { return c.dropped.Load() }

// Compacted counts the compactions of a log that came to their end, Saved the bytes they saved.
func (c *Cleaner) Compacted() int64 { return c.compacted.Load() }

// Saved is the bytes that compaction has saved.
func (c *Cleaner) Saved() int64 { return c.saved.Load() }

// Pass looks at every partition once. An error of one keeps no other from being cleaned. A compaction ends with ctx, and
// what it has come to is kept. Not concurrently.
func (c *Cleaner) Pass(ctx context.Context) error {
	now, err := c.makeWay()
	errs := []error{err, c.compact(ctx, now)}
	if at := c.cfg.Elapsed(); at-c.scrubbed >= scrubEvery {
		c.scrubbed = at
		errs = append(errs, c.scrub())
	}
	return errors.Join(errs...)
}

// makeWay is the part of a pass that cannot wait: retention, and room on a full disk. now is when it began, ms.
func (c *Cleaner) makeWay() (now int64, err error) {
	now = c.cfg.Now().UnixMilli()
	var errs []error
	for p := range c.cfg.Partitions() {
		r, err := p.Retain(now)
		errs = append(errs, err)
		c.count(p, r, "retention")
	}
	if c.cfg.Space != nil {
		c.cfg.Space.Refresh(now)
		errs = append(errs, c.makeRoom(now))
	}
	return now, errors.Join(errs...)
}

// breathe is called by compaction all along: it may read for minutes, and a full disk must not wait for it.
func (c *Cleaner) breathe() {
	if c.spent < c.breath {
		return
	}
	c.breath = c.spent + breathEvery
	select {
	case <-c.wake:
		if _, err := c.makeWay(); err != nil {
			c.cfg.Logger.Error("retention", "err", err)
		}
	default:
	}
}

// scrub has every partition check a slice of what it has, until the pass's share is used up. They come in no order.
func (c *Cleaner) scrub() error {
	var errs []error
	left := int64(scrubBytes)
	for p := range c.cfg.Partitions() {
		if left <= 0 {
			break
		}
		n, err := p.Scrub(scrubSlice)
		errs = append(errs, err)
		left -= n
	}
	return errors.Join(errs...)
}

func (c *Cleaner) count(p Partition, r partition.Retained, why string) {
	if r.Segments == 0 {
		return
	}
	c.removed.Add(int64(r.Segments))
	c.freed.Add(r.Bytes)
	c.cfg.Logger.Info("segments removed", "partition", p.String(), "why", why,
		"segments", r.Segments, "bytes", r.Bytes, "from", r.From, "to", r.To)
}
