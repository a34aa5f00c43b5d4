package upstream

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"millrace/broker/record"
)

// ErrVersion is returned for a cursor that a later Millrace wrote.
var ErrVersion = errors.New("cursor of a later version")

// ErrCursor is returned for bytes that are no cursor.
var ErrCursor = errors.New("not a cursor")

const (
	cursorVersion = 1
	// rangesMax is how many ranges a live lane may have left to the other one. When there are as many it goes on in order.
	rangesMax = 16
	// cursorKeyMax and cursorValueMax are the longest key and value that are looked at, in bytes.
	cursorKeyMax   = 2 << 10
	cursorValueMax = 8 << 10
)

// CursorKey is whose cursor it is. It names topics, not their ids: so a topic that was made anew is noticed.
type CursorKey struct {
	Board     string `json:"board"`
	Link      string `json:"link"`
	Lane      string `json:"lane"`
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
}

// Cursor is how far a lane has come in a partition.
type Cursor struct {
	// Local and UpstreamID are the ids of the topics, Upstream the name of the one upstream.
	Local, UpstreamID [16]byte
	Upstream          string
	// Next is the first offset the lane has not dealt with. Of the backfill lane's it is what it has finished of Ranges.
	Next int64
	// Last is the offset of the last record sent, -1 for none, and CRC its sum.
	//
	// Invariant: -1 <= Last < Next, or Last is -1.
	Last int64
	CRC  uint32
	// Ranges is what the live lane has left to the backfill lane, oldest first. Only the live lane writes them.
	//
	// Invariant: not empty, ascending, apart, all below Next; at most rangesMax.
	Ranges []Range
	// Turn counts what Resolve did to the partition: a backfill cursor of an earlier one says nothing.
	Turn int64
	// Sync is where the record went that was sent before those of the cursor's transaction.
	Sync Sync
	// Told is the offset in the cursor topic before which the peer has acknowledged all that the other lane of the connection had sent:
	// what the cursor says may follow from that. 0 where it has sent nothing.
	Told int64
	// By is the life of the process that wrote it.
	By string
	// At is when, in ms, as well as the board knew.
	At int64
}

// Sync says that a record of the partition is at an offset upstream, and that all that were sent later, up to the cursor, were
// written by a producer. It is there where groups are followed.
type Sync struct {
	Is              bool
	Local, Upstream int64
	Producer        int64
}

// after says whether what was left to the other lane is all of before the record: what was sent since is this lane's.
func (s *Sync) after(ranges []Range) bool {
	n := len(ranges)
	return n == 0 || ranges[n-1].End <= s.Local
}

// wire is a Cursor in JSON. What is not known here is ignored.
type wire struct {
	Version    int        `json:"v"`
	Local      string     `json:"topic_id"`
	Next       int64      `json:"next"`
	Last       int64      `json:"last"`
	CRC        uint32     `json:"crc"`
	Upstream   string     `json:"upstream"`
	UpstreamID string     `json:"upstream_id"`
	Ranges     [][2]int64 `json:"ranges,omitempty"`
	Turn       int64      `json:"turn,omitempty"`
	Sync       []int64    `json:"sync,omitempty"`
	Told       int64      `json:"told,omitempty"`
	By         string     `json:"by"`
	At         int64      `json:"time"`
}

// Append appends the key in its one form.
func (k *CursorKey) Append(dst []byte) ([]byte, error) { return appendJSON(dst, k) }

// Append appends the value.
func (c *Cursor) Append(dst []byte) ([]byte, error) {
	w := wire{
		Version: cursorVersion, Local: hex.EncodeToString(c.Local[:]), Next: c.Next, Last: c.Last, CRC: c.CRC,
		Upstream: c.Upstream, UpstreamID: hex.EncodeToString(c.UpstreamID[:]), Turn: c.Turn, Told: c.Told, By: c.By, At: c.At,
	}
	for _, r := range c.Ranges {
		w.Ranges = append(w.Ranges, [2]int64{r.First, r.End})
	}
	if s := &c.Sync; s.Is {
		w.Sync = []int64{s.Local, s.Upstream, s.Producer}
	}
	return appendJSON(dst, &w)
}

func appendJSON(dst []byte, v any) ([]byte, error) {
	p, err := json.Marshal(v)
	if err != nil {
		return dst, fmt.Errorf("encode cursor: %w", err)
	}
	return append(dst, p...), nil
}

// ParseCursorKey reads a key. It returns ErrCursor.
func ParseCursorKey(p []byte) (CursorKey, error) {
	var k CursorKey
	if len(p) > cursorKeyMax {
		return k, fmt.Errorf("%w: a key of %d bytes", ErrCursor, len(p))
	}
	if err := json.Unmarshal(p, &k); err != nil {
		return k, fmt.Errorf("%w: key: %w", ErrCursor, err)
	}
	if k.Partition < 0 {
		return k, fmt.Errorf("%w: partition %d", ErrCursor, k.Partition)
	}
	return k, nil
}

// ParseCursor reads a value. It returns ErrVersion, and ErrCursor for what no Millrace wrote.
func ParseCursor(p []byte) (Cursor, error) {
	if len(p) > cursorValueMax {
		return Cursor{}, fmt.Errorf("%w: a value of %d bytes", ErrCursor, len(p))
	}
	var version struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(p, &version); err != nil {
		return Cursor{}, fmt.Errorf("%w: %w", ErrCursor, err)
	}
	if version.V > cursorVersion {
		return Cursor{}, fmt.Errorf("%w: %d, this one knows %d", ErrVersion, version.V, cursorVersion)
	}
	var w wire
	if err := json.Unmarshal(p, &w); err != nil {
		return Cursor{}, fmt.Errorf("%w: %w", ErrCursor, err)
	}
	c := Cursor{Upstream: w.Upstream, Next: w.Next, Last: w.Last, CRC: w.CRC, Turn: w.Turn, Told: w.Told, By: w.By, At: w.At}
	for _, r := range w.Ranges {
		c.Ranges = append(c.Ranges, Range{r[0], r[1]})
	}
	if s := w.Sync; len(s) == 3 && s[0] >= 0 && s[0] <= c.Last && s[1] >= 0 && s[1] <= math.MaxInt64/2 && s[2] >= 0 {
		c.Sync = Sync{true, s[0], s[1], s[2]}
		if !c.Sync.after(c.Ranges) { // somebody has copied it who did not follow groups
			c.Sync = Sync{}
		}
	}
	if w.Version < 1 || !parseID(&c.Local, w.Local) || !parseID(&c.UpstreamID, w.UpstreamID) {
		return Cursor{}, fmt.Errorf("%w: version or ids", ErrCursor)
	}
	if err := c.check(); err != nil {
		return Cursor{}, fmt.Errorf("%w: %w", ErrCursor, err)
	}
	return c, nil
}

func parseID(id *[16]byte, s string) bool {
	if len(s) != 2*len(id) {
		return false
	}
	_, err := hex.Decode(id[:], []byte(s))
	return err == nil
}

func (c *Cursor) check() error {
	if c.Next < 0 || c.Next > math.MaxInt64/2 || c.Last < -1 || c.Last >= max(c.Next, 0) || len(c.Ranges) > rangesMax || c.Turn < 0 {
		return fmt.Errorf("want -1 <= last < next and at most %d ranges, have %d, %d, %d", rangesMax, c.Last, c.Next, len(c.Ranges))
	}
	end := int64(-1)
	for _, r := range c.Ranges {
		if r.First < 0 || r.First <= end || r.End <= r.First || r.End > c.Next {
			return fmt.Errorf("ranges %v below %d are not ascending and apart", c.Ranges, c.Next)
		}
		end = r.End
	}
	return nil
}

// sum is the CRC-32C by which a record is known again: over offset, timestamp, key, value and headers as they are in the log.
func sum(r *record.Record) uint32 {
	var b [20]byte
	binary.BigEndian.PutUint64(b[:], uint64(r.Offset))
	binary.BigEndian.PutUint64(b[8:], uint64(r.Timestamp))
	binary.BigEndian.PutUint32(b[16:], uint32(len(r.Headers)))
	crc := record.Update(0, b[:])
	field := func(p []byte) {
		n := int32(len(p))
		if p == nil {
			n = -1
		}
		binary.BigEndian.PutUint32(b[:], uint32(n))
		crc = record.Update(record.Update(crc, b[:4]), p)
	}
	field(r.Key)
	field(r.Value)
	for _, h := range r.Headers {
		field([]byte(h.Key))
		field(h.Value)
	}
	return crc
}
