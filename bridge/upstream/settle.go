package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// An Apache Kafka can lose the end of a transaction in some partitions: one whose coordinator comes back before a partition has a
// leader takes that partition for deleted. The records hang then, and the next marker of the same producer there decides them, whatever
// they are of. So before a connection sends, what hangs of the link is ended as the rest of its transaction was:
//
//   - The cursor partition has the last word. If the marker is there, what hangs elsewhere gets the same. If there is nothing of the
//     transaction, it was not committed: each has its cursor in it.
//   - If it hangs itself, a COMMIT in any partition that the hanging cursors name decides, else it is taken back.
//   - It is marked before the data. So every life that comes after one that stopped half way finds the same.
//
// Nothing is guessed: where the partitions do not tell, or the peer refuses, the link waits until somebody has ended it.

const (
	// scanMost is how much of a partition of data is read for a marker, and scanCursors of the cursor partition, in bytes.
	scanMost    = 16 << 20
	scanCursors = 256 << 20
	// scanBefore is how far the clocks of the board and the peer may be apart where a marker is looked for by its time.
	scanBefore = time.Hour
	// touchedMax is how many partitions a lane remembers that it has written to. Of more all are looked at again.
	touchedMax = 8192
	// settleTries is how often what hangs is ended and looked at again.
	settleTries = 3
	// lookFirst and lookMost are how often it is looked whether somebody has ended it.
	lookFirst, lookMost = time.Second, 30 * time.Second
	// certainFirst and certainMost are how long the end of a transaction may take to be written: at first, and at most.
	certainFirst, certainMost = 20 * time.Millisecond, 3 * time.Second
	// silentMost is how long a partition is waited for of which the peer does not tell who has it open.
	silentMost = 30 * time.Second
	// restLook is how long after its last transaction a lane looks whether it is decided everywhere.
	restLook = 2 * time.Minute
	// formerMax is how many producer ids a life remembers that it had.
	formerMax = 8
)

// errHangs ends a connection on which nothing may be sent any more.
var errHangs = errors.New("a transaction of this link is still open in a partition: the peer has lost its end, or somebody else's is open, and the peer does not tell whose")

// errLeft is why nothing is sent.
var errLeft = fmt.Errorf("a transaction that the link cannot end is still open after %v", cursorsTimeout)

// where is a partition upstream.
type where struct {
	topic     string
	partition int32
}

// remedy is how a transaction that hangs is to end.
type remedy int

const (
	unsure remedy = iota
	takeBack
	commit
)

func (o remedy) String() string { return [...]string{"unsure", "abort", "commit"}[o] }

// transaction is one that hangs somewhere.
type transaction struct {
	producer int64
	epoch    int16
}

// identify notes who the sessions write as. Ids that this life had before are kept: what hangs of them is the link's, too.
func (l *Link) identify(ctx context.Context, sessions *[lanes]Session) error {
	for lane, s := range sessions {
		l.current[lane] = -1
		if s == nil {
			continue
		}
		id, err := s.Identity(ctx)
		if err != nil {
			return fmt.Errorf("producer id: %w", err)
		}
		l.current[lane] = id.Producer
		at := slices.IndexFunc(l.ids, func(i Identity) bool { return i.Producer == id.Producer })
		if at < 0 {
			l.ids = append(l.ids, id)
			continue
		}
		l.ids[at] = id
	}
	if n := len(l.ids) - formerMax; n > 0 {
		l.ids = slices.Delete(l.ids, 0, n)
	}
	return nil
}

func (l *Link) producers() (list []int64) {
	for _, id := range l.ids {
		list = append(list, id.Producer)
	}
	return list
}

// identity is who we are with a producer id.
func (l *Link) identity(producer int64) Identity {
	for _, id := range l.ids {
		if id.Producer == producer {
			return id
		}
	}
	return Identity{Producer: -1}
}

// touch notes where a transaction writes.
func (ln *lane) touch(records []Record) {
	if ln.cfg.Delivery != ExactlyOnce {
		return
	}
	beats := ln.cfg.heartbeats() // what hangs there does no harm: there is another soon
	last := where{partition: -1}
	for i := range records {
		at := where{records[i].Topic, records[i].Partition}
		if at == last || at.topic == beats {
			continue
		}
		last = at
		ln.touched[ln.lane][at] = struct{}{}
	}
}

// lastLook looks, some time after a lane has sent the last that there was, whether all of it is decided: nobody else would find out before
// it sends again. idle is how long there is nothing else to do.
func (ln *lane) lastLook(ctx context.Context, idle time.Duration) (wait time.Duration, err error) {
	if len(ln.touched[ln.lane]) == 0 {
		return idle, nil
	}
	if wait = time.Until(ln.lookAt); wait <= 0 {
		for i := range ln.ready {
			ln.ready[i] = true
		}
		class, _, _ := ln.env.Scheduler.Next(ln.env.Clock.Now(), ln.lane, ln.ready)
		if class >= 0 {
			return idle, ln.certain(ctx)
		}
		ln.lookAt, wait = time.Now().Add(restLook), restLook
	}
	if idle >= 0 {
		wait = min(wait, idle)
	}
	return wait, nil
}

// certain makes sure that nothing that the lane has written hangs: what it sends next would decide that. A peer answers before it has
// written the markers of an end, so they are given a while.
func (ln *lane) certain(ctx context.Context) error {
	id, err := ln.session.Identity(ctx)
	if err != nil {
		return fmt.Errorf("producer id: %w", err)
	}
	ids := append(ln.producers(), id.Producer) // the peer gives another one when the epochs of one are used up
	list := spots(ln.touched[ln.lane])
	ends := map[where]int64{} // as of the first look: nothing of ours is beyond
	for wait, begin := certainFirst, time.Now(); len(list) > 0; wait *= 2 {
		if err := ln.session.Ends(ctx, list); err != nil {
			return fmt.Errorf("look for open transactions: %w", err)
		}
		list = slices.DeleteFunc(list, func(s Spot) bool {
			at := where{s.Topic, s.Partition}
			if _, known := ends[at]; !known && s.Err == nil {
				ends[at] = s.End
			}
			return s.Err == nil && s.Stable >= ends[at]
		})
		if len(list) == 0 {
			break
		}
		for i := range list {
			if list[i].Err != nil { // the next connection looks, and knows what to do with a topic that does not tell
				return fmt.Errorf("look for open transactions: %s-%d: %w", list[i].Topic, list[i].Partition, list[i].Err)
			}
		}
		if err := ln.session.Standing(ctx, list, ids); err != nil {
			return fmt.Errorf("look for open transactions: %w", err)
		}
		list = slices.DeleteFunc(list, func(s Spot) bool {
			return s.Err == nil && !slices.ContainsFunc(s.Standings, func(st Standing) bool { return st.Open >= 0 })
		})
		if len(list) > 0 && time.Since(begin) > certainMost {
			return fmt.Errorf("%w: %s-%d", errHangs, list[0].Topic, list[0].Partition)
		}
		if len(list) > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(wait):
			}
		}
	}
	clear(ln.touched[ln.lane])
	return nil
}

func spots(places map[where]struct{}) []Spot {
	list := make([]Spot, 0, len(places))
	for at := range places {
		list = append(list, Spot{Topic: at.topic, Partition: at.partition})
	}
	slices.SortFunc(list, func(a, b Spot) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return list
}

// settle ends a transaction in partitions that it hangs in, and tells of it. With left it could not.
func (l *Link) settle(ctx context.Context, s Session, t transaction, o remedy, why string, list []Spot) (left string, err error) {
	names := make([]string, 0, len(list))
	for i := range list {
		names = append(names, fmt.Sprintf("%s-%d", list[i].Topic, list[i].Partition))
	}
	log := l.log.With("producer", t.producer, "epoch", t.epoch, "partitions", names, "outcome", o, "why", why)
	if o == unsure {
		log.Error("a transaction of the link hangs, and what became of it cannot be told")
		return fmt.Sprintf("a transaction hangs in %v (producer %d, epoch %d), and what became of it cannot be told: %s. "+
			"kafka-transactions.sh find-hanging names it, and abort ends it", names, t.producer, t.epoch, why), nil
	}
	err = s.Mark(ctx, list, Marker{t.producer, t.epoch, o == commit})
	switch {
	case errors.Is(err, ErrDenied):
		log.Error("a transaction of the link hangs, and the peer does not let the link end it", "error", err)
		left = fmt.Sprintf("a transaction hangs in %v (producer %d, epoch %d) and is to be ended with %s: the link needs ALTER or CLUSTER_ACTION "+
			"of the cluster for it", names, t.producer, t.epoch, o)
		if o == takeBack {
			left += ", or kafka-transactions.sh abort does it"
		}
		return left, nil
	case err != nil:
		return "", fmt.Errorf("end a transaction that hangs in %v: %w", names, err)
	}
	log.Warn("a transaction of the link hung, and was ended")
	l.mu.Lock()
	l.count.Settled++
	l.mu.Unlock()
	return "", nil
}

// settleData ends what hangs of the link in partitions of data, and returns when nothing does. Where the peer does not tell of a
// partition at all, its Err is set.
func (l *Link) settleData(ctx context.Context, s Session, list []Spot) error {
	if l.cfg.Delivery != ExactlyOnce || len(list) == 0 {
		return nil
	}
	if err := s.Ends(ctx, list); err != nil {
		return fmt.Errorf("look for open transactions: %w", err)
	}
	open := slices.DeleteFunc(slices.Clone(list), func(s Spot) bool { return s.Err != nil || s.Stable >= s.End })
	for try := 0; len(open) > 0; try++ {
		if err := s.Standing(ctx, open, l.producers()); err != nil {
			return fmt.Errorf("look for open transactions: %w", err)
		}
		var left, silent []Spot
		reason := ""
		hangs := map[transaction][]Spot{}
		for _, at := range open {
			if at.Err != nil { // it may be anybody's: who has it open ends it in time, unless it hangs
				silent = append(silent, at)
			}
			for _, st := range at.Standings {
				if st.Open >= 0 {
					hangs[transaction{st.Producer, st.Epoch}] = append(hangs[transaction{st.Producer, st.Epoch}], at)
				}
			}
		}
		if len(hangs) > 0 && try == settleTries {
			return fmt.Errorf("%w, and it does not end: %s-%d", errHangs, open[0].Topic, open[0].Partition)
		}
		for t, at := range hangs {
			o, why, err := l.byCursors(ctx, s, t, at)
			if err != nil {
				return err
			}
			if o == unsure && at[0].Topic == l.cfg.heartbeats() && len(at) == 1 && !l.later(t) {
				o, why = takeBack, "it is a heartbeat"
			}
			why, err = l.settle(ctx, s, t, o, why, at)
			if err != nil {
				return err
			}
			if why != "" {
				left, reason = append(left, at...), why
			}
		}
		if len(silent) > 0 {
			if err := l.silent(ctx, s, list, silent); err != nil {
				return err
			}
		}
		if len(hangs) == 0 {
			return nil // others have something open
		}
		if len(left) > 0 {
			open, err := l.await(ctx, s, left, reason, cursorsTimeout)
			if err != nil {
				return err
			}
			if len(open) > 0 {
				return fmt.Errorf("%w: %s", errLeft, reason)
			}
			try = 0
		}
		left = append(left, silent...)
		if err := s.Ends(ctx, open); err != nil {
			return fmt.Errorf("look for open transactions: %w", err)
		}
		for i := range open {
			if open[i].Err != nil {
				return fmt.Errorf("look for open transactions: %s-%d: %w", open[i].Topic, open[i].Partition, open[i].Err)
			}
		}
		open = slices.DeleteFunc(open, func(s Spot) bool {
			return s.Stable >= s.End || slices.ContainsFunc(left, func(at Spot) bool { return at.Topic == s.Topic && at.Partition == s.Partition })
		})
	}
	return nil
}

// silent waits a while for partitions of which the peer does not tell who has them open, and notes in list those that still are.
func (l *Link) silent(ctx context.Context, s Session, list, silent []Spot) error {
	reason := fmt.Sprintf("a transaction is open in %s-%d, and the peer does not tell whose: %v", silent[0].Topic, silent[0].Partition, silent[0].Err)
	open, err := l.await(ctx, s, silent, reason, silentMost)
	at := indexed(list)
	for i := range open {
		at[where{open[i].Topic, open[i].Partition}].Err = errors.New(reason)
	}
	return err
}

// await waits until partitions are decided up to where they ended, for so long at most, and returns those that are not.
func (l *Link) await(ctx context.Context, s Session, list []Spot, reason string, most time.Duration) (open []Spot, err error) {
	l.set(StateConnecting, reason)
	limit := time.NewTimer(most)
	defer limit.Stop()
	for wait := lookFirst; ; wait = min(2*wait, lookMost) {
		next := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			next.Stop()
			return nil, ctx.Err()
		case <-limit.C:
			next.Stop()
			return open, nil
		case <-next.C:
		}
		now := make([]Spot, len(list))
		for i := range list {
			now[i] = Spot{Topic: list[i].Topic, Partition: list[i].Partition}
		}
		if err := s.Ends(ctx, now); err != nil {
			return nil, fmt.Errorf("look for open transactions: %w", err)
		}
		open = open[:0]
		for i := range now {
			if now[i].Err != nil || now[i].Stable < list[i].End {
				open = append(open, now[i])
			}
		}
		if len(open) == 0 {
			return nil, nil
		}
	}
}

// settleTouched is settleData for what this life has written to, and at first for what every life does.
func (l *Link) settleTouched(ctx context.Context, s Session) error {
	if l.cfg.Delivery != ExactlyOnce {
		return nil
	}
	all := map[where]struct{}{}
	if !l.settled {
		for i := range l.gapPartitions {
			all[where{l.cfg.GapTopic, i}] = struct{}{}
		}
		if l.cfg.Heartbeats > 0 && l.beats.ready {
			all[where{l.cfg.heartbeats(), 0}] = struct{}{}
		}
	}
	for _, touched := range l.touched {
		maps.Copy(all, touched)
	}
	delete(all, where{l.cfg.CursorTopic, cursorPartition(l.cfg.Board)}) // it is settled
	list := spots(all)
	if err := l.settleData(ctx, s, list); err != nil {
		return err
	}
	for i := range list {
		if list[i].Err != nil && (list[i].Topic == l.cfg.GapTopic || list[i].Topic == l.cfg.heartbeats()) {
			return fmt.Errorf("look for open transactions: %s-%d: %w", list[i].Topic, list[i].Partition, list[i].Err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range list {
		if list[i].Err == nil {
			continue
		}
		for _, to := range l.table.targets { // aim looks at it
			if to.name == list[i].Topic {
				to.sound = false
			}
		}
	}
	for i := range l.touched {
		l.touched[i] = map[where]struct{}{}
	}
	l.settled = true
	return nil
}

// unsound are the partitions of targets that this life has not looked at.
func unsound(list []*target, topics []Topic) (spots []Spot) {
	for i, to := range list {
		if to.sound || topics[i].Err != nil || topics[i].Made {
			continue
		}
		for p := range topics[i].Have {
			spots = append(spots, Spot{Topic: to.name, Partition: p})
		}
	}
	return spots
}
