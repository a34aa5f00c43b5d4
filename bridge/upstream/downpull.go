package upstream

import (
	"context"
	"errors"
	"sync"
	"time"

	"millrace/broker/record"
)

const (
	// portionsMax is how many partitions are asked for at once. Where there are more, the peer waits only crowdWait for records.
	portionsMax = 512
	crowdWait   = 500 * time.Millisecond
	// partMax is the most that is appended to a partition at once, in bytes of records and their frames: less than what topics
	// take by default.
	partMax = 512 << 10
	// pullLeast is the least room there is for records that are appended together, and pullMax the most that is asked for at
	// once, in bytes: each answer is garbage afterwards.
	pullLeast, pullMax = 16 << 10, 256 << 10
	// fullFirst and fullMax are how long a full disk is waited for before it is tried again.
	fullFirst, fullMax = time.Second, 30 * time.Second
)

// puller takes the records of partitions that one broker leads. It belongs to one goroutine, and the partitions to it.
type puller struct {
	*Down
	r      Reader
	leader int32
	parts  []*inlet
	first  int // whose turn it is to be asked for first
	room   int // bytes of a group
	until  time.Time
	catch  catch
	list   []Portion
	asked  []*inlet
	fresh  bool // one of them was not heard of
	again  bool // the peer has to be looked at
}

// pull takes records until the peer has to be looked at again.
func (d *Down) pull(ctx context.Context, r Reader, until time.Time) error {
	by := map[int32]*puller{}
	d.mu.Lock()
	for _, s := range d.order {
		for _, in := range s.parts {
			switch {
			case in.goes():
				p := by[in.leader]
				if p == nil {
					p = &puller{Down: d, r: r, leader: in.leader}
					by[in.leader] = p
				}
				p.parts = append(p.parts, in)
			case in.verdict == Go && s.refused == "": // it has no leader, is not where it was said to be, or is no more
				until = earlier(until, time.Now().Add(min(lookSoon<<min(in.moves, 5), pollWait)))
				in.moves++
			case !in.verdict.Stopped() && !in.retry.IsZero():
				until = earlier(until, in.retry)
			}
		}
	}
	behind := d.behindLocked()
	d.mu.Unlock()
	if len(by) == 0 {
		if !behind {
			d.set(StateIdle, "")
		}
		wait, stop := context.WithDeadline(ctx, until)
		defer stop()
		<-wait.Done()
		return errAgain
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	var once sync.Once
	var first error
	for _, p := range by {
		p.room, p.until = max(d.cfg.TransactionBytes/len(by), pullLeast), until
		p.catch = catch{board: d.cfg.Board, cluster: r.Cluster(), keep: 2 * p.room}
		running.Go(func() {
			err := p.run(ctx)
			once.Do(func() { first = err })
			cancel()
		})
	}
	running.Wait()
	return first
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func (p *puller) run(ctx context.Context) error {
	ready := p.ready()
	for {
		now := time.Now()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case p.again, !now.Before(p.until):
			return errAgain
		}
		class, quantum, wait := p.env.Scheduler.Next(p.env.Clock.Now(), Live, ready)
		if class < 0 {
			p.set(StateWaiting, "")
			if wait >= quietDown {
				return errQuiet
			}
			rest(ctx, max(wait, time.Millisecond))
			continue
		}
		if !p.ask() {
			return errAgain // all of them are held back
		}
		if err := p.fetch(ctx, class, max(min(quantum, p.room, pullMax), 1)); err != nil {
			return err
		}
	}
}

// rest waits.
func rest(ctx context.Context, wait time.Duration) {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// ask says what to fetch: another partition comes first each time, for the first that has something is always served.
func (p *puller) ask() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list, p.asked, p.fresh = p.list[:0], p.asked[:0], false
	for i := range p.parts {
		in := p.parts[(p.first+i)%len(p.parts)]
		if !in.goes() || len(p.list) == portionsMax {
			continue
		}
		from := in.pos
		if in.compare {
			from = in.cursor.Last
		}
		p.list = append(p.list, Portion{Topic: in.of.name, ID: in.of.upstreamID, Partition: in.index, Epoch: in.epoch, From: from})
		p.asked = append(p.asked, in)
		p.fresh = p.fresh || !in.heard
	}
	p.first = (p.first + 1) % len(p.parts)
	if len(p.parts) > portionsMax {
		p.first = (p.first + portionsMax - 1) % len(p.parts)
	}
	return len(p.list) > 0
}

// fetch asks once, and appends what comes.
func (p *puller) fetch(ctx context.Context, class, bytes int) error {
	wait := min(pollWait, time.Until(p.until))
	if len(p.parts) > len(p.list) {
		wait = min(wait, crowdWait)
	}
	if p.fresh { // whether all is there is known at once
		wait = 0
	}
	began := time.Now()
	if err := p.r.Fetch(ctx, p.leader, p.list, bytes, max(wait, 0)); err != nil {
		return err
	}
	took, got := time.Since(began), 0
	for i := range p.list {
		got += len(p.list[i].Batches)
	}
	if over := int64(got - 2*p.room); over > 0 { // one batch that is larger
		p.env.Budget.Overdraw(over)
		defer p.env.Budget.Release(over)
	}
	if got > 0 {
		p.set(StateSending, "")
	}
	before := p.catch.total
	for i, in := range p.asked {
		if err := p.take(ctx, in, &p.list[i]); err != nil {
			return err
		}
	}
	if err := p.flush(ctx); err != nil {
		return err
	}
	p.env.Scheduler.Sent(p.env.Clock.Now(), Live, class, p.catch.total-before)
	p.fetched(p.catch.total-before, took)
	return nil
}

// fetched notes how fast it goes, and whether all is there.
func (p *puller) fetched(bytes int, took time.Duration) {
	p.mu.Lock()
	behind := p.behindLocked()
	if bytes > 0 {
		rate := float64(bytes) / max(took.Seconds(), 1e-3)
		if p.rate == 0 {
			p.rate = rate
		}
		if behind { // else most of the time was spent waiting for records
			p.rate += (rate - p.rate) / 8
		}
	}
	p.mu.Unlock()
	if !behind {
		p.set(StateIdle, "")
	}
}

// behindLocked says that there is something to take, or that nobody knows yet.
func (d *Down) behindLocked() bool {
	for _, s := range d.order {
		for _, in := range s.parts {
			if in.verdict == Go && (in.pos < in.end || !in.heard && in.leader >= 0 && in.log != nil) {
				return true
			}
		}
	}
	return false
}

// take adds what came of one partition, appending as often as there is no more room.
func (p *puller) take(ctx context.Context, in *inlet, got *Portion) error {
	p.mu.Lock()
	switch err := got.Err; {
	case errors.Is(err, ErrOutOfRange):
		in.checked, in.outside, p.again = false, true, true
	case errors.Is(err, ErrMoved):
		p.again = true
	case err != nil:
		p.holdLocked(in, Refused, err.Error())
	default:
		in.end, in.heard, in.moves = max(got.Stable, in.pos), true, 0
	}
	p.mu.Unlock()
	if got.Err != nil {
		return nil
	}
	for {
		full, err := p.catch.gather(in, got, p.room)
		switch {
		case errors.Is(err, errOther):
			p.catch.drop()
			p.mu.Lock()
			p.verdictLocked(in, UpstreamOther, err.Error())
			p.mu.Unlock()
			return nil
		case err != nil: // what was before it is good
			p.mu.Lock()
			p.holdLocked(in, Unreadable, err.Error())
			p.mu.Unlock()
			return nil
		case !full:
			return nil
		}
		at := in.pos
		if err := p.flush(ctx); err != nil {
			return err
		}
		if !in.goes() || in.pos == at { // refused, or to be asked for in smaller pieces
			return nil
		}
	}
}

// flush appends what was gathered.
func (p *puller) flush(ctx context.Context) error {
	list := p.catch.landed[:0]
	p.mu.Lock()
	for _, c := range p.catch.landed {
		if c.worth() {
			list = append(list, c)
			continue
		}
		c.in.pos, c.in.compare = c.next, c.in.compare && !c.compared
		p.count.Looped += int64(c.looped)
	}
	p.mu.Unlock()
	if len(list) > 0 {
		if err := p.land(ctx, list); err != nil {
			return err
		}
	}
	p.catch.reset()
	return nil
}

// land appends records together with the cursors that say so. What the board will not have holds up its partition alone.
func (p *puller) land(ctx context.Context, list []*landed) error {
	parts, err := p.bundle(ctx, list)
	for wait := fullFirst; err == nil; wait = min(2*wait, fullMax) {
		if err = p.env.Store.Append(parts); !errors.Is(err, ErrFull) {
			break
		}
		p.set(StateWaiting, err.Error())
		rest(ctx, wait)
		err = ctx.Err()
	}
	refused := errors.Is(err, ErrTooLarge) || errors.Is(err, ErrUnwanted) || errors.Is(err, ErrGone)
	if refused && len(list) > 1 {
		for _, c := range list {
			if err := p.land(ctx, []*landed{c}); err != nil {
				return err
			}
		}
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch in := list[0].in; {
	case err == nil:
		p.count.Transactions++
		for _, c := range list {
			p.landLocked(c)
		}
		p.env.Backoff.Reset()
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, ErrGone):
		in.checked, p.again = false, true
	case errors.Is(err, ErrTooLarge) && len(list[0].records) > 1:
		in.most = max(1, list[0].bytes/2)
	case refused:
		p.holdLocked(in, Refused, "the board: "+err.Error())
	default:
		p.known = false // whether it is there, the log knows
		p.count.Unknown++
		return err
	}
	return nil
}

// bundle is what is appended together.
func (p *puller) bundle(ctx context.Context, list []*landed) ([]Part, error) {
	now := p.env.Clock.Now().UnixMilli()
	parts := make([]Part, 0, len(list)+2)
	var marks, gaps []record.Record
	for _, c := range list {
		if len(c.records) > 0 {
			parts = append(parts, Part{c.in.log, c.records})
		}
		l := c.cursor()
		m, err := l.record(p.cfg.Name, c.in.id(), now)
		if err != nil {
			return nil, err
		}
		marks = append(marks, m)
		if c.gone != nil {
			g, err := p.gap(c.in, *c.gone, CauseRetention, now)
			if err != nil {
				return nil, err
			}
			gaps = append(gaps, g)
		}
	}
	return p.beside(ctx, parts, marks, gaps)
}

// beside adds cursors and gaps to what is appended.
func (d *Down) beside(ctx context.Context, parts []Part, marks, gaps []record.Record) ([]Part, error) {
	to, err := d.own(ctx, LandingTopic)
	if err != nil {
		return nil, err
	}
	parts = append(parts, Part{to, marks})
	if len(gaps) > 0 {
		if to, err = d.own(ctx, LocalGapTopic); err != nil {
			return nil, err
		}
		parts = append(parts, Part{to, gaps})
	}
	return parts, nil
}

func (d *Down) gap(in *inlet, lost Range, cause string, now int64) (record.Record, error) {
	key, value, err := hole{lost, cause}.record(&d.cfg, in.of.name, in.index, now)
	return record.Record{Timestamp: now, Key: key, Value: value}, err
}

// landLocked notes that records are on flash.
func (d *Down) landLocked(c *landed) {
	in := c.in
	in.cursor, in.has, in.pos, in.strikes = c.cursor(), true, c.next, 0
	in.compare = in.compare && !c.compared
	mark := in.cursor
	d.marks[in.id()] = &mark
	d.count.Records += int64(len(c.records))
	d.count.Bytes += int64(c.bytes)
	d.count.Looped += int64(c.looped)
	if len(c.records) > 0 {
		d.last = d.env.Clock.Now()
	}
	if c.gone != nil {
		in.gone = nil
		d.lostLocked(in, *c.gone, CauseRetention)
	}
}

func (d *Down) lostLocked(in *inlet, lost Range, cause string) {
	d.count.Gaps++
	d.count.Lost += lost.End - lost.First
	d.log.Error("records upstream are lost to the board", "topic", in.of.name, "partition", in.index,
		"first", lost.First, "last", lost.End-1, "cause", cause)
}
