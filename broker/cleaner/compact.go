package cleaner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"millrace/broker/partition"
	"millrace/broker/record"
)

const (
	// compactMemory is what compaction takes while it works, of all logs together, beside a few batches.
	compactMemory = 1 << 20
	// compactBudget is how many bytes are read and written before retention has its turn again.
	compactBudget = 64 << 20
	// breathEvery is how many it reads before it looks whether a sweep was asked for.
	breathEvery = 1 << 20
)

// Log is what compaction needs of a partition. *partition.Partition is the real one.
type Log interface {
	Cleanable() partition.Cleanable
	Scan(partition.Closed, func(record.Batch) error) (whole bool, err error)
	Rewrite(run []partition.Closed, fill func(add func(batches []byte) error) error) (size int64, err error)
	LastOf(producer, offset int64) bool
	Cleaned(to int64)
}

// plan says what there is to compact of a log.
type plan struct {
	p       Partition
	sources []partition.Closed
	dirty   int64
	ratio   float64 // of it that is dirty
	due     bool    // max.compaction.lag.ms is over
}

// planFor looks at closed segments. It is not worth it, ok false, while too little of them is dirty.
func planFor(p Partition, closed []partition.Closed, dirty, now int64) (plan, bool) {
	cfg := p.Config()
	w := plan{p: p, dirty: dirty}
	var dirtyBytes, all int64
	for _, s := range closed {
		if s.Next > dirty {
			if cfg.MinCompactionLagMS > 0 && now-s.Arrival <= cfg.MinCompactionLagMS {
				break
			}
			dirtyBytes += s.Size
			w.due = w.due || now-s.Opened > cfg.MaxCompactionLagMS
		}
		all += s.Size
		w.sources = append(w.sources, s)
	}
	if dirtyBytes == 0 {
		return w, false
	}
	w.ratio = float64(dirtyBytes) / float64(all)
	return w, w.due || w.ratio > cfg.MinCleanableRatio
}

// compact goes on with the log it was at, and then takes the dirtiest ones, until the pass's share is used up.
func (c *Cleaner) compact(ctx context.Context, now int64) error {
	c.spent, c.breath = 0, 0
	plans := c.plans(now)
	if len(plans) == 0 && c.job == nil {
		return nil
	}
	keys := newOffsetMap(c.cfg.Memory * 3 / 4)
	dead := make(bits, max(1, (c.cfg.Memory-keys.bytes())/8))
	var errs []error
	work := func(j *job) (on bool) {
		v := &view{job: j, c: c, ctx: ctx, cfg: j.p.Config(), keys: keys, dead: dead}
		v.now, v.wall = now, c.cfg.Date(time.UnixMilli(now)).UnixMilli()
		v.needed, _ = j.p.Needed()
		done, err := v.attempt()
		c.job = nil
		switch {
		case done:
			j.p.Cleaned(j.end)
			c.cleaned(j)
			return true
		case err == nil:
			c.job = j
			c.Sweep() // what is left is not for the next timer
			return false
		case errors.Is(err, errNoRoom) || errors.Is(err, partition.ErrDiskFull):
			c.job = j
			c.cfg.Logger.Warn("no room to compact; it waits", "partition", j.p.String(), "at", j.next)
			return false
		case errors.Is(err, partition.ErrChanged), ctx.Err() != nil:
		default:
			errs = append(errs, fmt.Errorf("compact %s: %w", j.p, err))
		}
		return ctx.Err() == nil
	}
	on := c.job == nil || work(c.job)
	for _, w := range plans {
		if !on {
			break
		}
		end := w.sources[len(w.sources)-1].Next
		on = work(&job{p: w.p, dirty: w.dirty, end: end, next: w.sources[0].Base})
	}
	if c.cfg.Space != nil {
		c.cfg.Space.Refresh(now)
	}
	return errors.Join(append(errs, c.save())...)
}

// attempt takes a job as far as it comes.
func (v *view) attempt() (done bool, err error) {
	v.refresh()
	done, err = v.run()
	if errors.Is(err, errDirtier) {
		v.refresh()
		if len(v.sources) == 0 {
			return false, partition.ErrChanged
		}
		v.dirty, v.next, v.hold, v.mapped = v.sources[0].Base, v.sources[0].Base, false, [2]int64{}
		done, err = v.run()
	}
	return done, err
}

// plans are the logs that are worth it, the dirtiest first. Where all that is wanting is that checkpoints have seen the
// segments, they are made.
func (c *Cleaner) plans(now int64) []plan {
	var plans []plan
	unseen := false
	for p := range c.cfg.Partitions() {
		if !p.Config().CleanupCompact || c.job != nil && c.job.p == p {
			continue
		}
		can := p.Cleanable()
		if w, ok := planFor(p, can.Closed, can.Dirty, now); ok {
			plans = append(plans, w)
		} else if _, ok := planFor(p, slices.Concat(can.Closed, can.Waiting), can.Dirty, now); ok {
			unseen = true
		}
	}
	if unseen && c.cfg.Checkpoint != nil && !c.checkpointed {
		c.checkpointed = true
		if err := errors.Join(c.cfg.Checkpoint(), c.cfg.Checkpoint()); err != nil { // there are two slots
			c.cfg.Logger.Error("checkpoint for compaction failed", "err", err)
			return plans
		}
		return c.plans(now)
	}
	c.checkpointed = false
	slices.SortStableFunc(plans, func(a, b plan) int {
		switch {
		case a.due != b.due && a.due, a.due == b.due && a.ratio > b.ratio:
			return -1
		case a.due == b.due && a.ratio == b.ratio:
			return 0
		}
		return 1
	})
	return plans
}

// room says whether n bytes more leave what even internal writes may not touch: compaction frees space, so that it may go
// into the reserve as they may.
func (c *Cleaner) room(n int64) bool { return c.cfg.Space == nil || c.cfg.Space.Room(n) }

// cleaned counts a log that is done.
func (c *Cleaner) cleaned(j *job) {
	c.unsaved = true
	c.compacted.Add(1)
	c.saved.Add(j.before - j.after)
	if j.rewritten > 0 {
		c.cfg.Logger.Info("log compacted", "partition", j.p.String(), "to", j.end,
			"segments", j.rewritten, "bytes", j.before, "left", j.after)
	}
}

// save writes down how far the logs are.
func (c *Cleaner) save() error {
	if !c.unsaved || c.cfg.Save == nil {
		return nil
	}
	c.unsaved = false
	return c.cfg.Save()
}

var _ Log = (*partition.Partition)(nil)
