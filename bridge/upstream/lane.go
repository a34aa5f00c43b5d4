package upstream

import (
	"context"
	"errors"
	"math"
	"time"
)

const (
	// firstTransaction is how large transactions are before the link is known, in bytes.
	firstTransaction = 384 << 10
	// transactionTarget is how long a transaction is to take at most, and brisk how quick one must be for the next to be larger.
	transactionTarget = 2 * time.Second
	brisk             = time.Second
	// swift is a transaction that has little to win by being larger: a lane takes several times its size of memory. Only when so
	// many in a row were not swift the next one is larger: a busy board is no slow link.
	swift   = 100 * time.Millisecond
	slowRun = 4
	// patienceMax is how long a transaction may take at most. Brokers allow 15 minutes, unless they are told otherwise.
	patienceMax = 10 * time.Minute
	// patienceLeast is what is not gone below where the peer allows no longer ones.
	patienceLeast = 5 * time.Second
	// grace is how long a transaction that is under way may take when the link is to end.
	grace = 2 * time.Second
	// jumpEvery is how often the live lane looks whether it is too far behind.
	jumpEvery = time.Second
	// lingerLook is how often a lane that gathers records looks whether it is to do something else.
	lingerLook = 200 * time.Millisecond
	// holdFirst and holdMax are how long a refused partition waits: the first time, and at most.
	holdFirst, holdMax = time.Minute, time.Hour
)

// lane sends one lane's transactions over one session. It belongs to one goroutine.
type lane struct {
	*Link
	lane    Lane
	session Session
	since   time.Time // it runs
	other   bool      // the other lane runs too
	filler  filler
	drafts  []*draft
	ready   []bool
	// size and patience are the Link's.
	size     int
	patience time.Duration
	slow     int // transactions in a row that were not swift
	rested   bool
	gathers  time.Time // since when records are gathered
	seek     seek      // the live lane's
	lookAt   time.Time // when lastLook is due
}

// run sends until something fails; errHalted when the link is not to.
func (ln *lane) run(ctx context.Context) error {
	ln.ready, ln.since = make([]bool, ln.env.Scheduler.Classes()), time.Now()
	ln.mu.Lock()
	ln.size, ln.patience = ln.Link.size[ln.lane], ln.Link.patience[ln.lane]
	ln.mu.Unlock()
	for {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if ln.halted() {
			return errHalted
		}
		wait, deaf, err := ln.step(ctx)
		if err != nil {
			return err
		}
		if wait != 0 {
			ln.rest(ctx, wait, deaf)
		}
	}
}

// reasonGather is why a link does not send what it may.
const reasonGather = "for more records (linger.ms)"

// forever is a wait for a kick.
const forever = time.Duration(-1)

// rest waits; deaf, it hears no kicks.
func (ln *lane) rest(ctx context.Context, wait time.Duration, deaf bool) {
	var due <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		due = t.C
	}
	wake := ln.wake[ln.lane]
	if deaf {
		wake = nil
	}
	select {
	case <-ctx.Done():
	case <-due:
	case <-wake:
	}
}

// step does one thing, at most one transaction, and says how long there is nothing to do.
func (ln *lane) step(ctx context.Context) (wait time.Duration, deaf bool, err error) {
	if ln.lane == Live {
		if err := ln.chores(ctx); err != nil {
			return 0, false, err
		}
	}
	ln.mu.Lock()
	some := ln.table.ready(ln.lane, ln.ready)
	if some && ln.rested {
		ln.rested, ln.gathers = false, time.Now()
	}
	linger := ln.linger(ln.ready)
	if left := time.Until(ln.gathers.Add(linger)); some && left > 0 && !ln.enoughLocked() { // the other lane need not wait for what is only gathered
		if ln.shares.lingers[ln.lane] = true; linger > lingerLook {
			ln.setLocked(StateWaiting, reasonGather)
		}
		ln.mu.Unlock()
		if beats, _ := ln.beatAlone(left); beats {
			return 0, false, ln.beatNow(ctx)
		}
		return min(left, lingerLook), true, nil
	}
	ln.gathers = time.Time{}
	ln.shares.lingers[ln.lane] = false
	ln.pendingLocked(some)
	if !some {
		wait = ln.tendLocked(ln.untilRetryLocked())
		ln.restedLocked()
		ln.mu.Unlock()
		ln.rested = true
		beats, wait := ln.beatAlone(wait)
		if beats {
			return 0, false, ln.beatNow(ctx)
		}
		wait, err = ln.lastLook(ctx, wait)
		return wait, false, err
	}
	turn := ln.shares.turn(ln.lane)
	ln.mu.Unlock()
	if !turn {
		return forever, false, nil
	}
	wait, err = ln.build()
	switch {
	case err != nil:
		return 0, false, err
	case wait > 0:
		ln.rested = true // what comes while others wait for the contract is gathered, too
		ln.mu.Lock()
		ln.pendingLocked(false)
		ln.setLocked(StateWaiting, "")
		alone := !ln.shares.busy(1 - ln.lane)
		ln.mu.Unlock()
		if alone && wait >= quietLeast {
			return 0, false, errQuiet
		}
		return wait, false, nil
	case len(ln.drafts) == 0:
		return 0, false, nil
	}
	return 0, false, ln.commit(ctx)
}

// linger is how long records of the classes that are ready are gathered: as long as those that wait the least, for what the
// others have costs little more in a transaction that is made anyway.
func (l *Link) linger(ready []bool) time.Duration {
	least := time.Duration(math.MaxInt64)
	for class, some := range ready {
		if some {
			least = min(least, l.env.Scheduler.Linger(class, l.cfg.Linger))
		}
	}
	if least == math.MaxInt64 {
		return l.cfg.Linger
	}
	return least
}

// enoughLocked says that there is a whole transaction to send already.
func (ln *lane) enoughLocked() bool {
	return ln.lane == Backfill || ln.aheadLocked() >= int64(ln.size)
}

// pendingLocked notes whether the lane has something it may send, and tells the other one, whose turn it may be now.
func (ln *lane) pendingLocked(pending bool) {
	if ln.shares.pending[ln.lane] != pending {
		ln.shares.note(ln.lane, pending)
		ln.kick(int(1 - ln.lane))
	}
}

// untilRetryLocked is how long the live lane has nothing to do.
func (ln *lane) untilRetryLocked() time.Duration {
	next := ln.nextRetry
	if due := ln.hintDueLocked(); next.IsZero() || !due.IsZero() && due.Before(next) {
		next = due
	}
	if ln.lane != Live || next.IsZero() {
		return forever
	}
	return max(time.Millisecond, time.Until(next))
}

// restedLocked notes that a lane has nothing to do: when both have not, the link is idle.
func (ln *lane) restedLocked() {
	if !ln.shares.pending[Live] && !ln.shares.pending[Backfill] {
		ln.setLocked(StateIdle, "")
	}
}

// chores are what the live lane does for the link between transactions.
func (ln *lane) chores(ctx context.Context) error {
	ln.mu.Lock()
	stale := ln.news.drain(ln.table.heard)
	stale = ln.retryLocked() || stale
	ln.jumpLocked()
	ln.mu.Unlock()
	ln.keep(memoryWhenUp)
	ln.keepHint(memoryWhenUp)
	if stale {
		if err := ln.refresh(ctx, ln.session); err != nil {
			return err
		}
		ln.kick(int(Backfill))
	}
	ln.tend(ctx)
	if err := ln.follow(ctx); err != nil {
		return err
	}
	return ln.decide(ctx)
}

// retryLocked takes refused partitions whose time has come up again. The table is to be refreshed then.
func (ln *lane) retryLocked() (some bool) {
	now := time.Now()
	if ln.nextRetry.IsZero() || now.Before(ln.nextRetry) {
		return false
	}
	ln.nextRetry = time.Time{}
	for _, p := range ln.table.all {
		switch {
		case p.verdict != Refused && p.verdict != Unreadable:
		case now.Before(p.retry):
			ln.retryAtLocked(p.retry)
		default:
			p.verdict, p.reason, some = Go, "", true
		}
	}
	return some
}

func (l *Link) retryAtLocked(at time.Time) {
	if l.nextRetry.IsZero() || at.Before(l.nextRetry) {
		l.nextRetry = at
	}
}

// holdLocked leaves a partition alone for a while.
func (l *Link) holdLocked(p *part, v Verdict, reason string) {
	if p.verdict != v || p.reason != reason {
		l.log.Error("partition is held back", "topic", p.topic, "partition", p.index, "reason", reason)
	}
	p.verdict, p.reason = v, reason
	p.retry = time.Now().Add(min(holdFirst<<min(p.strikes, 6), holdMax))
	p.strikes++
	l.retryAtLocked(p.retry)
}

// jumpLocked marks what the live lane leaves to the other one.
func (ln *lane) jumpLocked() {
	now := time.Now()
	if ln.cfg.Order != LiveFirst || !ln.other || now.Sub(ln.lookedAt) < jumpEvery {
		return
	}
	ln.lookedAt = now
	if ln.aheadLocked() <= max(int64(ln.size), int64(ln.rate*ln.cfg.LiveBehind.Seconds())) {
		return
	}
	for _, p := range ln.table.all {
		pos := p.lane[Live]
		if p.log == nil || p.verdict != Go || p.log.High() <= pos.pos {
			continue
		}
		list := p.open()
		if n := len(list); n < rangesMax || list[n-1].End == pos.cursor.Next {
			p.jump = true
			ln.table.enqueue(Live, p)
		}
	}
}

// aheadLocked is about how many bytes the live lane is behind in all partitions.
func (l *Link) aheadLocked() (total int64) {
	for _, p := range l.table.all {
		if p.log != nil && p.verdict == Go {
			total += p.ahead()
		}
	}
	return total
}

// ahead is about how many bytes the live lane is behind in a partition.
func (p *part) ahead() int64 {
	start, high := p.log.Start(), p.log.High()
	if n := high - max(start, p.lane[Live].pos); n > 0 {
		return int64(float64(p.log.Size()) * float64(n) / float64(high-start))
	}
	return 0
}

// build gathers a transaction. With wait nothing may be sent for so long. Partitions that had nothing are done with.
func (ln *lane) build() (wait time.Duration, err error) {
	ln.filler.reset()
	ln.drafts = ln.drafts[:0]
	now := ln.env.Clock.Now()
	for ln.filler.bytes < ln.size && len(ln.filler.records) < recordsMax && len(ln.drafts) < draftsMax {
		ln.mu.Lock()
		some := ln.table.ready(ln.lane, ln.ready)
		ln.mu.Unlock()
		if !some {
			break
		}
		class, quantum, later := ln.env.Scheduler.Next(now, ln.lane, ln.ready)
		if class < 0 {
			wait = max(later, time.Millisecond)
			break
		}
		before := ln.filler.bytes
		if ln.serve(class, min(quantum, ln.size-ln.filler.bytes)) {
			break
		}
		ln.env.Scheduler.Sent(now, ln.lane, class, ln.filler.bytes-before)
	}
	ln.settle()
	if len(ln.drafts) > 0 {
		wait = 0
	}
	return wait, nil
}

// serve adds what the next partition of a class has. full says that the transaction holds no more.
func (ln *lane) serve(class, room int) (full bool) {
	ln.mu.Lock()
	p := ln.table.dequeue(ln.lane, class)
	d := ln.draftLocked(p)
	ln.mu.Unlock()
	if d == nil {
		return false
	}
	records := len(ln.filler.records)
	err := ln.filler.fill(d, room)
	ln.mu.Lock()
	defer ln.mu.Unlock()
	switch {
	case errors.Is(err, ErrGone):
		ln.news.mu.Lock()
		ln.news.stale = true
		ln.news.mu.Unlock()
		p.log = nil
		return false
	case err != nil:
		ln.holdLocked(p, Unreadable, err.Error())
		return false
	}
	if d.cursor.Next < min(d.end, d.log.High()) && (d.most == 0 || d.bytes < d.most) {
		ln.table.enqueue(ln.lane, p)
	}
	return d.full && len(ln.filler.records) == records && records > 0
}

// draftLocked is what the transaction does to a partition, nil where there is nothing to do.
func (ln *lane) draftLocked(p *part) *draft {
	if p.verdict != Go || p.held || p.log == nil || p.to.have == 0 {
		return nil
	}
	pos := p.lane[ln.lane]
	if pos.draft != nil {
		return pos.draft
	}
	live := p.lane[Live]
	if live.has && live.cursor.Local != p.id {
		return nil // made anew, and not judged yet
	}
	d := &draft{
		part: p, lane: ln.lane, log: p.log, id: p.id, to: p.to.name, mine: p.to.mine, have: p.to.have, most: p.most,
		base: pos.cursor.Next, cursor: pos.cursor,
	}
	d.cursor.Local, d.cursor.Upstream, d.cursor.UpstreamID = p.id, p.to.name, p.to.id
	high := p.log.High()
	if ln.lane == Backfill {
		from, end, some := p.rest()
		if !some {
			return nil
		}
		if !pos.has || pos.cursor.Turn != live.cursor.Turn {
			d.cursor.Last, d.cursor.CRC, d.cursor.Turn, d.base = -1, 0, live.cursor.Turn, from
		}
		d.cursor.Next, d.end = from, end
		if pos.pos > from && pos.pos < end {
			d.cursor.Next = pos.pos
		}
	} else {
		if high < pos.pos {
			p.verdict, p.reason = Judge(&Cursor{Local: p.id, Next: pos.pos}, Facts{Local: p.id, High: high})
			ln.log.Error("partition is stopped", "topic", p.topic, "partition", p.index, "reason", p.reason)
			ln.stopLocked(p)
			p.show()
			return nil
		}
		d.cursor.Next, d.end = pos.pos, math.MaxInt64
		d.cursor.Ranges = p.open()
		if p.jump {
			p.jump = false
			d.leap(max(p.log.Start(), pos.pos), high)
		}
	}
	pos.draft = d
	ln.drafts = append(ln.drafts, d)
	return d
}

// leap leaves what lies before high to the other lane.
func (d *draft) leap(from, high int64) {
	d.gone(from)
	if high <= d.cursor.Next {
		return
	}
	list := d.cursor.Ranges
	switch n := len(list); {
	case n > 0 && list[n-1].End == d.cursor.Next:
		list[n-1].End = high
	case n < rangesMax:
		d.cursor.Ranges = append(list, Range{d.cursor.Next, high})
	default:
		return
	}
	d.cursor.Next, d.moved = high, true
}

// settle drops drafts that are not worth a transaction, keeping how far the lane has looked.
func (ln *lane) settle() {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	kept := ln.drafts[:0]
	for _, d := range ln.drafts {
		pos := d.part.lane[d.lane]
		if d.lane == Backfill && d.cursor.Next >= d.end {
			d.moved = true // the range is finished: the live lane wants to know
		}
		if d.worth() {
			kept = append(kept, d)
			continue
		}
		pos.pos, pos.draft = d.cursor.Next, nil
		ln.count.Looped += int64(d.looped)
	}
	ln.drafts = kept
}
