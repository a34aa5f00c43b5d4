package wire

import (
	"encoding/binary"
	"math"
)

// Fetch is the body of a Fetch response, v4-18, whose records stay in the log until they are sent.
type Fetch struct {
	ThrottleMillis int32
	Code           int16 // v7+
	SessionID      int32 // v7+
	Topics         []FetchTopic
}

// FetchTopic is one topic of a Fetch response.
type FetchTopic struct {
	Name       string   // to v12
	ID         [16]byte // v13+
	Partitions []FetchPartition
}

// FetchPartition is one partition of a Fetch response.
type FetchPartition struct {
	Index  int32
	Code   int16
	High   int64 // high watermark, -1 if unknown
	Stable int64 // last stable offset, -1 if not asked for
	Start  int64 // log start offset, -1 if unknown; v5+
	// NoAborted sends null for the aborted transactions, as is done for readers that do not ask; else there are none.
	NoAborted bool
	// Diverging, v12+ (KIP-595): the epoch and its end offset where the reader's log and this one part.
	Diverging *EpochEnd
	// Leader, v12+ (KIP-951): who leads, and in which epoch, when Code says it is not the one who was asked.
	Leader *Leader
	// Records may be nil: none.
	Records Span
}

// EpochEnd is an epoch and the offset after its last record.
type EpochEnd struct {
	Epoch int32
	End   int64
}

// Leader is a broker and the epoch it leads in.
type Leader struct {
	ID    int32
	Epoch int32
}

// fetchFlexible is the first flexible version of Fetch.
const fetchFlexible = 12

// EncodeFetch frames f as the answer to the request with header h. The response owns the spans.
func EncodeFetch(h Header, f *Fetch) *Response {
	size := 64
	for i := range f.Topics {
		size += 32 + len(f.Topics[i].Name) + 80*len(f.Topics[i].Partitions)
	}
	e := fetchEncoder{Response: begin(h, h.Version >= fetchFlexible, size), version: h.Version}
	e.i32(f.ThrottleMillis)
	if h.Version >= 7 {
		e.i16(f.Code)
		e.i32(f.SessionID)
	}
	e.count(len(f.Topics))
	for i := range f.Topics {
		t := &f.Topics[i]
		if h.Version >= 13 {
			e.head = append(e.head, t.ID[:]...)
		} else {
			e.text(t.Name)
		}
		e.count(len(t.Partitions))
		for j := range t.Partitions {
			e.partition(&t.Partitions[j])
		}
		e.noTags()
	}
	e.noTags()
	return e.finish()
}

type fetchEncoder struct {
	*Response
	version int16
}

func (e *fetchEncoder) flexible() bool { return e.version >= fetchFlexible }

func (e *fetchEncoder) i16(v int16) { e.head = binary.BigEndian.AppendUint16(e.head, uint16(v)) }

func (e *fetchEncoder) i32(v int32) { e.head = binary.BigEndian.AppendUint32(e.head, uint32(v)) }

func (e *fetchEncoder) i64(v int64) { e.head = binary.BigEndian.AppendUint64(e.head, uint64(v)) }

func (e *fetchEncoder) uvarint(v int) { e.head = binary.AppendUvarint(e.head, uint64(v)) }

// count writes the length of an array or of bytes.
func (e *fetchEncoder) count(n int) {
	if e.flexible() {
		e.uvarint(n + 1)
	} else {
		e.i32(int32(n))
	}
}

func (e *fetchEncoder) text(s string) {
	if e.flexible() {
		e.uvarint(len(s) + 1)
	} else {
		e.i16(int16(min(len(s), math.MaxInt16)))
	}
	e.head = append(e.head, s...)
}

func (e *fetchEncoder) noTags() {
	if e.flexible() {
		e.head = append(e.head, 0)
	}
}

func (e *fetchEncoder) partition(p *FetchPartition) {
	e.i32(p.Index)
	e.i16(p.Code)
	e.i64(p.High)
	e.i64(p.Stable)
	if e.version >= 5 {
		e.i64(p.Start)
	}
	if p.NoAborted {
		e.count(-1)
	} else {
		e.count(0)
	}
	if e.version >= 11 {
		e.i32(-1) // preferred read replica
	}
	if p.Records == nil {
		e.count(0)
	} else {
		e.count(p.Records.Len())
		e.span(p.Records)
	}
	if !e.flexible() {
		return
	}
	tags := 0
	if p.Diverging != nil {
		tags++
	}
	if p.Leader != nil {
		tags++
	}
	e.uvarint(tags)
	if d := p.Diverging; d != nil {
		e.uvarint(0) // tag
		e.uvarint(4 + 8 + 1)
		e.i32(d.Epoch)
		e.i64(d.End)
		e.uvarint(0)
	}
	if l := p.Leader; l != nil {
		e.uvarint(1) // tag
		e.uvarint(4 + 4 + 1)
		e.i32(l.ID)
		e.i32(l.Epoch)
		e.uvarint(0)
	}
}
