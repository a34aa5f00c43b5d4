package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"millrace/broker/record"
)

// downDecision is a Decision that waits for the next look.
type downDecision struct {
	Decision
	id   markID
	done chan error // room for one
}

// Resolve carries out a decision about a partition upstream: how taking from it goes on. It is that of a Link otherwise; the
// cursor, and a gap record for what is left out, are on the board's flash when it returns.
func (d *Down) Resolve(ctx context.Context, topic string, partition int32, how Decision) error {
	if how.How < Accept || how.How > At {
		return fmt.Errorf("%w: %d", ErrDecision, how.How)
	}
	w := &downDecision{Decision: how, id: markID{topic, partition}, done: make(chan error, 1)}
	d.mu.Lock()
	if d.closing {
		d.mu.Unlock()
		return errEnded
	}
	if d.findLocked(w.id) == nil {
		d.mu.Unlock()
		return fmt.Errorf("%w: %s-%d", ErrUnknownPartition, topic, partition)
	}
	d.decisions = append(d.decisions, w)
	d.kickLocked()
	d.mu.Unlock()
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.decisions = slices.DeleteFunc(d.decisions, func(o *downDecision) bool { return o == w })
	return ctx.Err()
}

func (d *Down) findLocked(id markID) *inlet {
	if s := d.sources[id.topic]; s != nil && id.partition >= 0 && int(id.partition) < len(s.parts) {
		return s.parts[id.partition]
	}
	return nil
}

// decide carries out the decisions that wait. Nobody takes records meanwhile.
func (d *Down) decide(ctx context.Context, r Reader) error {
	for {
		d.mu.Lock()
		if len(d.decisions) == 0 {
			d.mu.Unlock()
			return nil
		}
		w := d.decisions[0]
		d.decisions = d.decisions[1:]
		in := d.findLocked(w.id)
		d.mu.Unlock()
		err := fmt.Errorf("%w: %s-%d is not there upstream now", ErrDecision, w.id.topic, w.id.partition)
		if in != nil && in.leader >= 0 {
			err = d.resolve(ctx, r, in, w.Decision)
		}
		w.done <- err
		if err != nil && !errors.Is(err, ErrDecision) {
			return err
		}
	}
}

func (d *Down) resolve(ctx context.Context, r Reader, in *inlet, how Decision) error {
	if in.log == nil {
		if err := d.env.Store.Make(ctx, in.of.local, int32(len(in.of.parts)), nil); err != nil {
			return fmt.Errorf("%w: topic %s of the board: %w", ErrDecision, in.of.local, err)
		}
		d.mu.Lock()
		d.placeLocked(in.of)
		d.mu.Unlock()
		if in.log == nil {
			return fmt.Errorf("%w: topic %s of the board: %w", ErrDecision, in.of.local, errNoTopic)
		}
	}
	bounds := []Bound{{Topic: in.of.name, Partition: in.index, Leader: in.leader, Epoch: -1}}
	if err := r.Bounds(ctx, bounds); err != nil {
		return err
	}
	start, end := bounds[0].Start, bounds[0].End
	if err := bounds[0].Err; err != nil {
		return fmt.Errorf("%w: %w", ErrDecision, err)
	}
	c := landing{Local: in.log.ID(), UpstreamID: in.of.upstreamID, Next: in.cursor.Next, Epoch: in.epoch, Last: -1}
	switch how.How {
	case Accept:
		c.Next = min(c.Next, end)
	case Earliest:
		c.Next = start
	case Latest:
		c.Next = end
	case At:
		if c.Next = how.Offset; c.Next < start || c.Next > end {
			return fmt.Errorf("%w: the partition upstream has offsets %d to %d", ErrDecision, start, end)
		}
	}
	lost := Range{in.cursor.Next, c.Next}
	if in.has && in.cursor.UpstreamID != in.of.upstreamID || !in.has {
		lost.First = start
	}
	now := d.env.Clock.Now().UnixMilli()
	mark, err := c.record(d.cfg.Name, in.id(), now)
	if err != nil {
		return err
	}
	var gaps []record.Record
	skips := how.How != Accept && lost.First < lost.End
	if skips {
		g, err := d.gap(in, lost, CauseDecision, now)
		if err != nil {
			return err
		}
		gaps = append(gaps, g)
	}
	parts, err := d.beside(ctx, nil, []record.Record{mark}, gaps)
	if err != nil {
		return err
	}
	if err := d.env.Store.Append(parts); err != nil {
		d.mu.Lock()
		d.known = false
		d.mu.Unlock()
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	in.cursor, in.has, in.pos, in.most, in.strikes = c, true, c.Next, 0, 0
	in.checked, in.compare, in.gone, in.retry = false, false, nil, time.Time{}
	in.verdict, in.reason = Go, ""
	if in.epoch >= 0 { // or else the next look asks
		in.checked = c.Next >= start
	}
	d.marks[in.id()] = &c
	if skips {
		d.lostLocked(in, lost, CauseDecision)
	}
	d.log.Info("partition is decided about", "topic", in.of.name, "partition", in.index, "next", c.Next)
	return nil
}

// Status says how the link is. Partitions have the names they have upstream.
func (d *Down) Status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := Status{
		Name: d.cfg.Name, State: d.state, Reason: d.reason, Since: d.since, Left: d.left, LastSuccess: d.last, Rate: d.rate, Sent: d.count,
	}
	each := int64(0)
	if d.count.Records > 0 {
		each = d.count.Bytes / d.count.Records
	}
	for stopped := range 2 { // these first
		for _, of := range d.order {
			for _, in := range of.parts {
				if in.verdict.Stopped() == (stopped == 0) {
					s.add(in, each)
				}
			}
		}
	}
	return s
}

// add counts one partition.
func (s *Status) add(in *inlet, each int64) {
	s.Partitions++
	records := max(in.end-max(in.pos, in.cursor.Next), 0)
	s.Records += records
	s.Bytes += records * each
	switch {
	case in.verdict.Stopped():
		s.Stopped++
	case in.verdict != Go:
		s.Refused++
	case records == 0:
		return
	}
	if records > 0 {
		s.Behind++
	}
	if len(s.List) == PartitionsShown {
		s.More++
		return
	}
	s.List = append(s.List, PartitionStatus{
		Topic: in.of.name, Partition: in.index, Verdict: in.verdict, Reason: in.reason, Next: in.cursor.Next, Records: records,
	})
}
