package upstream

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"millrace/broker/record"
)

// landing is how far a down link has come in a partition upstream.
type landing struct {
	// Local and UpstreamID are the ids of the topics.
	Local, UpstreamID [16]byte
	// Next is the offset upstream to go on with, Epoch the leader's when it was the end of what was taken, -1: not known.
	Next  int64
	Epoch int32
	// Last is the offset of the last record taken, -1 for none, and CRC its sum.
	//
	// Invariant: -1 <= Last < Next, or Last is -1.
	Last int64
	CRC  uint32
}

// markKey and markValue are a landing as it is on flash. What is not known of a value is ignored.
type markKey struct {
	Link      string `json:"link"`
	Topic     string `json:"topic"` // upstream
	Partition int32  `json:"partition"`
}

type markValue struct {
	Version    int    `json:"v"`
	UpstreamID string `json:"upstream_id"`
	Next       int64  `json:"next"`
	Epoch      int32  `json:"epoch"`
	Last       int64  `json:"last"`
	CRC        uint32 `json:"crc"`
	Local      string `json:"topic_id"`
	At         int64  `json:"time"`
}

// record is the landing as a record of the local cursor topic.
func (l *landing) record(link string, id markID, now int64) (record.Record, error) {
	key, err := appendJSON(nil, markKey{link, id.topic, id.partition})
	if err != nil {
		return record.Record{}, err
	}
	value, err := appendJSON(nil, &markValue{
		Version: cursorVersion, UpstreamID: hex.EncodeToString(l.UpstreamID[:]), Next: l.Next, Epoch: l.Epoch, Last: l.Last, CRC: l.CRC,
		Local: hex.EncodeToString(l.Local[:]), At: now,
	})
	return record.Record{Timestamp: now, Key: key, Value: value}, err
}

// parseLanding reads a value. It returns ErrVersion, and ErrCursor for what no Millrace wrote.
func parseLanding(p []byte) (*landing, error) {
	if len(p) > cursorValueMax {
		return nil, fmt.Errorf("%w: a value of %d bytes", ErrCursor, len(p))
	}
	var w markValue
	if err := json.Unmarshal(p, &w); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCursor, err)
	}
	if w.Version > cursorVersion {
		return nil, fmt.Errorf("%w: %d, this one knows %d", ErrVersion, w.Version, cursorVersion)
	}
	l := &landing{Next: w.Next, Epoch: w.Epoch, Last: w.Last, CRC: w.CRC}
	if w.Version < 1 || !parseID(&l.Local, w.Local) || !parseID(&l.UpstreamID, w.UpstreamID) ||
		l.Next < 0 || l.Next > math.MaxInt64/2 || l.Last < -1 || l.Last >= max(l.Next, 0) || l.Epoch < -1 {
		return nil, fmt.Errorf("%w: version, ids or offsets", ErrCursor)
	}
	return l, nil
}

// marksMax is the most that is read of the cursor topic at once, in bytes.
const marksMax = 256 << 10

// readMarks reads the cursors, where they are not known: with the first connection, and after an append of which nobody knows
// what became. It makes the topic where there is none.
func (d *Down) readMarks(ctx context.Context) error {
	d.mu.Lock()
	known := d.known
	d.mu.Unlock()
	if known {
		return nil
	}
	p, err := d.own(ctx, LandingTopic)
	if err != nil {
		return err
	}
	marks, failed := map[markID]*landing{}, map[markID]error{}
	var raw []byte
	for next, high := p.Start(), p.High(); next < high; {
		if raw, err = p.ReadBatches(raw[:0], next, marksMax); errors.Is(err, ErrOutOfRange) && p.Start() > next {
			next = p.Start()
			continue
		}
		if err != nil {
			return fmt.Errorf("read cursors: %w", err)
		}
		if len(raw) == 0 {
			break
		}
		for b, err := range visible(raw, nil) {
			if err != nil {
				return fmt.Errorf("read cursors: %w", err)
			}
			if next = b.NextOffset(); b.hidden {
				continue
			}
			if err := d.readMarksOf(b.Batch, marks, failed); err != nil {
				return err
			}
		}
	}
	for id, err := range failed {
		return fmt.Errorf("cursor of %s-%d: %w", id.topic, id.partition, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.marks, d.known = marks, true
	for _, s := range d.order {
		for _, in := range s.parts {
			in.cursor, in.has = landing{Last: -1, Epoch: -1}, false
			d.recallLocked(in)
		}
	}
	return nil
}

// readMarksOf reads a batch. Of each partition the last record counts, also where it cannot be read.
func (d *Down) readMarksOf(b record.Batch, marks map[markID]*landing, failed map[markID]error) error {
	for r, err := range b.Records(record.DefaultMaxBytes) {
		if err != nil {
			return fmt.Errorf("read cursors: %w", err)
		}
		var k markKey
		if len(r.Key) > cursorKeyMax || json.Unmarshal(r.Key, &k) != nil || k.Link != d.cfg.Name || k.Partition < 0 {
			continue // another link's, or nobody's
		}
		id := markID{k.Topic, k.Partition}
		delete(failed, id)
		if r.Value == nil {
			delete(marks, id)
			continue
		}
		l, err := parseLanding(r.Value)
		if err != nil {
			failed[id] = err
		}
		if marks[id] == nil && len(marks) >= 4*d.cfg.Partitions {
			return fmt.Errorf("%w: %s has more than %d cursors of this link", errUnfit, LandingTopic, 4*d.cfg.Partitions)
		}
		marks[id] = l
	}
	return nil
}

// recallLocked puts a partition to its cursor.
func (d *Down) recallLocked(in *inlet) {
	if l := d.marks[in.id()]; l != nil {
		in.cursor, in.has = *l, true
	}
	in.pos, in.gone, in.checked, in.compare = in.cursor.Next, nil, false, false
}

// own is the one partition of a topic of the board's own.
func (d *Down) own(ctx context.Context, topic string) (Partition, error) {
	if list := d.env.Store.Partitions(topic); len(list) > 0 {
		return list[0], nil
	}
	if err := d.env.Store.Make(ctx, topic, 1, nil); err != nil {
		return nil, fmt.Errorf("%s: %w", topic, err)
	}
	if list := d.env.Store.Partitions(topic); len(list) > 0 {
		return list[0], nil
	}
	return nil, fmt.Errorf("%s: %w", topic, errNoTopic)
}
