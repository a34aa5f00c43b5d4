package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"millrace/broker/record"
)

// errUnfit is returned for topics upstream that cursors cannot be kept in.
var errUnfit = errors.New("cursor topic is unfit")

// errNoTopic is why nothing goes to a topic that was made, and is not seen yet.
var errNoTopic = errors.New("it is not there yet")

// connect takes over, reads the cursors, and sends until something fails.
func (l *Link) connect(ctx context.Context) error {
	l.set(StateConnecting, reasonMemory)
	both := l.cfg.Order == LiveFirst || l.backfilled
	var rooms [lanes]func()
	defer func() {
		for _, release := range rooms {
			if release != nil {
				release()
			}
		}
	}()
	room := func(lane Lane) (err error) {
		rooms[lane], err = l.cfg.room(ctx, l.env.Budget, 1)
		return err
	}
	if err := room(Live); err != nil { // before anything is taken over, which would only wait then
		return err
	}
	if both {
		if err := room(Backfill); err != nil {
			return err
		}
	}
	l.set(StateConnecting, "taking over")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.interruptBy(cancel)
	defer l.interruptBy(nil)
	var sessions [lanes]Session
	defer func() {
		for _, s := range sessions {
			if s != nil {
				s.Close()
			}
		}
	}()
	open := func(lane Lane) (err error) {
		id := ""
		if l.cfg.Delivery == ExactlyOnce {
			id = l.cfg.transactionalID(lane)
		}
		if p, is := l.env.Remote.(Patient); is {
			p.Patience(l.patience[lane]) // this goroutine's until the lanes run
		}
		sessions[lane], err = l.env.Remote.Open(ctx, id)
		if errors.Is(err, ErrImpatient) && l.patience[lane] > patienceLeast {
			l.patience[lane] -= l.patience[lane] / 8
			l.allowed = l.patience[lane]
		}
		if err != nil {
			return fmt.Errorf("take over %s lane: %w", lane, err)
		}
		l.backfilled = l.backfilled || lane == Backfill
		return nil
	}
	if err := open(Live); err != nil {
		return err
	}
	if both { // before anything is read: its open transaction would have to be waited for, and is no one that hangs
		if err := open(Backfill); err != nil {
			return err
		}
	}
	if err := l.prepare(ctx, sessions[Live]); err != nil {
		return err
	}
	identify := func() error {
		if l.cfg.Delivery != ExactlyOnce {
			return nil
		}
		return l.identify(ctx, &sessions)
	}
	takeOther := func() error { // of a life that was live first
		if err := room(Backfill); err != nil {
			return err
		}
		err := open(Backfill)
		if err != nil {
			rooms[Backfill]()
			rooms[Backfill] = nil
		}
		return err
	}
	read := func() error { // what hangs is ended first: it would have to be waited for, and what is sent next would decide it
		if err := identify(); err != nil {
			return err
		}
		var other func() error
		if sessions[Backfill] == nil {
			other = func() error {
				if err := takeOther(); err != nil {
					return err
				}
				return identify()
			}
		}
		if err := l.awaitCursors(ctx, sessions[Live], other); err != nil {
			return err
		}
		l.set(StateConnecting, "reading cursors, and waiting for transactions that are open there")
		return l.readCursors(ctx, sessions[Live])
	}
	if err := read(); err != nil {
		return err
	}
	if sessions[Backfill] == nil && l.leftOver() {
		l.set(StateConnecting, reasonMemory)
		if err := takeOther(); err != nil {
			return err
		}
		if err := read(); err != nil { // its former life may have committed until just now
			return err
		}
	}
	if sessions[Backfill] != nil && l.cfg.Order != LiveFirst && !l.leftOver() { // it has nothing under way any more, and nothing to do
		sessions[Backfill].Close()
		rooms[Backfill]()
		sessions[Backfill], rooms[Backfill], l.backfilled = nil, nil, false
	}
	l.begin()
	l.set(StateConnecting, "looking at topics")
	if err := l.settleTouched(ctx, sessions[Live]); err != nil {
		return err
	}
	if err := l.refresh(ctx, sessions[Live]); err != nil {
		return err
	}
	l.readBefore = l.readTo()
	l.interruptBy(nil)
	return l.lanes(ctx, cancel, &sessions)
}

// lanes runs the lanes until one fails.
func (l *Link) lanes(ctx context.Context, cancel func(), sessions *[lanes]Session) (first error) {
	var once sync.Once
	var running sync.WaitGroup
	for i, s := range sessions {
		if s == nil {
			continue
		}
		ln := &lane{Link: l, lane: Lane(i), session: s, other: sessions[1-i] != nil}
		ln.filler = filler{cfg: &l.cfg, clock: l.env.Clock, cluster: sessions[Live].Cluster()} // it has asked
		running.Go(func() {
			err := ln.run(ctx)
			once.Do(func() { first = err })
			cancel()
		})
	}
	running.Wait()
	return first
}

// anyStamp has a topic take the stamps that a board takes. Apache Kafka 4 refuses those more than an hour ahead of its clock,
// where a topic does not say otherwise; before 3.6 it does not know the setting, and takes any.
var anyStamp = map[string]string{"message.timestamp.after.max.ms": "9223372036854775807"}

// cursorConfigs are what the cursor topic is made with. A segment that is written to is not compacted, and Kafka's own
// settings leave it open for a week or a GiB: a board would read all that. These are the least a broker takes, or ten minutes.
var cursorConfigs = map[string]string{
	"cleanup.policy": "compact", "segment.bytes": "1048576", "segment.ms": "600000", "max.compaction.lag.ms": "600000",
	"min.cleanable.dirty.ratio": "0.1",
}

// prepare makes sure of the link's own topics, and of the targets.
func (l *Link) prepare(ctx context.Context, s Session) error {
	own := []Topic{
		{Name: l.cfg.CursorTopic, Partitions: cursorPartitions, Configs: cursorConfigs, Optional: anyStamp},
		{Name: l.cfg.GapTopic, Partitions: 1, Optional: anyStamp},
	}
	if l.cfg.Heartbeats > 0 {
		own = append(own, Topic{Name: l.cfg.heartbeats(), Partitions: 1, Configs: heartbeatConfigs, Optional: anyStamp})
	}
	if err := s.Ensure(ctx, own); err != nil {
		return fmt.Errorf("topics of the link: %w", err)
	}
	if own[0].Err != nil && own[0].Have == 0 { // some clusters let nobody say how segments are
		plain := []Topic{{Name: l.cfg.CursorTopic, Partitions: cursorPartitions, Configs: map[string]string{"cleanup.policy": "compact"}, Optional: anyStamp}}
		if err := s.Ensure(ctx, plain); err != nil {
			return fmt.Errorf("topics of the link: %w", err)
		}
		own[0] = plain[0]
	}
	cursors := own[0]
	switch {
	case cursors.Err != nil:
		return &RefusedError{Topic: cursors.Name, Err: cursors.Err}
	case own[1].Err != nil:
		return &RefusedError{Topic: own[1].Name, Err: own[1].Err}
	case cursors.Have < cursorPartitions:
		return fmt.Errorf("%w: %s has %d partitions, %d are needed", errUnfit, cursors.Name, cursors.Have, cursorPartitions)
	case !cursors.Compacted:
		return fmt.Errorf("%w: %s is not compacted, and would forget", errUnfit, cursors.Name)
	}
	if err := l.takeHint(s.Cluster(), cursors.ID); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.read >= 0 && l.cursorTopic != cursors.ID {
		if l.known {
			return fmt.Errorf("%w: %s was made anew: what was delivered is not known any more", errUnfit, cursors.Name)
		}
		l.forgetLocked() // nothing rests on what was read of the other one
	}
	l.cluster = s.Cluster()
	l.ofClusterLocked(l.cluster)
	if l.cfg.Heartbeats > 0 {
		l.readyLocked(&own[2])
	}
	l.cursorTopic, l.gapPartitions = cursors.ID, max(own[1].Have, 1)
	return nil
}

// aim makes sure of topics upstream, and learns their ids.
func (l *Link) aim(ctx context.Context, s Session, list []*target) error {
	topics := make([]Topic, len(list))
	for i, to := range list {
		l.mu.Lock()
		topics[i] = Topic{Name: to.name, Partitions: to.want, Optional: anyStamp}
		l.mu.Unlock()
		topics[i].Configs = l.settings(to.local)
	}
	if len(topics) == 0 {
		return nil
	}
	if err := s.Ensure(ctx, topics); err != nil {
		return fmt.Errorf("topics upstream: %w", err)
	}
	spots := unsound(list, topics)
	if err := l.settleData(ctx, s, spots); err != nil {
		return err
	}
	for i := range spots {
		if spots[i].Err != nil {
			t := &topics[slices.IndexFunc(topics, func(t Topic) bool { return t.Name == spots[i].Topic })]
			t.Have, t.Err = 0, fmt.Errorf("whether something is open in partition %d is not known: %w", spots[i].Partition, spots[i].Err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, to := range list {
		to.have, to.id, to.sound = topics[i].Have, topics[i].ID, to.sound || topics[i].Err == nil
		if topics[i].Made && to.have > 0 {
			l.madeLocked(&topics[i])
		}
		for _, p := range l.table.parts[to.local] {
			if p == nil {
				continue
			}
			if err := topics[i].Err; err != nil || to.have == 0 {
				l.holdLocked(p, Refused, fmt.Sprintf("topic %s upstream: %v", to.name, or(err, errNoTopic)))
			}
		}
	}
	return nil
}

// leftOver says whether the backfill lane has something to do from a time when there was one.
func (l *Link) leftOver() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.table.cursors {
		if len(p.cursor.Ranges) > 0 {
			return true
		}
	}
	return false
}

// begin puts every partition back to its cursors. Nothing is in line then.
func (l *Link) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count.Connects++
	l.known, l.guessed, l.table.hints = true, false, nil
	l.seen, l.told, l.flight = l.read, [lanes]int64{}, [lanes]flight{}
	l.lookedAt, l.groups.looked = time.Time{}, time.Time{} // before anything is sent: what a group has read is known when it passes
	if !time.Now().Before(l.follows.retry) {
		l.follows.changed.Store(true)
	}
	for _, p := range l.table.all {
		p.jump = false
		if l.hasGroups() {
			p.align()
		}
		for _, pos := range p.lane {
			pos.pos, pos.queued, pos.draft = pos.cursor.Next, false, nil
		}
		p.show()
	}
	for _, to := range l.table.targets {
		to.have = 0 // look again
	}
	for i := range l.table.queue {
		for c := range l.table.queue[i] {
			l.table.queue[i][c] = fifo{}
		}
	}
	l.shares = shares{weight: l.shares.weight} // whatever lane is there this time, none waits for one of before
}

// refresh brings the table up to date with the log, makes sure of what is new upstream, and judges.
func (l *Link) refresh(ctx context.Context, s Session) error {
	l.mu.Lock()
	wanting := l.lookLocked()
	if l.cfg.Heartbeats > 0 {
		l.ownLocked()
	}
	l.mu.Unlock()
	if err := l.aim(ctx, s, wanting); err != nil {
		return err
	}
	l.judge()
	l.keepHint(memoryWhenUp) // with what was stopped
	return nil
}

// lookLocked is table.look, with the lock held.
func (l *Link) lookLocked() []*target {
	l.news.begin()
	wanting := l.table.look(l.env.Log, &l.cfg, l.env.Scheduler.Class)
	l.news.end(l.table.parts)
	return wanting
}

// judge compares all partitions with their cursors, and puts those that may go in line. It reads the log without the lock.
func (l *Link) judge() {
	l.mu.Lock()
	list := slices.Clone(l.table.all)
	l.mu.Unlock()
	var scratch []byte
	for _, p := range list {
		scratch = l.judgePart(p, scratch)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.table.all {
		for i := range p.lane {
			if p.behind(Lane(i)) {
				l.table.enqueue(Lane(i), p)
			}
		}
	}
}

// judgePart judges one partition.
func (l *Link) judgePart(p *part, scratch []byte) []byte {
	l.mu.Lock()
	log, facts := p.log, Facts{Local: p.id, Upstream: p.to.id}
	live, back := *p.lane[Live], *p.lane[Backfill]
	_, _, rest := p.rest()
	held := p.verdict == Refused || p.verdict == Unreadable
	was, stopped := l.stops[cursorID{Live, p.topic, p.index}]
	l.mu.Unlock()
	if log == nil {
		return scratch
	}
	var failed error
	facts.Start, facts.High = log.Start(), log.High()
	v, reason := Go, ""
	for i, pos := range []*position{&live, &back} {
		if !pos.has || Lane(i) == Backfill && (!rest || back.cursor.Turn != live.cursor.Turn) || v != Go {
			continue
		}
		if pos.checked.Last != pos.cursor.Last || pos.checked.CRC != pos.cursor.CRC || pos.checked.Local != facts.Local {
			facts.Found, facts.CRC, scratch, failed = lookUp(log, pos.cursor.Last, scratch)
			if failed != nil {
				break
			}
			stopped = stopped && !(Lane(i) == Live && facts.Found)
		} else {
			facts.Found = false
		}
		v, reason = Judge(&pos.cursor, facts)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case errors.Is(failed, ErrGone): // the table is told, too
		return scratch
	case failed != nil: // it may be another disk's: nothing goes before that is known
		l.holdLocked(p, Unreadable, failed.Error())
		p.show()
		return scratch
	case v == Go && stopped && was.of(&live.cursor):
		v, reason = was.verdict, was.reason // what would have told is gone since, and nobody has decided
	}
	if v == Go {
		p.lane[Live].checked, p.lane[Backfill].checked = live.cursor, back.cursor
		if held {
			return scratch
		}
	}
	if v != p.verdict && v != Go {
		l.log.Error("partition is stopped", "topic", p.topic, "partition", p.index, "reason", reason)
	}
	p.verdict, p.reason = v, reason
	l.stopLocked(p)
	p.show()
	return scratch
}

// stopLocked remembers that a partition was stopped for what its log is, or forgets that it was.
func (l *Link) stopLocked(p *part) {
	id := cursorID{Live, p.topic, p.index}
	was, is := l.stops[id]
	cursor := &p.lane[Live].cursor
	switch {
	case p.verdict == LocalShort || p.verdict == LocalOther:
		if !is || !was.of(cursor) {
			l.stops[id], l.hintNews = stop{*cursor, p.verdict, p.reason}, true
		}
	case is && p.verdict == Go:
		delete(l.stops, id)
		l.hintNews = true
	}
}

// lookUp is the sum of the record at an offset, where there is one. A log that cannot be read there says nothing about it.
func lookUp(log Partition, offset int64, scratch []byte) (found bool, crc uint32, _ []byte, err error) {
	if offset < log.Start() || offset >= log.High() {
		return false, 0, scratch, nil
	}
	raw, err := log.ReadBatches(scratch[:0], offset, 1)
	if err != nil {
		if errors.Is(err, ErrOutOfRange) && offset < log.Start() {
			err = nil // retention was quicker
		}
		return false, 0, scratch, err
	}
	for rest := raw; len(rest) > 0; {
		var b record.Batch
		if b, rest, err = record.Next(rest); err != nil {
			return false, 0, raw, err
		}
		if offset < b.BaseOffset() || offset > b.LastOffset() || b.Control() {
			continue
		}
		for r, err := range b.Records(record.DefaultMaxBytes) {
			if err != nil {
				return false, 0, raw, err
			}
			if r.Offset > offset {
				break
			}
			if r.Offset == offset {
				return true, sum(&r), raw, nil
			}
		}
	}
	return false, 0, raw, nil
}
