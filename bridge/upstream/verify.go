package upstream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"millrace/broker/catalog"
	"millrace/broker/record"
)

// Verify is what of a link's records is to be read back.
type Verify struct {
	// Topics is a pattern of local topics, "" for all.
	Topics string
	// Last is how many of the delivered offsets of each partition, from the end; 0: all that the log has.
	Last int64
}

// Verified is how the records of a partition of the board are in a partition upstream. Where both have as many partitions there
// is one for each, else one for each pair.
type Verified struct {
	Topic         string `json:"topic"`
	Partition     int32  `json:"partition"`
	UpstreamTopic string `json:"upstream_topic"`
	Upstream      int32  `json:"upstream_partition"`
	// First and End are the offsets on the board that were looked for, up to what was delivered when it began.
	First int64 `json:"first"`
	End   int64 `json:"end"`
	// Compared counts records of these.
	Compared int64 `json:"compared"`
	// Missing are not there. Doubled are there once more, Disordered came after a later one of their lane. Different have another key,
	// value or other headers there.
	Missing    Fault `json:"missing"`
	Doubled    Fault `json:"doubled"`
	Disordered Fault `json:"out_of_order"`
	Different  Fault `json:"different"`
	// Lost counts offsets that gap records tell of, Compacted records that compaction there may have let go.
	Lost      int64 `json:"lost"`
	Compacted int64 `json:"compacted"`
	// Foreign counts records in the partition upstream that were read, from the offset ReadFrom on, and are not of this board's.
	Foreign  int64 `json:"foreign"`
	ReadFrom int64 `json:"upstream_read_from"`
	// Reason is why it was not compared, or not to the end, "" where it was. Note is what is to be known beside.
	Reason string `json:"reason,omitempty"`
	Note   string `json:"note,omitempty"`
}

// Faulty says that something is not there once and in order.
func (v *Verified) Faulty() bool {
	return v.Missing.Count > 0 || v.Doubled.Count > 0 || v.Disordered.Count > 0 || v.Different.Count > 0
}

// Good says that all was compared, and is there once and in order.
func (v *Verified) Good() bool { return v.Reason == "" && !v.Faulty() }

// VerifyAt is how far it is: what is read, up to which offset upstream, and the partitions done of those there are.
type VerifyAt struct {
	Topic    string `json:"topic"`
	Upstream int32  `json:"upstream_partition"`
	Offset   int64  `json:"offset"`
	End      int64  `json:"end"`
	Done     int    `json:"done"`
	Of       int    `json:"of"`
	// Held is what holds it back, "" for nothing.
	Held string `json:"held,omitempty"`
}

// Gate is a Scheduler that says what holds a class back now, "" for nothing, and how many bytes are about right for one answer.
// It is no turn: nothing is counted for it.
type Gate interface {
	Held(class int) (why string, bytes int)
}

var (
	// ErrCannotVerify is returned by Verify for a link that has nothing to compare with.
	ErrCannotVerify = errors.New("the link cannot be verified")
	errReread       = errors.New("stamps there are the peer's")
)

// verifyUnit is a topic, or a partition of it upstream and the local ones that go there.
type verifyUnit struct {
	topic, name string
	class       int
	id          [16]byte // upstream
	mine, have  int32    // partitions here and upstream
	index       int32
	parts       []*verifyPart
}

// verifyPart is a local partition as it was when the question came.
type verifyPart struct {
	index     int32
	log       Partition
	cursor    Cursor
	has       bool
	open      []Range // what the backfill lane has to do yet
	stopped   string
	low       int64
	from, end int64
}

// verification is one run.
type verification struct {
	*Link
	source Source
	gate   Gate // nil: nothing is held back
	at     VerifyAt
	tell   func(VerifyAt)
	reader Reader // nil while there is no connection
	// release gives back the memory that it has, nil while it has none; c is what takes it, nil between two partitions.
	release func()
	c       *comparison
	scratch []byte
	fails   int // in a row
	gaps    map[cursorID]spans
}

// Verify reads back what was delivered when it is called, and compares it with the log: of each record the hashes of key, value and
// headers, and the order. found is called for each partition, told for how far it is. Nothing of the link's is held up but
// the bytes that it takes. It ends with ctx, and returns ErrCannotVerify, or what kept it from going on.
func (l *Link) Verify(ctx context.Context, what Verify, found func(Verified), told func(VerifyAt)) error {
	source, is := l.env.Remote.(Source)
	if !is {
		return fmt.Errorf("%w: nothing can be read at its other end", ErrCannotVerify)
	}
	units, err := l.verifyUnits(what)
	if err != nil {
		return err
	}
	v := &verification{Link: l, source: source, tell: told}
	v.gate, _ = l.env.Scheduler.(Gate)
	if v.release, err = l.cfg.room(ctx, l.env.Budget, 1); err != nil {
		return err
	}
	defer v.giveBack()
	defer v.hangUp()
	for _, u := range units {
		if err := v.topic(ctx, u, found); err != nil {
			return err
		}
	}
	return nil
}

// verifyUnits are the topics that are asked for, as they are now.
func (l *Link) verifyUnits(what Verify) (list []*verifyUnit, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.known {
		return nil, fmt.Errorf("%w: it has not read its cursors yet, and does not know what was delivered", ErrCannotVerify)
	}
	names := l.env.Log.Names()
	slices.Sort(names)
	for _, name := range names {
		parts := l.table.parts[name]
		if len(parts) == 0 || what.Topics != "" && !catalog.Matches(what.Topics, name) {
			continue
		}
		u := &verifyUnit{topic: name, name: l.cfg.upstream(name), class: l.env.Scheduler.Class(name)}
		for _, p := range parts {
			if p == nil {
				continue
			}
			u.mine = p.to.mine
			u.parts = append(u.parts, p.verify(what.Last))
		}
		list = append(list, u)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: no topic that it carries matches %q", ErrUnknownPartition, what.Topics)
	}
	return list, nil
}

// verify is the partition as it is now. The link's lock is held.
func (p *part) verify(last int64) *verifyPart {
	live := p.lane[Live]
	w := &verifyPart{index: p.index, log: p.log, cursor: live.cursor, has: live.has, open: p.open(), end: live.cursor.Next}
	switch {
	case p.log == nil:
		w.stopped = "it cannot be used now"
	case p.verdict.Stopped():
		w.stopped = p.reason
	case live.has && live.cursor.Local != p.id:
		w.stopped = "the local topic was made anew since records were delivered"
	}
	if w.stopped != "" {
		return w
	}
	if !live.has {
		w.end = 0
	}
	w.end = min(w.end, p.log.High())
	w.low = min(p.log.Start(), w.end)
	w.from = w.low
	if last <= 0 {
		return w
	}
	delivered := spans(w.open).without(Range{w.low, w.end})
	for i := len(delivered) - 1; i >= 0 && last > 0; i-- {
		r := delivered[i]
		w.from = max(r.First, r.End-last)
		last -= r.End - r.First
	}
	// What is around is known too, so that it is not taken for somebody else's.
	w.low = max(w.low, w.from-windowAround)
	return w
}

// topic compares one topic.
func (v *verification) topic(ctx context.Context, t *verifyUnit, found func(Verified)) error {
	v.at = VerifyAt{Topic: t.name, Upstream: -1}
	o, err := v.look(ctx, t.class, t.name)
	if err != nil {
		return err
	}
	why := ""
	switch {
	case o == nil:
		why = "topic " + t.name + " is not there"
	case o.Err != nil:
		why = "topic " + t.name + " upstream: " + o.Err.Error()
	default:
		t.id, t.have = o.ID, int32(len(o.Leaders))
		if n := len(t.parts); t.mine != t.have && v.cfg.window(n) == 0 {
			why = fmt.Sprintf("its %d partitions go to %d there by key, and so many are more than there is memory to compare at once", n, t.have)
		}
	}
	var none [16]byte
	t.parts = slices.DeleteFunc(t.parts, func(p *verifyPart) bool {
		if c := &p.cursor; why == "" && p.has && c.UpstreamID != t.id && c.UpstreamID != none && t.id != none {
			p.stopped = or(p.stopped, "the upstream topic "+t.name+" was made anew since records were delivered")
		}
		p.stopped = or(p.stopped, why)
		if p.stopped != "" {
			found(Verified{
				Topic: t.topic, Partition: p.index, UpstreamTopic: t.name, Upstream: -1, First: p.from, End: p.end, Reason: p.stopped,
				Missing: noFault, Doubled: noFault, Disordered: noFault, Different: noFault,
			})
		}
		return p.stopped != ""
	})
	units := t.split()
	v.at.Of = len(units)
	for _, u := range units {
		if err := v.unit(ctx, u, found); err != nil {
			return err
		}
		v.at.Done++
	}
	return nil
}

// split are its partitions upstream that something was delivered to.
func (t *verifyUnit) split() (list []*verifyUnit) {
	for i := range t.have {
		u := *t
		u.index, u.parts = i, nil
		for _, p := range t.parts {
			if t.mine != t.have || p.index == i {
				u.parts = append(u.parts, p)
			}
		}
		if len(u.parts) > 0 {
			list = append(list, &u)
		}
	}
	return list
}

// unit compares one partition upstream.
func (v *verification) unit(ctx context.Context, u *verifyUnit, found func(Verified)) error {
	v.at.Upstream, v.at.Offset, v.at.End = u.index, 0, 0
	defer func() { v.c = nil }()
	c, logs := v.comparison(ctx, u)
	begin, start, err := v.compare(ctx, u, c, logs, false)
	if errors.Is(err, errReread) {
		c, logs = v.comparison(ctx, u)
		begin, start, err = v.compare(ctx, u, c, logs, true)
	}
	reason := ""
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errGivenUp):
		return err
	case err != nil:
		reason = err.Error()
	}
	for _, s := range c.strands {
		r := Verified{
			Topic: u.topic, Partition: s.index, UpstreamTopic: u.name, Upstream: u.index, First: s.from, End: s.to,
			Compared: s.found + s.altered + s.missing.Count + s.letGo,
			Missing:  s.missing, Doubled: s.doubled, Disordered: s.disordered, Different: s.different,
			Lost: s.lost, Compacted: s.letGo, Foreign: c.foreign, ReadFrom: begin, Reason: reason,
		}
		if s.missing.Count > 0 && start > 0 && begin == start {
			r.Note = fmt.Sprintf("the peer has let go of what was there below offset %d", start)
		}
		found(r)
	}
	return nil
}

// comparison is that of a partition upstream with the log.
func (v *verification) comparison(ctx context.Context, u *verifyUnit) (*comparison, map[int32]Partition) {
	c := &comparison{size: v.cfg.window(len(u.parts))}
	logs := map[int32]Partition{}
	for _, p := range u.parts {
		s := newStrand(p.index, p.from, p.end, p.low, p.log.High())
		s.skip, s.compacted = spans(p.open), p.log.Compacted()
		c.strands = append(c.strands, s)
		logs[s.index] = p.log
	}
	c.walk = func(s *strand, from, end int64, fn func(*print) bool) error {
		return v.walk(ctx, u, s, logs[s.index], from, end, func(p *print, _ int64) bool { return fn(p) })
	}
	c.told = func(s *strand) (spans, error) {
		if err := v.readGaps(ctx, u.class); err != nil {
			return nil, err
		}
		return v.gaps[cursorID{Live, u.topic, s.index}], nil
	}
	v.c = c
	return c, logs
}

// walk goes through the records of a local partition that go to the one upstream. fn gets the stamp on the board, too.
func (v *verification) walk(ctx context.Context, u *verifyUnit, s *strand, log Partition, from, end int64, fn func(*print, int64) bool) error {
	f := filler{cluster: v.peer()}
	after := from
	for from < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		if start := log.Start(); from < start { // retention took them meanwhile
			from, after, s.from = start, start, max(s.from, start)
			continue
		}
		raw, err := log.ReadBatches(v.scratch[:0], from, v.piece())
		if errors.Is(err, ErrOutOfRange) && from < log.Start() {
			continue
		}
		if err != nil {
			return fmt.Errorf("the log: %w", err)
		}
		if v.scratch = raw; cap(raw) > 2*v.piece() {
			v.scratch = nil
		}
		if len(raw) == 0 {
			s.holes = s.holes || !s.compacted
			return nil
		}
		for len(raw) > 0 && from < end {
			var b record.Batch
			if b, raw, err = record.Next(raw); err != nil {
				return fmt.Errorf("the log: %w", err)
			}
			if b.BaseOffset() > from && !s.compacted || b.Control() && damage(b) {
				s.holes = true
			}
			if b.Control() || b.NextOffset() <= from {
				from = max(from, b.NextOffset())
				continue
			}
			for r, err := range b.Records(record.DefaultMaxBytes) {
				switch {
				case err != nil:
					return fmt.Errorf("the log at offset %d: %w", from, err)
				case r.Offset < from:
					continue
				case r.Offset >= end:
					return nil
				case f.looped(r.Headers) || place(s.index, u.mine, u.have, r.Key) != u.index:
					continue
				}
				p := print{content: contentOf(&r), offset: r.Offset, after: after}
				var unsure bool
				p.at, unsure = export(v.env.Clock, log.ID(), s.index, &r)
				p.loose = unsure || p.at != r.Timestamp
				if after = r.Offset + 1; !fn(&p, r.Timestamp) {
					return nil
				}
			}
			from = max(from, b.NextOffset())
		}
	}
	return nil
}

func (v *verification) peer() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.cluster
}

// piece is how much is read at once, in bytes.
func (v *verification) piece() int { return min(v.cfg.TransactionBytes, readMax) }

// compare reads the partition upstream, whole or from where its oldest record may be. It returns where it began, and where the
// peer does.
func (v *verification) compare(ctx context.Context, u *verifyUnit, c *comparison, logs map[int32]Partition, whole bool) (begin, start int64, err error) {
	since := int64(math.MaxInt64)
	for _, s := range c.strands {
		if err := v.walk(ctx, u, s, logs[s.index], s.from, s.to, func(p *print, stamp int64) bool {
			switch {
			case !s.wanted(p.offset):
			case p.loose: // with which stamp it went nobody knows
				since = 0
			default:
				since = min(since, p.at, stamp)
			}
			return true
		}); err != nil {
			return 0, 0, err
		}
	}
	if since < math.MaxInt64 { // else nothing was delivered
		if whole {
			since = 0
		}
		// Of several records with one stamp a peer's index knows a later one, too.
		begin, start, err = v.records(ctx, u, max(since-1, 0), func(r *record.Record, appendTime bool) error {
			if appendTime && !whole {
				return errReread
			}
			a := arrivalOf(r, appendTime, v.cfg.Board, u.topic)
			return c.take(&a)
		})
	}
	if err != nil {
		return begin, start, err
	}
	return begin, start, c.finish()
}
