package wire

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// piecesMax bounds the partitions of a request that is read in pieces: what is answered for each is kept until the last.
const piecesMax = 4096

// topicNameMax bounds a topic's name, in bytes (Kafka's Topic.MAX_NAME_LENGTH).
const topicNameMax = 249

// transactionalIDMax bounds a transactional id, in bytes.
const transactionalIDMax = 1024

// Pieces reads a Produce request that is too large to be held: partition by partition, each as a request of its own.
// It is not safe for concurrent use.
type Pieces struct {
	// Header is that of all of it.
	Header Header

	next     func(n int) ([]byte, error)
	left     int // bytes of the frame
	flexible bool
	err      error
	all      kmsg.ProduceRequest // without topics

	topics, partitions int // still to come: after this topic, and of it
	count              int
	topic              kmsg.ProduceRequestTopic
	index              int32
	inPiece            bool
}

// ReadPieces begins to read a frame of size bytes. next returns the next n bytes of it, which stay valid until it is
// called again; n is never more than a few KiB.
func ReadPieces(size int, next func(n int) ([]byte, error)) (*Pieces, error) {
	p := &Pieces{next: next, left: size}
	begin := p.take(8)
	if p.err != nil {
		return nil, p.err
	}
	p.Header = Header{
		Key:         int16(binary.BigEndian.Uint16(begin)),
		Version:     int16(binary.BigEndian.Uint16(begin[2:])),
		Correlation: int32(binary.BigEndian.Uint32(begin[4:])),
	}
	api, ok := Lookup(p.Header.Key)
	if !ok || p.Header.Key != keyProduce || !api.Serves(p.Header.Version) {
		return nil, fmt.Errorf("api key %d v%d in pieces: %w", p.Header.Key, p.Header.Version, ErrUnsupportedVersion)
	}
	if n := p.int16(); n > 0 { // the client id is no compact string in any version
		p.Header.ClientID = string(p.bounded(int(n), ClientIDMax))
	}
	p.flexible = p.Header.Version >= api.flexible
	p.tags()
	p.all.Version = p.Header.Version
	if n := p.length(2); n >= 0 {
		id := string(p.bounded(n, transactionalIDMax))
		p.all.TransactionID = &id
	}
	p.all.Acks = p.int16()
	p.all.TimeoutMillis = p.int32()
	p.topics = p.counted()
	return p, p.err
}

// keyProduce is the key of Produce.
const keyProduce = 0

// Next is the size of the next partition's records, in bytes, which the caller reads itself before it calls Piece. It is
// -1 after the last one, when all of the frame has been read.
func (p *Pieces) Next() (int, error) {
	if p.inPiece {
		p.tags() // of the partition
		p.inPiece = false
		p.endTopics()
	}
	for p.err == nil && p.partitions == 0 && p.topics > 0 {
		p.topics--
		p.topic = kmsg.ProduceRequestTopic{}
		if p.Header.Version >= 13 {
			copy(p.topic.TopicID[:], p.take(16))
		} else {
			p.topic.Topic = string(p.bounded(max(p.length(2), 0), topicNameMax))
		}
		if p.partitions = p.counted(); p.partitions == 0 {
			p.tags()
		}
	}
	if p.err == nil && p.partitions == 0 {
		p.tags() // of the request
		for p.left > 0 && p.err == nil {
			p.take(min(p.left, 1024)) // bytes after the message are let be, as Apache Kafka does
		}
		return -1, p.err
	}
	p.partitions--
	if p.count++; p.count > piecesMax {
		p.fail(fmt.Errorf("more than %d partitions: %w", piecesMax, ErrFrameTooLarge))
	}
	p.index = p.int32()
	n := max(p.length(4), 0)
	if n > p.left {
		p.fail(ErrMalformed)
	}
	if p.err != nil {
		return 0, p.err
	}
	p.left -= n
	p.inPiece = true
	return n, nil
}

// endTopics steps over the tags of topics whose last partition was read.
func (p *Pieces) endTopics() {
	if p.partitions == 0 {
		p.tags()
	}
}

// Piece is the request for the partition Next told of.
func (p *Pieces) Piece(records []byte) *kmsg.ProduceRequest {
	req := p.all
	topic := p.topic
	topic.Partitions = []kmsg.ProduceRequestTopicPartition{{Partition: p.index, Records: records}}
	req.Topics = []kmsg.ProduceRequestTopic{topic}
	return &req
}

// fail keeps the first error.
func (p *Pieces) fail(err error) {
	if p.err == nil {
		p.err = fmt.Errorf("request v%d in pieces: %w", p.Header.Version, err)
	}
}

func (p *Pieces) take(n int) []byte {
	if n > p.left {
		p.fail(ErrMalformed)
	}
	if p.err != nil {
		return make([]byte, min(n, 16)) // zeros for whoever reads a number
	}
	b, err := p.next(n)
	if err != nil {
		p.err = err
		return make([]byte, min(n, 16))
	}
	p.left -= n
	return b
}

func (p *Pieces) int16() int16 { return int16(binary.BigEndian.Uint16(p.take(2))) }
func (p *Pieces) int32() int32 { return int32(binary.BigEndian.Uint32(p.take(4))) }

func (p *Pieces) bounded(n, most int) []byte {
	if n < 0 || n > most {
		p.fail(fmt.Errorf("%d bytes of text: %w", n, ErrMalformed))
		return nil
	}
	if n == 0 {
		return nil
	}
	return p.take(n)
}

func (p *Pieces) uvarint() int {
	v := uint64(0)
	for shift := 0; shift < 35; shift += 7 {
		b := p.take(1)[0]
		if v |= uint64(b&0x7f) << shift; b < 0x80 {
			if v > math.MaxInt32 {
				break
			}
			return int(v)
		}
	}
	p.fail(ErrMalformed)
	return 0
}

// length is a length of width bytes, or a compact one; -1 is null.
func (p *Pieces) length(width int) int {
	n := 0
	switch {
	case p.flexible:
		return p.uvarint() - 1
	case width == 2:
		n = int(p.int16())
	default:
		n = int(p.int32())
	}
	if n < -1 {
		p.fail(ErrMalformed)
		return 0
	}
	return n
}

// counted is the number of elements of an array, each of which takes a byte at least.
func (p *Pieces) counted() int {
	n := max(p.length(4), 0)
	if n > p.left {
		p.fail(ErrMalformed)
		return 0
	}
	return n
}

// tags steps over tagged fields, of which Produce has none of its own.
func (p *Pieces) tags() {
	if !p.flexible {
		return
	}
	n := p.uvarint()
	if n > tagMax {
		p.fail(ErrMalformed)
	}
	for ; n > 0 && p.err == nil; n-- {
		p.uvarint()
		p.bounded(p.uvarint(), 1024)
	}
}

// Merge is the answer to all of it, of the answers to its pieces in their order. They are released.
func (p *Pieces) Merge(answers []*Response) (*Response, error) {
	all := kmsg.NewPtrProduceResponse()
	all.Version = p.Header.Version
	var failed error
	closing := false
	for _, a := range answers {
		closing = closing || a.Close
		if !a.Close && failed == nil {
			failed = p.merge(all, a)
		}
		a.Release()
	}
	switch {
	case failed != nil:
		return nil, failed
	case closing:
		return &Response{Close: true}, nil
	}
	return Encode(p.Header, all), nil
}

func (p *Pieces) merge(all *kmsg.ProduceResponse, a *Response) error {
	raw, err := a.Append(nil)
	if err != nil {
		return err
	}
	part := kmsg.NewPtrProduceResponse()
	part.Version = p.Header.Version
	head := PrefixSize + 4
	if p.flexible {
		head++ // the empty tags
	}
	if err := part.ReadFrom(raw[head:]); err != nil {
		return err
	}
	for _, t := range part.Topics {
		if n := len(all.Topics); n > 0 && all.Topics[n-1].Topic == t.Topic && all.Topics[n-1].TopicID == t.TopicID {
			all.Topics[n-1].Partitions = append(all.Topics[n-1].Partitions, t.Partitions...)
		} else {
			all.Topics = append(all.Topics, t)
		}
	}
	for _, b := range part.Brokers {
		known := false
		for _, o := range all.Brokers {
			known = known || o.NodeID == b.NodeID
		}
		if !known {
			all.Brokers = append(all.Brokers, b)
		}
	}
	return nil
}
