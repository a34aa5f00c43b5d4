package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"millrace/broker/record"
)

const (
	// failsMax is how often in a row the peer may fail, failFirst and failMost what is waited for in between.
	failsMax            = 8
	failFirst, failMost = time.Second, time.Minute
	// heldLook is how soon what holds it back is looked at again.
	heldLook = 5 * time.Second
	// movedMax is how often in a row a partition may not be where the peer says.
	movedMax = 60
	// openWait is how long the peer may wait for records at once, and openMax how long nothing may be decided at the end because a
	// transaction is open: the longest that Apache Kafka allows, and a little.
	openWait, openMax = 5 * time.Second, 16 * time.Minute
	// politeMax is the longest it waits after a request for the link, which has something to send.
	politeMax = 5 * time.Second
)

// errGivenUp is returned when the peer fails again and again.
var errGivenUp = errors.New("given up")

// hangUp ends the connection.
func (v *verification) hangUp() {
	if v.reader != nil {
		v.reader.Close()
		v.reader = nil
	}
}

// giveBack gives its memory to who can use it now. What is left are ranges, and records that wait.
func (v *verification) giveBack() {
	if v.release == nil {
		return
	}
	v.scratch = nil
	if v.c != nil {
		v.c.close()
	}
	v.release()
	v.release = nil
}

// allowed waits until the contract lets a class through, and there is memory. It says about how many bytes. Meanwhile, which may be
// a day, links have the memory.
func (v *verification) allowed(ctx context.Context, class int) (bytes int, err error) {
	for {
		why, bytes := v.held(class)
		if v.at.Held = why; why == "" && v.release != nil {
			return bytes, nil
		}
		if why == "" {
			v.at.Held = reasonMemory
			v.tell(v.at)
			if v.release, err = v.cfg.room(ctx, v.env.Budget, 1); err != nil && !errors.Is(err, errMemory) {
				return 0, err
			}
			continue
		}
		v.hangUp() // an idle connection costs bytes, too
		v.giveBack()
		v.tell(v.at)
		rest(ctx, heldLook)
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
}

func (v *verification) held(class int) (why string, bytes int) {
	v.mu.Lock()
	paused := v.paused
	v.mu.Unlock()
	switch {
	case paused:
		return "the link is paused", 0
	case v.gate == nil:
		return "", v.piece()
	}
	why, bytes = v.gate.Held(class)
	return why, max(min(bytes, v.piece()), 1)
}

// ask makes one request, which changes nothing, until there is an answer.
func (v *verification) ask(ctx context.Context, class int, request func(r Reader, bytes int) error) error {
	for wait := failFirst; ; wait = min(2*wait, failMost) {
		bytes, err := v.allowed(ctx, class)
		if err != nil {
			return err
		}
		if v.reader == nil {
			v.reader, err = v.source.Read(ctx)
		}
		if err == nil {
			if err = request(v.reader, bytes); err == nil {
				v.fails = 0
				return nil
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		v.hangUp()
		if v.fails++; v.fails >= failsMax {
			return fmt.Errorf("%w after %d failures: %w", errGivenUp, v.fails, err)
		}
		v.at.Held = err.Error()
		v.tell(v.at)
		rest(ctx, wait)
	}
}

// look is a topic upstream, nil where there is none.
func (v *verification) look(ctx context.Context, class int, name string) (o *Origin, err error) {
	err = v.ask(ctx, class, func(r Reader, _ int) error {
		list, err := r.Look(ctx, []string{name})
		if err != nil {
			return err
		}
		for i := range list {
			if list[i].Name == name {
				o = &list[i]
			}
		}
		return nil
	})
	return o, err
}

// lead is who leads the partition.
func (v *verification) lead(ctx context.Context, u *verifyUnit) (leader, epoch int32, err error) {
	for range movedMax {
		o, err := v.look(ctx, u.class, u.name)
		switch {
		case err != nil:
			return 0, 0, err
		case o == nil:
			return 0, 0, fmt.Errorf("topic %s is not there any more", u.name)
		case o.Err != nil:
			return 0, 0, o.Err
		case o.ID != u.id || int(u.index) >= len(o.Leaders):
			return 0, 0, fmt.Errorf("topic %s was made anew meanwhile", u.name)
		case o.Leaders[u.index] >= 0:
			return o.Leaders[u.index], o.Epochs[u.index], nil
		}
		v.at.Held = "nobody leads the partition there"
		v.tell(v.at)
		if rest(ctx, lookSoon); ctx.Err() != nil {
			return 0, 0, ctx.Err()
		}
	}
	return 0, 0, fmt.Errorf("partition %s-%d has no leader", u.name, u.index)
}

// bounds are where the partition begins, ends, and has the first stamp that is as late, and who leads it.
func (v *verification) bounds(ctx context.Context, u *verifyUnit, since int64) (b Bound, epoch int32, err error) {
	for range movedMax {
		b = Bound{Topic: u.name, Partition: u.index, Epoch: -1, Since: since}
		if b.Leader, epoch, err = v.lead(ctx, u); err != nil {
			return b, epoch, err
		}
		list := []Bound{b}
		if err := v.ask(ctx, u.class, func(r Reader, _ int) error { return r.Bounds(ctx, list) }); err != nil {
			return b, epoch, err
		}
		if b = list[0]; b.Err == nil {
			return b, epoch, nil
		}
		v.at.Held = b.Err.Error()
		v.tell(v.at)
		if rest(ctx, lookSoon); ctx.Err() != nil {
			return b, epoch, ctx.Err()
		}
	}
	return b, epoch, b.Err
}

// records calls fn with all committed records of a partition upstream that are there when it begins, in order; with a stamp, from
// the first that has it or a later one. It returns where it began, and where the peer does.
func (v *verification) records(ctx context.Context, u *verifyUnit, since int64, fn func(r *record.Record, appendTime bool) error) (begin, start int64, err error) {
	b, epoch, err := v.bounds(ctx, u, since)
	if err != nil {
		return 0, 0, err
	}
	leader, at, end := b.Leader, b.Start, b.End
	if since > 0 && b.From >= 0 {
		at = b.From
	}
	begin, start = at, b.Start
	undecided, moved := time.Time{}, 0
	for at < end {
		v.at.Offset, v.at.End = at, end
		v.tell(v.at)
		list := []Portion{{Topic: u.name, ID: u.id, Partition: u.index, Epoch: epoch, From: at}}
		if err := v.ask(ctx, u.class, func(r Reader, bytes int) error { return v.fetch(ctx, r, leader, list, bytes) }); err != nil {
			return begin, start, err
		}
		got := &list[0]
		switch {
		case got.Err == nil:
		case errors.Is(got.Err, ErrMoved) && moved < movedMax:
			moved++
			if rest(ctx, lookSoon); ctx.Err() != nil {
				return begin, start, ctx.Err()
			}
			if leader, epoch, err = v.lead(ctx, u); err != nil {
				return begin, start, err
			}
			continue
		case errors.Is(got.Err, ErrOutOfRange): // let go meanwhile, or cut off
			if b, epoch, err = v.bounds(ctx, u, 0); err != nil {
				return begin, start, err
			}
			leader = b.Leader
			if b.Start <= at {
				return begin, start, fmt.Errorf("partition %s-%d ends before %d now: %w", u.name, u.index, at, got.Err)
			}
			at, start = b.Start, b.Start
			continue
		default:
			return begin, start, got.Err
		}
		moved = 0
		was := at
		if at, err = pass(got, at, end, fn); err != nil {
			return begin, start, err
		}
		switch {
		case at > was:
			undecided = time.Time{}
		case len(got.Batches) == 0 && got.Stable >= end:
			return begin, start, nil // the rest was compacted away
		case undecided.IsZero():
			undecided = time.Now()
		case time.Since(undecided) > openMax:
			return begin, start, fmt.Errorf("a transaction that is open holds its readers at offset %d", at)
		default:
			v.at.Held = fmt.Sprintf("a transaction that is open holds its readers at offset %d", at)
			rest(ctx, lookSoon) // where the peer does not wait itself
		}
	}
	return begin, start, nil
}

// fetch asks once. Where the link has something to send itself, it gets as much time afterwards.
func (v *verification) fetch(ctx context.Context, r Reader, leader int32, list []Portion, bytes int) error {
	began := time.Now()
	if err := r.Fetch(ctx, leader, list, bytes, openWait); err != nil {
		return err
	}
	if len(list[0].Batches) == 0 {
		return nil
	}
	v.mu.Lock()
	sending := v.state == StateSending
	v.mu.Unlock()
	if sending {
		rest(ctx, min(time.Since(began), politeMax))
	}
	return nil
}

// pass calls fn with the records of a portion, and returns where to go on.
func pass(got *Portion, at, end int64, fn func(r *record.Record, appendTime bool) error) (next int64, err error) {
	for b, err := range visible(got.Batches, got.Aborted) {
		if err != nil {
			return at, fmt.Errorf("at offset %d upstream: %w", at, err)
		}
		if b.NextOffset() <= at {
			continue
		}
		if !b.hidden {
			for r, err := range b.Records(record.DefaultMaxBytes) {
				if err != nil {
					return at, fmt.Errorf("at offset %d upstream: %w", at, err)
				}
				if r.Offset < at {
					continue
				}
				if r.Offset >= end {
					return end, nil
				}
				if err := fn(&r, b.LogAppendTime()); err != nil {
					return at, err
				}
			}
		}
		at = max(at, b.NextOffset())
	}
	return at, nil
}

// readGaps reads what the link has told of what it lost, once.
func (v *verification) readGaps(ctx context.Context, class int) error {
	if v.gaps != nil {
		return nil
	}
	was := v.at
	defer func() { v.at = was }()
	v.at = VerifyAt{Topic: v.cfg.GapTopic, Done: was.Done, Of: was.Of}
	gaps, n := map[cursorID]spans{}, 0
	o, err := v.look(ctx, class, v.cfg.GapTopic)
	if err != nil {
		return err
	}
	if o == nil {
		v.gaps = gaps
		return nil
	}
	for i := range o.Leaders {
		u := &verifyUnit{name: o.Name, id: o.ID, class: class, index: int32(i)}
		v.at.Upstream = u.index
		if _, _, err := v.records(ctx, u, 0, func(r *record.Record, _ bool) error {
			var g Gap
			if string(r.Key) != v.cfg.Board || len(r.Value) > cursorValueMax || json.Unmarshal(r.Value, &g) != nil {
				return nil
			}
			if g.Board != v.cfg.Board || g.Link != v.cfg.Name || g.First < 0 || g.Last < g.First {
				return nil
			}
			id := cursorID{Live, g.Topic, g.Partition}
			s := gaps[id]
			n -= len(s)
			s.add(Range{g.First, g.Last + 1})
			gaps[id] = s
			if n += len(s); n > piecesMax {
				return fmt.Errorf("%s: more than %d gaps", o.Name, piecesMax)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	v.gaps = gaps
	return nil
}
