package upstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/broker/record"
)

// commit sends what was built, with the cursors and the gaps, and notes that it was.
func (ln *lane) commit(ctx context.Context) error {
	f := &ln.filler
	now := ln.env.Clock.Now().UnixMilli()
	data := len(f.records)
	if ln.session.Shaken() || len(ln.touched[ln.lane]) > touchedMax { // asked before each: what is idle is given up then
		if err := ln.certain(ctx); err != nil {
			return err
		}
	}
	ln.syncPoints(ctx)
	ln.mu.Lock()
	told := ln.told[1-ln.lane]
	ln.mu.Unlock()
	for _, d := range ln.drafts {
		d.cursor.Told = told
		if err := ln.mark(d, now); err != nil {
			return err
		}
	}
	buried, err := ln.bury(now)
	if err != nil {
		return err
	}
	beat, beats := ln.beat()
	if beats {
		f.records = append(f.records, beat)
	}
	if len(f.records) == 0 {
		return nil
	}
	ln.mu.Lock()
	if len(ln.drafts) > 0 {
		ln.setLocked(StateSending, "")
	}
	ln.sendingLocked(ln.lane)
	ln.mu.Unlock()
	began := time.Now()
	ln.touch(f.records)
	err = ln.send(ctx, f.records, data)
	if beats {
		ln.beatDone(err)
	}
	if err != nil {
		f.forget()
		return err
	}
	if data > 0 || time.Now().After(ln.lookAt) { // what is no data is no reason to put it off
		ln.lookAt = time.Now().Add(restLook)
	}
	ln.applied(data, buried, time.Since(began))
	return nil
}

// send sends records: the first of them data, the others cursors and gaps.
func (ln *lane) send(ctx context.Context, records []Record, data int) (err error) {
	began := time.Now()
	ctx, cancel := ln.deadline(ctx)
	defer cancel()
	if ln.cfg.Delivery == AtLeastOnce { // cursors only of what is there
		err = ln.session.Send(ctx, records[:data])
		records = records[data:]
	}
	if err == nil {
		err = ln.session.Send(ctx, records)
	}
	if err != nil {
		late := errors.Is(err, ErrFenced) && time.Since(began) >= ln.patience
		if late {
			err = fmt.Errorf("%w: %s", errOverTime, err) // no fence: nobody has taken over
		}
		if late || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			ln.tooSlow()
		}
		ln.refused(err)
		return fmt.Errorf("%s lane: %w", ln.lane, err)
	}
	return nil
}

// mark adds the cursor and the gaps of a draft to the records.
func (ln *lane) mark(d *draft, now int64) error {
	d.cursor.By, d.cursor.At = ln.by, now
	id := CursorKey{Board: ln.cfg.Board, Link: ln.cfg.Name, Lane: d.lane.String(), Topic: d.part.topic, Partition: d.part.index}
	key, err := id.Append(nil)
	if err != nil {
		return err
	}
	value, err := d.cursor.Append(nil)
	if err != nil {
		return err
	}
	f := &ln.filler
	f.records = append(f.records, Record{
		Topic: ln.cfg.CursorTopic, Partition: cursorPartition(ln.cfg.Board), Timestamp: now, Key: key, Value: value, Offset: -1,
	})
	for _, h := range d.holes {
		key, value, err := h.record(&ln.cfg, d.part.topic, d.part.index, now)
		if err != nil {
			return err
		}
		f.records = append(f.records, Record{
			Topic: ln.cfg.GapTopic, Partition: record.PartitionForKey(key, int(ln.gapPartitions)), Timestamp: now, Key: key, Value: value, Offset: -1,
		})
	}
	return nil
}

// deadline is the context of a transaction: it ends well before the peer would end it, and a while after ctx.
func (ln *lane) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	send, cancel := context.WithTimeout(context.WithoutCancel(ctx), ln.patience*3/4)
	stop := context.AfterFunc(ctx, func() {
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-send.Done():
		case <-t.C:
			cancel()
		}
	})
	return send, func() {
		stop()
		cancel()
	}
}

// applied notes that a transaction was committed.
func (ln *lane) applied(data int, buried []cursorID, took time.Duration) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	ln.sentLocked(ln.lane, ln.filler.records[data:])
	bytes := ln.filler.bytes
	cursors := len(ln.drafts) > 0 || len(buried) > 0
	if cursors {
		ln.count.Transactions++
	}
	ln.count.Records += int64(data)
	ln.count.Bytes += int64(bytes)
	ln.lastSuccess = ln.env.Clock.Now()
	if cursors || ln.undisturbed() {
		ln.fences = 0
		ln.env.Backoff.Reset()
	}
	for _, d := range ln.drafts {
		ln.applyLocked(d)
	}
	ln.passedLocked(data)
	ln.buriedLocked(buried)
	ln.shares.served[ln.lane] += int64(bytes)
	ln.kick(int(1 - ln.lane))
	ln.fitLocked(bytes, took)
}

// applyLocked makes a draft what is committed.
func (l *Link) applyLocked(d *draft) {
	p := d.part
	pos := p.lane[d.lane]
	pos.cursor, pos.has, pos.checked, pos.pos, pos.draft = d.cursor, true, d.cursor, d.cursor.Next, nil
	p.strikes = 0
	p.show()
	l.count.Looped += int64(d.looped)
	l.count.Gaps += int64(len(d.holes))
	for _, h := range d.holes {
		l.count.Lost += h.End - h.First
		l.log.Error("records are lost to the upstream", "topic", p.topic, "partition", p.index,
			"first", h.First, "last", h.End-1, "cause", h.cause)
	}
	for i := range p.lane {
		if p.behind(Lane(i)) {
			l.table.enqueue(Lane(i), p)
		}
	}
}

// fitLocked fits the size of transactions to the link.
func (ln *lane) fitLocked(bytes int, took time.Duration) {
	if bytes == 0 {
		return
	}
	rate := float64(bytes) / max(took.Seconds(), 1e-4)
	if ln.rate == 0 {
		ln.rate = rate
	}
	ln.rate += (rate - ln.rate) / 8
	if ln.slow++; took < swift {
		ln.slow = 0
	}
	switch {
	case took < swift/4 && ln.size > firstTransaction:
		ln.size = max(ln.size/2, firstTransaction)
	case took < brisk && bytes >= ln.size/2 && ln.size < firstTransaction: // something held it up, which is over
		ln.size = min(2*ln.size, firstTransaction, ln.cfg.TransactionBytes)
	case took < brisk && bytes >= ln.size/2 && ln.slow >= slowRun:
		ln.size, ln.slow = min(2*ln.size, ln.cfg.TransactionBytes), 0
	case took > transactionTarget:
		ln.size = int(float64(min(bytes, ln.size)) * transactionTarget.Seconds() / took.Seconds())
		ln.size = min(max(ln.size, leastTransactionBytes), ln.cfg.TransactionBytes)
	}
	ln.Link.size[ln.lane] = ln.size
	if took < ln.cfg.TransactionTimeout/2 { // for the next connection: who reads upstream waits as long for a board that is gone
		ln.Link.patience[ln.lane] = min(ln.cfg.TransactionTimeout, ln.allowed)
	}
}

// tooSlow has the next connection send less at a time, and wait longer for it: a large record may take minutes.
func (ln *lane) tooSlow() {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if ln.size > leastTransactionBytes {
		ln.Link.size[ln.lane] = max(ln.size/4, leastTransactionBytes)
		return
	}
	if ln.filler.bytes >= leastTransactionBytes/2 { // a small one was held up by something else
		ln.Link.patience[ln.lane] = min(2*ln.patience, ln.allowed)
	}
}

// refused notes what an error of Send says of partitions.
func (ln *lane) refused(err error) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	var refused *RefusedError
	if !errors.As(err, &refused) {
		if !errors.Is(err, ErrFenced) {
			ln.count.Unknown++
		}
		return
	}
	if refused.Whole { // else every partition would cost a connection to learn it
		for _, p := range ln.table.all {
			if p.to.name == refused.Topic && p.verdict == Go { // what is stopped stays so
				ln.holdLocked(p, Refused, refused.Error())
			}
		}
		return
	}
	for _, d := range ln.drafts {
		if d.to != refused.Topic || d.mine == d.have && d.part.index != refused.Partition {
			continue
		}
		if errors.Is(err, ErrTooLarge) && d.records > 1 {
			d.part.most = max(1, d.bytes/2)
			continue
		}
		ln.holdLocked(d.part, Refused, refused.Error())
	}
}
