package powercut

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	"millrace/broker/catalog"
	"millrace/broker/record"
)

// model is what the broker has promised about its partitions, and so what every disk must hold after a cut.
type model struct {
	topics map[catalog.TopicID]*topic
	order  []*topic // as created, so that the same seed makes the same choices
	nextID uint64   // of a record; 0 is none
}

// topic is one topic and how far its life is certain.
type topic struct {
	id       catalog.TopicID
	name     string
	config   catalog.TopicConfig
	parts    []*part
	deleting bool // a deletion was asked for and not confirmed: it may or may not have happened
}

// part is one partition. Every change is made by the world's goroutine but for answers, which hold world.mu.
type part struct {
	topic *topic
	index int32
	// log is what must be there: acknowledged, or served to a reader, by offset.
	log map[int64]uint64
	end int64 // offset after the last of log
	// pending are records that were appended and not answered: each is there or not. twice are those of them that were
	// appended twice and answered never.
	pending, twice map[uint64]bool
	// start is the first readable offset that was confirmed, startMax the highest that was asked for.
	start, startMax int64
	// cutTo is the lowest offset an unconfirmed truncation may have cut the log to.
	cutTo   int64
	writers []*writer
}

func newModel() *model {
	return &model{topics: make(map[catalog.TopicID]*topic), nextID: 1}
}

func (m *model) add(t *topic) {
	m.topics[t.id] = t
	m.order = append(m.order, t)
}

func (m *model) remove(t *topic) {
	delete(m.topics, t.id)
	for i, o := range m.order {
		if o == t {
			m.order = append(m.order[:i:i], m.order[i+1:]...)
			return
		}
	}
}

func (t *topic) part(index int32) *part {
	return &part{topic: t, index: index, log: make(map[int64]uint64), pending: make(map[uint64]bool), twice: make(map[uint64]bool), cutTo: math.MaxInt64}
}

// keysKept is how many keys there are in a partition of a compacted topic.
const keysKept = 7

// key is the key of record id. In a compacted topic each has the last of them for ever; it is the promise there.
func (p *part) key(id uint64) string {
	if p.topic.config.CleanupCompact {
		return fmt.Sprint(p.String(), "/", id%keysKept)
	}
	return p.String()
}

func (p *part) String() string { return fmt.Sprintf("%s-%d", p.topic.name, p.index) }

// promise notes that a record is at an offset for good.
func (p *part) promise(offset int64, id uint64) error {
	if have, ok := p.log[offset]; ok && have != id {
		if offset < p.cutTo {
			return fmt.Errorf("%s: record %d at offset %d, where record %d was promised", p, id, offset, have)
		}
		cut := p.cutTo
		p.truncated(offset) // so the truncation that reported a failure had happened
		p.cutTo = cut
	}
	delete(p.pending, id)
	p.log[offset] = id
	p.end = max(p.end, offset+1)
	return nil
}

// truncated forgets what a confirmed truncation cut.
func (p *part) truncated(end int64) {
	for offset := end; offset < p.end; offset++ {
		delete(p.log, offset)
	}
	p.end = min(p.end, end)
	p.start = min(p.start, end)
	p.startMax = p.start
	p.cutTo = math.MaxInt64
}

// seen is one record as it was read.
type seen struct {
	offset int64
	id     uint64
}

// check compares a whole partition, read after a cut, with what was promised.
func (p *part) check(start, high int64, log []seen) error {
	if start < min(p.start, p.cutTo) || start > max(p.start, p.startMax) {
		return fmt.Errorf("%s starts at %d, confirmed %d, asked for %d", p, start, p.start, p.startMax)
	}
	if high < min(p.end, p.cutTo) {
		return fmt.Errorf("%s ends at %d: LOST %d to %d", p, high, high, min(p.end, p.cutTo)-1)
	}
	next, last := start, uint64(0)
	compacted := p.topic.config.CleanupCompact
	for _, s := range log {
		if s.offset != next && (!compacted || s.offset < next) {
			return fmt.Errorf("%s: offset %d follows %d", p, s.offset, next-1)
		}
		next = s.offset + 1
		want, promised := p.log[s.offset]
		switch {
		case promised && want != s.id && s.offset < p.cutTo:
			return fmt.Errorf("%s: record %d at offset %d, where record %d was promised", p, s.id, s.offset, want)
		case promised && want != s.id || !promised && !p.pending[s.id]:
			return fmt.Errorf("%s: record %d at offset %d is unknown there: refused, truncated or never appended", p, s.id, s.offset)
		case s.id <= last:
			return fmt.Errorf("%s: record %d at offset %d follows record %d", p, s.id, s.offset, last)
		}
		last = s.id
	}
	if compacted {
		return p.checkKeys(start, log)
	}
	if next != high {
		return fmt.Errorf("%s: the high watermark is %d, records end at %d", p, high, next)
	}
	return nil
}

// checkKeys says whether every promised record is there, or a later one of its key.
func (p *part) checkKeys(start int64, log []seen) error {
	there, last := make(map[int64]bool), make(map[string]int64)
	for _, s := range log {
		there[s.offset], last[p.key(s.id)] = true, s.offset
	}
	for offset, id := range p.log {
		if at, ok := last[p.key(id)]; offset >= start && !there[offset] && (!ok || at < offset) {
			return fmt.Errorf("%s: LOST record %d at offset %d, the last of its key", p, id, offset)
		}
	}
	return nil
}

// settle takes what was found after a cut, and served, as promised from now on.
func (p *part) settle(start, high int64, log []seen) {
	clear(p.log)
	clear(p.pending)
	clear(p.twice)
	p.start, p.startMax, p.end, p.cutTo = start, start, high, math.MaxInt64
	for _, s := range log {
		p.log[s.offset] = s.id
	}
	for _, r := range p.writers {
		r.settle(log, start > 0 || p.topic.config.CleanupCompact)
	}
}

// valueHead is the id and the length in front of every value.
const valueHead = 12

// value is the value of record id, of size bytes: nothing else can pass for it.
func value(id uint64, size int) []byte {
	v := make([]byte, max(size, valueHead))
	binary.BigEndian.PutUint64(v, id)
	binary.BigEndian.PutUint32(v[8:], uint32(len(v)))
	src := rand.NewPCG(id, uint64(len(v)))
	for i := valueHead; i < len(v); i += 8 {
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], src.Uint64())
		copy(v[i:], word[:])
	}
	return v
}

// identify finds which record r is, and checks every byte of it.
func identify(p *part, r record.Record) (uint64, error) {
	if len(r.Value) < valueHead || int(binary.BigEndian.Uint32(r.Value[8:])) != len(r.Value) {
		return 0, fmt.Errorf("%s: offset %d holds %d bytes nobody wrote", p, r.Offset, len(r.Value))
	}
	id := binary.BigEndian.Uint64(r.Value)
	if string(value(id, len(r.Value))) != string(r.Value) || string(r.Key) != p.key(id) {
		return 0, fmt.Errorf("%s: record %d at offset %d is not what was written", p, id, r.Offset)
	}
	return id, nil
}
