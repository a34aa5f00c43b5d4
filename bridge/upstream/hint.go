package upstream

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"millrace/broker/record"
)

const (
	// hintVersion is that of what is kept, hintMax the most of it, in bytes: compressed, and not.
	hintVersion = 1
	hintMax     = 3 << 20
	hintWhole   = 16 << 20
	// hintBytes is how much of cursors is written upstream that the hint is worth writing before its time.
	hintBytes = 1 << 20
	// hintMade is how often it is written at most for topics that the link has made, and settings that follow, while there is a
	// connection: clients may make a topic for each thing that they have, one by one. A life that is killed in between has
	// topics that keep the settings they have.
	hintMade = time.Minute
)

// hint is what is kept on the board of the cursor topic, so that the next life need not read all of it over a thin link: the
// cursors that were there before an offset. It may be old. Cursors that were written since come after the offset.
type hint struct {
	Version int    `json:"v"`
	Board   string `json:"board"`
	Link    string `json:"link"`
	// Cluster, Topic and TopicID say of which cursor topic it is: of any other it says nothing.
	Cluster string   `json:"cluster"`
	Topic   string   `json:"topic"`
	TopicID string   `json:"topic_id"`
	Next    int64    `json:"next"`
	Cursors []hinted `json:"cursors"`
	// Stopped are partitions that Judge has stopped for what it may not see the next time: see stop.
	Stopped []hinted `json:"stopped,omitempty"`
	// Made are the topics of Cluster that the link has made, see madeTopic.
	Made []hintedTopic `json:"made,omitempty"`
}

// hintedTopic is a madeTopic.
type hintedTopic struct {
	Name     string            `json:"name"`
	ID       string            `json:"id"`
	Settings map[string]string `json:"settings,omitempty"`
}

// hinted is a cursor.
type hinted struct {
	Lane      string          `json:"lane"`
	Topic     string          `json:"topic"`
	Partition int32           `json:"partition"`
	Cursor    json.RawMessage `json:"cursor"`
	Verdict   Verdict         `json:"verdict,omitempty"`
	Reason    string          `json:"reason,omitempty"`
}

// stop is a partition that was stopped because the log is not what was delivered. It holds as long as the cursor is the same,
// though the log grows past it, and lets the record go that would tell: nobody has decided.
type stop struct {
	cursor  Cursor
	verdict Verdict
	reason  string
}

// of says whether the stop is of a cursor.
func (s *stop) of(c *Cursor) bool {
	return s.cursor.Local == c.Local && s.cursor.Next == c.Next && s.cursor.Last == c.Last && s.cursor.CRC == c.CRC && s.cursor.Turn == c.Turn
}

// recall reads what is kept. What is wrong with it is logged, and does no harm.
func (l *Link) recall() {
	if l.env.Hint == nil {
		return
	}
	p, err := l.env.Hint.Load()
	if err == nil && len(p) > hintMax {
		err = fmt.Errorf("%d bytes", len(p))
	}
	var h hint
	if err == nil && len(p) > 0 {
		if p, err = record.Gzip.Decompress(nil, p, hintWhole); err == nil {
			err = json.Unmarshal(p, &h)
		}
	}
	if err != nil {
		l.log.Warn("the cursors are not remembered: all are read", "error", err)
		return
	}
	if h.Version != hintVersion || h.Board != l.cfg.Board || h.Link != l.cfg.Name || h.Next < 0 {
		return
	}
	l.hint = &h
	for _, s := range h.Stopped {
		if c, err := ParseCursor(s.Cursor); err == nil && s.Verdict.Stopped() && s.Lane == Live.String() {
			l.stops[cursorID{Live, s.Topic, s.Partition}] = stop{c, s.Verdict, s.Reason}
		}
	}
	l.follows.cluster = h.Cluster
	for _, m := range h.Made {
		if id, err := hex.DecodeString(m.ID); err == nil && len(id) == 16 {
			l.follows.made[m.Name] = madeTopic{[16]byte(id), m.Settings}
		}
	}
	h.Stopped, h.Made = nil, nil
}

// takeHint takes the cursors over that are kept of this topic, where nothing of it was read yet.
func (l *Link) takeHint(cluster string, id [16]byte) error {
	l.mu.Lock()
	h := l.hint
	if l.read >= 0 {
		h = nil
	}
	l.hint = nil
	l.mu.Unlock()
	if h == nil || id == [16]byte{} || h.Cluster != cluster || h.Topic != l.cfg.CursorTopic || h.TopicID != hex.EncodeToString(id[:]) {
		return nil
	}
	there := l.there()
	for _, c := range h.Cursors {
		for lane := range lanes {
			if c.Lane != lane.String() {
				continue
			}
			k := CursorKey{Topic: c.Topic, Partition: c.Partition}
			if err := l.take(lane, &k, c.Cursor, false, there(c.Topic)); err != nil {
				return fmt.Errorf("remembered: %w", err)
			}
		}
	}
	l.mu.Lock()
	l.read, l.guessed, l.cursorTopic = h.Next, true, id
	l.mu.Unlock()
	return nil
}

// forgetLocked forgets the cursors: they are read anew.
func (l *Link) forgetLocked() {
	l.read, l.guessed = -1, false
	for _, p := range l.table.cursors {
		p.has, p.cursor, p.pos = false, Cursor{Last: -1}, 0
	}
}

// newHintLocked is a hint of the cursor topic, without its cursors.
func (l *Link) newHintLocked() hint {
	h := hint{
		Version: hintVersion, Board: l.cfg.Board, Link: l.cfg.Name, Cluster: l.cluster, Topic: l.cfg.CursorTopic,
		TopicID: hex.EncodeToString(l.cursorTopic[:]),
	}
	for _, name := range slices.Sorted(maps.Keys(l.follows.made)) {
		m := l.follows.made[name]
		h.Made = append(h.Made, hintedTopic{name, hex.EncodeToString(m.id[:]), m.settings})
	}
	return h
}

// distrust forgets the cursors that this life or the hint knows: they are read anew. What is read of the log itself is true.
func (l *Link) distrust() error {
	l.mu.Lock()
	if !l.known && !l.guessed {
		l.mu.Unlock()
		return nil
	}
	h := l.newHintLocked()
	stops := maps.Clone(l.stops)
	l.mu.Unlock()
	if l.env.Hint != nil { // first: a later life would believe it
		if err := h.store(l.env.Hint, nil, stops); err != nil {
			return fmt.Errorf("forget the cursors: %w", err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgetLocked()
	l.known = false
	return nil
}

// keepHint writes down which cursors there are, when that is news and was not written for a while.
func (l *Link) keepHint(least time.Duration) {
	if l.env.Hint == nil {
		return
	}
	l.mu.Lock()
	now := time.Now()
	since := now.Sub(l.hinted.at)
	due := l.count.Transactions != l.hinted.count && (since >= least || since >= memoryWhenDown && l.hinted.bytes >= hintBytes)
	due = due || l.hintNews || l.madeNews && (since >= hintMade || least < memoryWhenUp) // or the connection has ended
	if !l.known || !due {
		l.mu.Unlock()
		return
	}
	l.hinted.at, l.hinted.count, l.hinted.bytes, l.hintNews, l.madeNews = now, l.count.Transactions, 0, false, false
	h := l.newHintLocked()
	h.Next = l.read
	list := make(map[cursorID]Cursor, len(l.table.cursors))
	for id, p := range l.table.cursors {
		if p.has {
			list[id] = p.cursor
		}
	}
	stops := make(map[cursorID]stop, len(l.stops))
	for id, s := range l.stops {
		if p := l.table.cursors[id]; p != nil && p.has && s.of(&p.cursor) {
			stops[id] = s
		} else {
			delete(l.stops, id) // somebody has decided
		}
	}
	l.mu.Unlock()
	if err := h.store(l.env.Hint, list, stops); err != nil {
		l.log.Warn("the cursors are not written down", "error", err)
	}
}

// hintDueLocked is when made topics are to be written down, zero for never.
func (l *Link) hintDueLocked() time.Time {
	if !l.madeNews || l.env.Hint == nil {
		return time.Time{}
	}
	return l.hinted.at.Add(hintMade)
}

func (h *hint) store(m Memory, list map[cursorID]Cursor, stops map[cursorID]stop) error {
	for id, c := range list {
		value, err := c.Append(nil)
		if err != nil {
			return err
		}
		h.Cursors = append(h.Cursors, hinted{Lane: id.lane.String(), Topic: id.topic, Partition: id.partition, Cursor: value})
	}
	for id, s := range stops {
		value, err := s.cursor.Append(nil)
		if err != nil {
			return err
		}
		h.Stopped = append(h.Stopped, hinted{id.lane.String(), id.topic, id.partition, value, s.verdict, s.reason})
	}
	p, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if p, err = record.Gzip.Compress(nil, p); err != nil {
		return err
	}
	if len(p) > hintMax {
		return fmt.Errorf("%d bytes are more than %d", len(p), hintMax)
	}
	return m.Store(p)
}

// sendingLocked notes that a transaction of a lane begins: its cursors will be at floor or later.
func (l *Link) sendingLocked(lane Lane) { l.flight[lane] = flight{true, l.seen} }

// sentLocked notes that it was committed with its last cursor before an offset. All cursors before read are known then: what is
// not, a transaction of the other lane that is under way, or what somebody writes who takes over, comes later.
func (l *Link) sentLocked(lane Lane, records []Record) {
	l.flight[lane] = flight{}
	if l.cfg.Delivery != ExactlyOnce {
		return // nobody is fenced: somebody else's cursors may be between ours
	}
	for i := range records {
		if r := &records[i]; r.Topic == l.cfg.CursorTopic {
			l.hinted.bytes += len(r.Key) + len(r.Value)
			l.seen, l.told[lane] = max(l.seen, r.Offset+1), max(l.told[lane], r.Offset+1)
		}
	}
	safe := l.seen
	if other := l.flight[1-lane]; other.is {
		safe = min(safe, other.floor)
	}
	l.read = max(l.read, safe)
}

// flight is a transaction under way.
type flight struct {
	is    bool
	floor int64
}
