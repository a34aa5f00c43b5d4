package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"millrace/broker/record"
)

// leftover is what hangs of the link in the cursor partition, and could not be ended. Nothing may be sent before somebody has.
type leftover struct {
	reason string // "": nothing
	// stable is where the first open transaction of the partition begins.
	stable int64
	// silent says that the peer did not tell: it may the next time.
	silent bool
	// other says that the backfill lane has written it, and was not taken over.
	other bool
	// until is when it is looked at again though it is still there, tries how often it was.
	until time.Time
	tries int
}

// span is a part of the cursor partition.
type span struct{ from, end int64 }

// unsureFirst and unsureMost are how long what could not be told is not looked at again: it may be much to read.
const unsureFirst, unsureMost = time.Minute, time.Hour

// awaitCursors ends what hangs of the link in the cursor partition, and waits for what it cannot end. other takes the backfill lane over,
// where that may be whose it is: nil when it was.
func (l *Link) awaitCursors(ctx context.Context, s Session, other func() error) error {
	limit, denied := time.Now().Add(cursorsTimeout), ""
	for wait := lookFirst; ; wait = min(2*wait, lookMost) {
		if err := l.settleCursors(ctx, s); err != nil || l.left.reason == "" {
			return err
		}
		if l.left.other && other != nil {
			err := other()
			if other = nil; err == nil {
				continue
			}
			l.log.Warn("the backfill lane, which has left a transaction open, cannot be taken over", "error", err)
			denied = fmt.Sprintf(". The backfill lane cannot be taken over: %v", err)
		}
		reason := l.left.reason
		if l.left.other {
			reason += denied
		}
		if time.Now().After(limit) {
			return fmt.Errorf("%w: %s", errLeft, reason)
		}
		l.set(StateConnecting, reason)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// settleCursors ends what hangs of the link in the cursor partition. What is left of it is in l.left: what others have open is waited for by
// who reads cursors.
func (l *Link) settleCursors(ctx context.Context, s Session) error {
	if l.cfg.Delivery != ExactlyOnce {
		return nil
	}
	before := l.left
	l.left = leftover{}
	at := []Spot{{Topic: l.cfg.CursorTopic, Partition: cursorPartition(l.cfg.Board)}}
	c := &at[0]
	if err := s.Ends(ctx, at); err != nil {
		return fmt.Errorf("look for open transactions: %w", err)
	}
	if c.Err != nil {
		return fmt.Errorf("look for open transactions: %s-%d: %w", c.Topic, c.Partition, c.Err)
	}
	if c.Stable >= c.End {
		return nil
	}
	if before.reason != "" && !before.silent && !before.other && before.stable == c.Stable && time.Now().Before(before.until) {
		l.left = before
		return nil
	}
	l.left.stable, l.left.tries = c.Stable, before.tries+1
	l.left.until = time.Now().Add(min(unsureFirst<<min(before.tries, 6), unsureMost))
	if err := s.Standing(ctx, at, l.producers()); err != nil {
		return fmt.Errorf("look for open transactions: %w", err)
	}
	if c.Err == nil {
		if err := l.endCursors(ctx, s, at); err != nil {
			return err
		}
	}
	return l.suspectCursors(ctx, s, c)
}

// endCursors ends what the partition knows of the link's producers.
func (l *Link) endCursors(ctx context.Context, s Session, at []Spot) error {
	c := &at[0]
	// The later first: one lane's cursors may follow from what the other was told, and only from what came before.
	slices.SortFunc(c.Standings, func(a, b Standing) int { return cmp.Compare(b.Open, a.Open) })
	ended := map[int64]remedy{}
	for _, st := range c.Standings {
		if st.Open < 0 {
			continue
		}
		t := transaction{st.Producer, st.Epoch}
		o, why, err := l.byData(ctx, s, c, st, ended)
		if err != nil {
			return err
		}
		if o != commit && why != whyLater { // whatever was acknowledged: a coordinator that has lost every end of it has said that it is committed
			if err := l.distrust(); err != nil {
				return err
			}
		}
		left, err := l.settle(ctx, s, t, o, why, at)
		if err != nil {
			return err
		}
		if left != "" {
			l.left.reason = left
			continue
		}
		ended[t.producer] = o
	}
	return nil
}

// suspectCursors looks for transactions of the link that are open in the cursor partition and of a producer it does not know, or does not
// hear of: of the other lane, of an id that has expired. What they say must not be believed any more: a person may take it back.
func (l *Link) suspectCursors(ctx context.Context, s Session, c *Spot) error {
	l.mu.Lock()
	upTo := c.Stable + 1 // the first one is whose the others may wait for
	if l.known || l.guessed {
		upTo = max(upTo, l.read)
	}
	l.mu.Unlock()
	if looked := (span{c.Stable, upTo}); l.strangers == looked && c.Err == nil {
		return nil // the same as the last time: a neighbour's may be open for days
	}
	l.strangers = span{}
	known := map[int64]bool{}
	for _, id := range l.ids {
		known[id.Producer] = c.Err == nil
	}
	open := map[int64]string{} // the lanes of producers
	_, err := s.Scan(ctx, c.Topic, c.Partition, c.Stable, 0, scanCursors, func(b record.Batch) (bool, error) {
		switch id := b.ProducerID(); {
		case b.BaseOffset() >= upTo && len(open) == 0: // what is open may have its end behind
			return true, nil
		case !b.Transactional() || known[id]:
		case b.Control():
			delete(open, id)
		case b.BaseOffset() < upTo:
			for r, err := range b.Records(cursorBatchMax) {
				if err != nil {
					return false, err
				}
				if k, err := ParseCursorKey(r.Key); err == nil && l.own(&k) {
					open[id] = k.Lane
				}
			}
		}
		return false, nil
	})
	if err != nil && !errors.Is(err, ErrOutOfRange) {
		return fmt.Errorf("read what hangs in the cursor topic: %w", err)
	}
	if len(open) == 0 {
		l.strangers = span{c.Stable, upTo}
	}
	for id, lane := range open {
		if err := l.distrust(); err != nil {
			return err
		}
		why := "which this life of the board did not have"
		if l.left.silent = c.Err != nil; l.left.silent {
			why = fmt.Sprintf("of which the peer does not tell: %v", c.Err)
		}
		l.left.other = l.left.other || lane == Backfill.String() && !l.left.silent
		l.left.reason = fmt.Sprintf("a transaction of the link's %s lane is open in %s-%d, of producer %d, %s. Where it does not end, "+
			"kafka-transactions.sh find-hanging names it, and abort ends it", lane, c.Topic, c.Partition, id, why)
	}
	return nil
}
