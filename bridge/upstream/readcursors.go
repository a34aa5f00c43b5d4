package upstream

import (
	"context"
	"fmt"
	"slices"
)

// readCursors reads what is new in the cursor topic. After the first connection of this life all of it must be our own.
func (l *Link) readCursors(ctx context.Context, s Session) error {
	l.mu.Lock()
	from, known := l.read, l.known
	l.mu.Unlock()
	there := l.there()
	next, err := s.Cursors(ctx, l.cfg.CursorTopic, cursorPartition(l.cfg.Board), max(from, 0), func(key, value []byte) error {
		k, err := ParseCursorKey(key)
		if err != nil || !l.own(&k) {
			return nil // another board's, or nobody's
		}
		for lane := range lanes {
			if k.Lane == lane.String() {
				return l.take(lane, &k, value, known, there(k.Topic))
			}
		}
		return nil
	})
	l.mu.Lock()
	if l.guessed && next < from { // it has lost its end: then what is remembered of it is no better than what it has
		l.log.Error("the cursor topic ends before what is remembered of it: all of it is read", "end", next, "remembered", from)
		l.forgetLocked()
		l.mu.Unlock()
		return l.readCursors(ctx, s)
	}
	l.read = max(next, l.read) // kept with an error, too: what was taken may be taken again, and a thin link reads once
	l.mu.Unlock()
	if err != nil {
		return fmt.Errorf("read cursors: %w", err)
	}
	return nil
}

// own says whether a cursor is of this link.
func (l *Link) own(k *CursorKey) bool { return k.Board == l.cfg.Board && k.Link == l.cfg.Name }

// readTo is how far the cursors are read.
func (l *Link) readTo() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.read
}

// there tells whether the board has a topic, as it is now. The lock need not be held.
func (l *Link) there() func(topic string) bool {
	names := l.env.Log.Names()
	slices.Sort(names)
	return func(topic string) bool {
		_, is := slices.BinarySearch(names, topic)
		return is
	}
}

// take takes one cursor over. known says that nobody but this life may have written it, there that the topic is there.
func (l *Link) take(lane Lane, k *CursorKey, value []byte, known, there bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := cursorID{lane, k.Topic, k.Partition}
	if value == nil {
		if p := l.table.cursors[id]; p != nil {
			p.has, p.cursor, p.pos = false, Cursor{Last: -1}, 0
			if l.table.find(k.Topic, k.Partition) == nil {
				delete(l.table.cursors, id)
			}
		}
		return nil
	}
	c, err := ParseCursor(value)
	if err != nil {
		return fmt.Errorf("cursor of %s-%d: %w", k.Topic, k.Partition, err)
	}
	if known && c.By != l.by {
		return fmt.Errorf("%w: %s-%d", errForeign, k.Topic, k.Partition)
	}
	switch n := len(l.table.cursors); {
	case l.table.cursors[id] != nil:
	case !there && n >= int(lanes)*len(l.table.all)+2*l.cfg.deadMost():
		return nil // it is forgotten already: those that are here get tombstones first
	case n >= 4*l.cfg.Partitions+2*l.cfg.deadMost():
		return fmt.Errorf("%w: it has more than %d cursors of this link", errUnfit, 4*l.cfg.Partitions)
	}
	p := l.table.at(lane, k.Topic, k.Partition)
	p.has, p.cursor, p.pos = true, c, c.Next
	return nil
}
