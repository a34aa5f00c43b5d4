package record

import (
	"encoding/binary"
	"fmt"
)

// noKey stands for a key that is there and was not kept.
var noKey = []byte{}

// skim is parse for a record of a compressed batch, of size bytes, that is walked and not kept.
func (w *walker) skim(size int64) (Record, error) {
	s := skimmer{w: w, left: size}
	s.skip(1) // attributes: none are defined
	tsDelta, offsetDelta := s.number(binary.MaxVarintLen64), s.number(binary.MaxVarintLen32)
	r := Record{Offset: w.base + offsetDelta, Timestamp: w.baseTS + tsDelta, Large: size > MaxRecord}
	if w.logAppend {
		r.Timestamp = w.appendTS
	}
	if s.bytes() {
		r.Key = noKey
	}
	s.bytes()
	headers := s.number(binary.MaxVarintLen32)
	if headers < 0 || headers*2 > s.left {
		s.fail()
	}
	for ; headers > 0 && s.err == nil; headers-- {
		if !s.bytes() {
			s.fail()
		}
		s.bytes()
	}
	if s.left != 0 {
		s.fail()
	}
	if s.err != nil {
		return Record{}, s.err
	}
	return r, w.follow(offsetDelta)
}

// skimmer steps through a record of which left bytes are to come. After the first error all reads are zero.
type skimmer struct {
	w    *walker
	left int64
	err  error
}

func (s *skimmer) fail() {
	if s.err == nil {
		s.err = fmt.Errorf("%w: record of %d bytes", ErrCorrupt, s.w.size)
	}
}

// number is a zigzag number of at most size bytes.
func (s *skimmer) number(size int) int64 {
	if s.err != nil {
		return 0
	}
	p, err := s.w.fill(size)
	if err != nil {
		s.err = err
		return 0
	}
	d := decoder{p: p[:min(int64(len(p)), int64(size), s.left)]}
	before, v := len(d.p), int64(0)
	if size == binary.MaxVarintLen64 {
		v = d.varlong()
	} else {
		v = d.varint()
	}
	if d.bad {
		s.fail()
		return 0
	}
	s.w.consume(before - len(d.p))
	s.left -= int64(before - len(d.p))
	return v
}

// bytes steps over a length and as many bytes; false for the length -1.
func (s *skimmer) bytes() bool {
	n := s.number(binary.MaxVarintLen32)
	if n < -1 {
		s.fail()
	}
	s.skip(max(n, 0))
	return n >= 0
}

func (s *skimmer) skip(n int64) {
	if s.err == nil && n > s.left {
		s.fail()
	}
	for s.left -= n; n > 0 && s.err == nil; {
		p, err := s.w.fill(1)
		if err != nil {
			s.err = err
			return
		}
		m := min(int64(len(p)), n)
		if m == 0 {
			s.fail() // the records end inside it
		}
		s.w.consume(int(m))
		n -= m
	}
}
