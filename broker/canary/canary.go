// Package canary shows that the data path is alive: that what is appended is synced, passes the high watermark, and is
// read back as it was. Where clients' records did so lately, that is proof enough; a board at rest sends a record of its own.
package canary

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"syscall"
	"time"

	"millrace/broker/partition"
	"millrace/broker/record"
)

// TopicName is the topic the canary's own records lie in. Settings keep its space on the disk whatever else is full, and
// bound it: a segment and the one before.
const TopicName = "__canary"

// BesideName is the topic for when that one is damaged.
const BesideName = "__canary_beside"

// Settings are what the topic is made with.
var Settings = map[string]string{
	"cleanup.policy": "delete", "segment.bytes": "1048576", "retention.bytes": "1048576", "retention.ms": "-1",
	"preallocate": "true", "flush.messages": "1", "compression.type": "producer",
}

// readMax bounds what is read back of clients' records; a batch that is larger is not asked for, the canary then flies itself.
const readMax = 64 << 10

// retry is how long after a failure it is tried again, at most: a journal that begins a new file needs no longer.
const retry = time.Second

// Config is what a canary needs.
type Config struct {
	// Log finds the canary's own partition, and makes it where there is none.
	Log func(context.Context) (*partition.Partition, error)
	// Interval is the time between two looks. An idle board writes one record for each.
	Interval time.Duration
	// Alive is called after each look that found the data path alive. A full disk counts as alive: no reset makes room.
	Alive func()
	// NowMS is the time in milliseconds since some fixed moment; it never goes back.
	NowMS func() int64
	// Logger is told what fails.
	Logger *slog.Logger
}

// Canary is safe for concurrent use.
type Canary struct {
	cfg Config
	// rode is a partition whose high watermark moved since the last look.
	rode atomic.Pointer[partition.Partition]

	flown, ridden, full, failed atomic.Int64
	lastMS                      atomic.Int64
	failing                     bool // owned by Run
}

// New returns a canary that does not fly yet.
func New(cfg Config) *Canary { return &Canary{cfg: cfg} }

// Advanced says that a high watermark has moved. It costs a store.
func (c *Canary) Advanced(p *partition.Partition) {
	if p.Topic() != TopicName && p.Topic() != BesideName {
		c.rode.Store(p)
	}
}

// Figures count the looks since the start.
type Figures struct {
	Flown  int64 // with a record of the canary's own
	Ridden int64 // clients' records were proof enough
	Full   int64 // no room for a record, which is not death
	Failed int64
	LastMS int64 // how long the last of the own records took, ms
}

// Figures is safe to call at any time.
func (c *Canary) Figures() Figures {
	return Figures{c.flown.Load(), c.ridden.Load(), c.full.Load(), c.failed.Load(), c.lastMS.Load()}
}

// Run looks every Interval until ctx ends, the first time after one. While something stands still so does Run, and Alive
// is not called.
func (c *Canary) Run(ctx context.Context) {
	timer := time.NewTimer(c.cfg.Interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if c.look(ctx) {
			timer.Reset(c.cfg.Interval)
		} else {
			timer.Reset(min(retry, c.cfg.Interval))
		}
	}
}

// look reports whether the data path is alive.
func (c *Canary) look(ctx context.Context) bool {
	if p := c.rode.Swap(nil); p != nil && ride(p) {
		c.ridden.Add(1)
		c.tell(nil)
		c.cfg.Alive()
		return true
	}
	err := c.fly(ctx)
	switch {
	case err == nil:
		c.flown.Add(1)
	case errors.Is(err, partition.ErrDiskFull), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		c.full.Add(1)
		err = nil
	case ctx.Err() != nil:
		return false
	default:
		c.failed.Add(1)
	}
	c.tell(err)
	if err == nil {
		c.cfg.Alive()
	}
	return err == nil
}

// tell logs a failure once, and its end.
func (c *Canary) tell(err error) {
	switch {
	case err != nil && !c.failing:
		c.cfg.Logger.Error("the canary failed: the data path does not take records; tried again until it does", "err", err)
	case err == nil && c.failing:
		c.cfg.Logger.Info("the canary flies again")
	}
	c.failing = err != nil
}

// ride reads back what passed the high watermark last; false where it is too large, or gone meanwhile.
func ride(p *partition.Partition) bool {
	span, err := p.Read(p.High()-1, 1)
	if err != nil {
		return false
	}
	defer span.Release()
	if span.Len() == 0 || span.Len() > readMax {
		return false
	}
	_, err = span.Append(make([]byte, 0, span.Len()))
	return err == nil
}

var errChanged = errors.New("what was read back is not what was written")

// fly appends a record of the canary's own, waits until it is synced, and reads it back.
func (c *Canary) fly(ctx context.Context) error {
	p, err := c.cfg.Log(ctx)
	if err != nil {
		return err
	}
	began := c.cfg.NowMS()
	song := fmt.Appendf(nil, "canary %d", began)
	landed := make(chan partition.AppendResult, 1)
	p.AppendRecords([]record.Record{{Value: song}}, partition.AppendOptions{Epoch: -1, Internal: true},
		func(r partition.AppendResult) { landed <- r })
	var r partition.AppendResult
	select {
	case r = <-landed:
	case <-ctx.Done():
		return ctx.Err()
	}
	if r.Err != nil {
		return r.Err
	}
	if high := p.High(); high <= r.Base {
		return fmt.Errorf("%s: record %d is synced, and the high watermark is %d", p, r.Base, high)
	}
	span, err := p.Read(r.Base, 1)
	if err != nil {
		return err
	}
	defer span.Release()
	raw, err := span.Append(nil)
	if err != nil {
		return err
	}
	if !bytes.Contains(raw, song) { // never compressed
		return fmt.Errorf("%s: record %d: %w", p, r.Base, errChanged)
	}
	c.lastMS.Store(c.cfg.NowMS() - began)
	return nil
}
