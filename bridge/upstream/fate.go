package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"millrace/broker/record"
)

// The types of control records that end a transaction: the second half of their key, after a version.
const (
	controlAbort  = 0
	controlCommit = 1
)

// ending says whether a control batch commits what its producer has open, or takes it back; is is false where it does neither:
// compaction leaves an empty batch of a marker when none of the records it was for is there.
func ending(b record.Batch) (commit, is bool, err error) {
	for r, err := range b.Records(cursorBatchMax) {
		if err != nil {
			return false, false, err
		}
		if len(r.Key) < 4 {
			continue
		}
		switch binary.BigEndian.Uint16(r.Key[2:]) {
		case controlAbort:
			return false, true, nil
		case controlCommit:
			return true, true, nil
		}
	}
	return false, false, nil
}

// later says whether a transaction is not of an earlier connection than ours: the peer's word is not what it should be.
func (l *Link) later(t transaction) bool {
	id := l.identity(t.producer)
	return id.Producer != t.producer || t.epoch >= id.Epoch && !l.former(id)
}

// former says that the link has another producer id since.
func (l *Link) former(id Identity) bool {
	return id.Producer != l.current[Live] && id.Producer != l.current[Backfill]
}

const (
	whyLater  = "it is of a later connection"
	whyMerged = "another transaction of the link has gone on in it"
)

// byData says how a transaction is to end that hangs in the cursor partition: by what became of it where its cursors say that it has
// written.
//
// Of a transaction of which nothing but the acknowledgement is left there may be a cursor of the other lane that follows from it: it says
// that it was told. ended are those that were settled before.
func (l *Link) byData(ctx context.Context, s Session, c *Spot, st Standing, ended map[int64]remedy) (o remedy, why string, err error) {
	t := transaction{st.Producer, st.Epoch}
	if l.later(t) {
		return unsure, whyLater, nil
	}
	var keys []CursorKey
	var cursors []Cursor
	merged := false
	last := int64(-1)
	told := telling{own: l.own, open: map[int64]int64{}}
	whole, err := s.Scan(ctx, c.Topic, c.Partition, st.Open, 0, scanCursors, func(b record.Batch) (bool, error) {
		if b.ProducerID() != t.producer {
			return false, told.batch(b)
		}
		if b.Control() || !b.Transactional() {
			return false, nil
		}
		merged, last = merged || b.ProducerEpoch() != t.epoch, b.LastOffset()
		for r, err := range b.Records(cursorBatchMax) {
			if err != nil {
				return false, err
			}
			k, err := ParseCursorKey(r.Key)
			if err != nil || r.Value == nil || len(cursors) == draftsMax*4 {
				merged = merged || len(cursors) == draftsMax*4
				continue
			}
			v, err := ParseCursor(r.Value)
			if err != nil {
				return false, fmt.Errorf("cursor of %s-%d: %w", k.Topic, k.Partition, err)
			}
			keys, cursors = append(keys, k), append(cursors, v)
		}
		return false, nil
	})
	switch {
	case errors.Is(err, ErrVersion):
		return unsure, err.Error(), nil
	case err != nil:
		return unsure, "", fmt.Errorf("read what hangs in the cursor topic: %w", err)
	case merged:
		return unsure, whyMerged, nil
	case !whole:
		return unsure, "the cursor topic is too large", nil
	case told.before(ended) > last:
		return commit, "the other lane's cursors follow from it", nil
	case told.undecided(ended) > last:
		return unsure, "the other lane's cursors follow from it, and are open", nil
	}
	single := l.identity(t.producer).Single
	list, asked, err := l.written(ctx, s, keys, cursors, single)
	if err != nil || len(list) == 0 {
		return takeBack, "it has written nothing", err
	}
	if err := s.Standing(ctx, list, []int64{t.producer}); err != nil {
		return unsure, "", fmt.Errorf("look for what hangs: %w", err)
	}
	var yes, no, maybe string
	room := scanMost
	for i := 0; i < len(list) && yes == ""; i++ { // one COMMIT is enough
		at := &list[i]
		name := fmt.Sprintf("%s-%d", at.Topic, at.Partition)
		if at.Err != nil {
			maybe = fmt.Sprintf("%s: %v", name, at.Err)
			continue
		}
		known, is := at.of(t.producer)
		stamp, named := asked[where{at.Topic, at.Partition}]
		switch {
		case is && known.Open >= 0: // it hangs here, too, or nothing of it is here
			continue
		case is && (known.Epoch < t.epoch || known.Epoch == t.epoch && single):
			continue
		case is && known.Epoch == t.epoch: // the marker may be that of the transaction before
			maybe = name + " may have its end, or that of one before it: the peer has no transaction.version 2"
			continue
		case is && !single: // only what is taken back for a connection that begins gets a higher epoch
			no = name
			continue
		case is:
			stamp = known.Stamp
		case !named:
			continue
		case !single || stamp < 0:
			maybe = name + " does not tell"
			continue
		}
		found, commits, whole, err := l.marked(ctx, s, at, t, stamp, &room)
		switch {
		case err != nil:
			return unsure, "", err
		case found && commits:
			yes = name
		case found:
			no = name
		case is || !whole:
			maybe = fmt.Sprintf("the end of it was not found in %s", name)
		}
	}
	switch {
	case yes != "":
		return commit, "it is committed in " + yes, nil
	case no != "":
		return takeBack, "it is taken back in " + no, nil
	case maybe != "":
		return unsure, maybe, nil
	}
	return takeBack, "it is committed nowhere", nil
}

// telling is what the committed cursors of the link that come after a transaction say of it, from the cursor partition's batches in order.
type telling struct {
	own func(*CursorKey) bool
	// most is the largest Told of what is committed, open of what is not decided, by producers.
	most int64
	open map[int64]int64
}

func (f *telling) batch(b record.Batch) error {
	switch id := b.ProducerID(); {
	case !b.Transactional():
		return nil
	case !b.Control():
		for r, err := range b.Records(cursorBatchMax) {
			if err != nil {
				return err
			}
			if k, err := ParseCursorKey(r.Key); err != nil || r.Value == nil || !f.own(&k) {
				continue
			}
			c, err := ParseCursor(r.Value)
			if err != nil {
				return fmt.Errorf("cursor at %d: %w", r.Offset, err)
			}
			if c.Told <= r.Offset { // else the partition was cut since, and offsets are others'
				f.open[id] = max(f.open[id], c.Told)
			}
		}
		return nil
	default:
		yes, is, err := ending(b)
		if yes {
			f.most = max(f.most, f.open[id])
		}
		if is {
			delete(f.open, id)
		}
		return err
	}
}

// before is where what was told ends: with what was settled just now, whose markers may not be read yet.
func (f *telling) before(ended map[int64]remedy) (most int64) {
	most = f.most
	for id, told := range f.open {
		if ended[id] == commit {
			most = max(most, told)
		}
	}
	return most
}

// undecided is the same of what nobody has ended.
func (f *telling) undecided(ended map[int64]remedy) (most int64) {
	for id, told := range f.open {
		if ended[id] == unsure {
			most = max(most, told)
		}
	}
	return most
}

// written are the partitions that a transaction may have written to, by its cursors, and of those that it probably has the stamp from which
// its marker is to be looked for, where the partition knows nothing of the producer any more: -1 where the time is not known.
func (l *Link) written(ctx context.Context, s Session, keys []CursorKey, cursors []Cursor, single bool) (list []Spot, asked map[where]int64, err error) {
	var topics []string
	seen := map[string]bool{}
	for i := range cursors {
		if name := cursors[i].Upstream; name != "" && !seen[name] {
			seen[name] = true
			topics = append(topics, name)
		}
	}
	if len(topics) == 0 {
		return nil, nil, nil
	}
	topics = append(topics, l.cfg.GapTopic) // a transaction may have told of a gap, and nothing else
	counts, err := s.Counts(ctx, topics)
	if err != nil {
		return nil, nil, fmt.Errorf("look for what hangs: %w", err)
	}
	for _, name := range topics {
		for p := range counts[name] {
			list = append(list, Spot{Topic: name, Partition: p})
		}
	}
	asked = map[where]int64{}
	for i := range cursors {
		name := cursors[i].Upstream
		from := max(cursors[i].At-scanBefore.Milliseconds(), 0)
		if now := l.env.Clock.Now(); !l.env.Clock.Known() || cursors[i].At > now.Add(scanBefore).UnixMilli() {
			from = -1
		}
		note := func(name string, p int32) {
			at := where{name, p}
			if was, is := asked[at]; !is || from < was {
				asked[at] = from
			}
		}
		if single && from >= 0 { // whether it has told of a gap is not known: where it cannot be found out, that is no reason to wait for a person
			for p := range counts[l.cfg.GapTopic] {
				note(l.cfg.GapTopic, p)
			}
		}
		if have := counts[name]; l.env.Log.Count(keys[i].Topic) == have {
			note(name, keys[i].Partition)
		} else {
			for p := range have {
				note(name, p)
			}
		}
	}
	return list, asked, nil
}

// marked looks for the marker of a transaction that has an epoch of its own in a partition where it is not open. whole is false where that
// would be more to read than there is room for.
func (l *Link) marked(ctx context.Context, s Session, at *Spot, t transaction, stamp int64, room *int) (found, commits, whole bool, err error) {
	whole, err = s.Scan(ctx, at.Topic, at.Partition, -1, stamp, *room, func(b record.Batch) (bool, error) {
		*room -= len(b)
		if b.ProducerID() != t.producer || !b.Control() || b.ProducerEpoch() <= t.epoch {
			return false, nil
		}
		yes, is, err := ending(b)
		if err != nil || !is || yes && b.ProducerEpoch() != t.epoch+1 {
			return false, err
		}
		found, commits = true, yes
		return true, nil
	})
	if errors.Is(err, ErrOutOfRange) { // retention was quicker
		return false, false, false, nil
	}
	if err != nil {
		err = fmt.Errorf("look for the end of a transaction in %s-%d: %w", at.Topic, at.Partition, err)
	}
	return found, commits, whole, err
}

// byCursors says how a transaction is to end that hangs in data: as it has in the cursor partition, where nothing hangs any more.
func (l *Link) byCursors(ctx context.Context, s Session, t transaction, list []Spot) (o remedy, why string, err error) {
	if l.later(t) {
		return unsure, whyLater, nil
	}
	for i := range list {
		at := &list[i]
		st, _ := at.of(t.producer)
		first := int16(math.MinInt16)
		_, err := s.Scan(ctx, at.Topic, at.Partition, st.Open, 0, 1, func(b record.Batch) (bool, error) {
			if b.ProducerID() != t.producer || b.LastOffset() < st.Open {
				return false, nil
			}
			first = b.ProducerEpoch()
			return true, nil
		})
		switch {
		case errors.Is(err, ErrOutOfRange): // retention has taken it
		case err != nil:
			return unsure, "", fmt.Errorf("read what hangs in %s-%d: %w", at.Topic, at.Partition, err)
		case first != t.epoch:
			return unsure, whyMerged, nil
		}
	}
	f := fate{transaction: t}
	for from := max(l.readBefore, 0); ; from = 0 {
		f = fate{transaction: t}
		whole, err := s.Scan(ctx, l.cfg.CursorTopic, cursorPartition(l.cfg.Board), from, 0, scanCursors, f.batch)
		if err != nil && !errors.Is(err, ErrOutOfRange) {
			return unsure, "", fmt.Errorf("look for the end of a transaction in the cursor topic: %w", err)
		}
		if !whole && err == nil {
			return unsure, "the cursor topic is too large", nil
		}
		if f.found || from == 0 {
			break
		}
	}
	id := l.identity(t.producer)
	switch {
	case f.merged:
		return unsure, whyMerged, nil
	case f.found && !f.commit:
		return takeBack, "its cursors are taken back", nil
	case f.found && id.Single:
		return commit, "its cursors are committed", nil
	case f.found: // they may be those of the transaction before
		return unsure, "the cursors there may be of one before it: the peer has no transaction.version 2", nil
	case f.has:
		return unsure, "its cursors are open", nil
	case f.after || l.former(id):
		return unsure, "the link has gone on since", nil
	}
	return takeBack, "it has no cursors", nil
}

// fate is what the cursor partition knows of a transaction, from its batches in order.
type fate struct {
	transaction
	has, other bool // what is open is of it, or of another one of the producer
	found      bool
	commit     bool
	merged     bool
	after      bool // there is something of the producer that is later
}

func (f *fate) batch(b record.Batch) (enough bool, err error) {
	switch {
	case b.ProducerID() != f.producer:
	case !b.Control():
		if b.Transactional() && b.Count() > 0 { // compaction keeps the last batch of a producer, empty
			f.has = f.has || b.ProducerEpoch() == f.epoch
			f.other = f.other || b.ProducerEpoch() != f.epoch
			f.after = f.after || b.ProducerEpoch() > f.epoch
		}
	default:
		yes, is, err := ending(b)
		if err != nil || !is {
			return false, err
		}
		if f.has { // of several that share an epoch the last one
			f.found, f.commit, f.merged = true, yes, f.merged || f.other
		}
		f.has, f.other = false, false
	}
	return false, nil
}
