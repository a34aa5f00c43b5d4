package journal

import (
	"sync/atomic"
	"time"
)

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
	Failures     int64 // commits that failed
	Restarts     int64 // new files made after failures
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
}

func (c *counters) stats() Stats {
	return Stats{
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
}
