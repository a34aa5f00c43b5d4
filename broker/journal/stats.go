package journal

import (
	"sync/atomic"
	"time"
)

// SyncBounds divide Stats.SyncTimes: a write that RAM or a controller's cache takes, a card as it should be, one that
// erases, and one that keeps clients waiting.
var SyncBounds = [...]time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, time.Second, 5 * time.Second,
}

// Stats are counters since Open; they only grow, but for FrontBytes, Segments and Queued.
type Stats struct {
	Commits      int64 // acknowledged commits, one frame each
	Groups       int64 // acknowledged groups
	InlineBytes  int64 // batch bytes inside frames
	PointedBytes int64 // batch bytes that frames point at
	FrameBytes   int64 // bytes of all frames, with the wal's own framing
	ZeroBytes    int64 // zeros written ahead
	Syncs        int64 // syncs of the journal's own file
	SyncTime     time.Duration
	SyncTimes    [len(SyncBounds) + 1]int64 // of Syncs, how many took at most each of SyncBounds and more than the one before; last: longer
	Failures     int64                      // commits that failed
	Restarts     int64                      // new files made after failures
	Rolls        int64
	Dropped      int64 // wal segments let go: unlinked, or kept to be used again
	Reused       int64 // rolls that went on in one of those
	Reopened     int64 // times the wal was reopened to forget unlinked segments
	Fronted      int64 // commits that were acknowledged from the front
	Drains       int64 // times the front was emptied into the wal
	FrontFailed  int64 // failures of the front; after the first nothing is acknowledged from it
	FrontBytes   int64 // bytes in the front that are not in the wal now
	Segments     int   // wal segments now
	Queued       int   // bytes that wait for a commit now
}

type counters struct {
	commits, groups, inline, pointed, frame, zero, syncs, syncNanos,
	failures, restarts, rolls, dropped, reused, reopened,
	fronted, drains, frontFailures, frontBytes atomic.Int64
	syncTimes [len(SyncBounds) + 1]atomic.Int64
}

// synced counts a sync that took so long.
func (c *counters) synced(took time.Duration) {
	c.syncs.Add(1)
	c.syncNanos.Add(int64(took))
	at := 0
	for at < len(SyncBounds) && took > SyncBounds[at] {
		at++
	}
	c.syncTimes[at].Add(1)
}

func (c *counters) stats() Stats {
	s := Stats{
		Commits:      c.commits.Load(),
		Groups:       c.groups.Load(),
		InlineBytes:  c.inline.Load(),
		PointedBytes: c.pointed.Load(),
		FrameBytes:   c.frame.Load(),
		ZeroBytes:    c.zero.Load(),
		Syncs:        c.syncs.Load(),
		SyncTime:     time.Duration(c.syncNanos.Load()),
		Failures:     c.failures.Load(),
		Restarts:     c.restarts.Load(),
		Rolls:        c.rolls.Load(),
		Dropped:      c.dropped.Load(),
		Reused:       c.reused.Load(),
		Reopened:     c.reopened.Load(),
		Fronted:      c.fronted.Load(),
		Drains:       c.drains.Load(),
		FrontFailed:  c.frontFailures.Load(),
		FrontBytes:   c.frontBytes.Load(),
	}
	for i := range c.syncTimes {
		s.SyncTimes[i] = c.syncTimes[i].Load()
	}
	return s
}
