package cleaner

import (
	"crypto/md5"
	"crypto/rand"
	"encoding/binary"
	"hash/maphash"
)

// offsetMap knows the last offset of each key of a part of a log, in memory of a fixed size: open addressing over 128-bit
// hashes of the keys, at most three quarters full. Both halves of the hash are seeded with what nobody outside knows: whoever
// chooses keys cannot make two of them pass for one. The first half is quick, and enough to miss by; most keys of a log with
// many are asked for in vain. The second is 64 bits of MD5.
type offsetMap struct {
	quick  maphash.Seed
	seed   [16]byte
	text   []byte // seed and key
	hashes [][2]uint64
	last   []uint32 // offset less base, plus 1; 0 where the place is free
	base   int64
	used   int
}

// slotBytes is what a place takes.
const slotBytes = 16 + 4

// newOffsetMap makes one of at most n bytes, and of at least 8 places.
func newOffsetMap(n int) *offsetMap {
	places := 8
	for places*2*slotBytes <= n {
		places *= 2
	}
	m := &offsetMap{quick: maphash.MakeSeed(), hashes: make([][2]uint64, places), last: make([]uint32, places)}
	_, _ = rand.Read(m.seed[:]) // it never fails
	return m
}

// bytes is the memory it takes.
func (m *offsetMap) bytes() int { return len(m.last) * slotBytes }

// reset forgets everything. Offsets from base on may be put.
func (m *offsetMap) reset(base int64) {
	clear(m.last)
	m.base, m.used = base, 0
}

// find is the place of a key, or the free one where it belongs.
func (m *offsetMap) find(key []byte) (place int, hash [2]uint64) {
	hash[0] = maphash.Bytes(m.quick, key)
	mask := len(m.last) - 1
	for place, known := int(hash[0])&mask, false; ; place = (place + 1) & mask {
		if m.last[place] == 0 {
			return place, hash
		}
		if m.hashes[place][0] != hash[0] {
			continue
		}
		if !known {
			hash[1], known = m.slow(key), true
		}
		if m.hashes[place] == hash {
			return place, hash
		}
	}
}

// slow is the second half of a key's hash.
func (m *offsetMap) slow(key []byte) uint64 {
	m.text = append(append(m.text[:0], m.seed[:]...), key...)
	sum := md5.Sum(m.text)
	return binary.LittleEndian.Uint64(sum[:])
}

// put notes that key was written at offset, higher than all before. It is false, and nothing is noted, when there is no
// room for another key, or the offset is too far from the base.
func (m *offsetMap) put(key []byte, offset int64) bool {
	if offset-m.base >= 1<<32-1 {
		return false
	}
	place, hash := m.find(key)
	if m.last[place] == 0 {
		if m.used >= len(m.last)/4*3 {
			return false
		}
		m.used++
		m.hashes[place] = [2]uint64{hash[0], m.slow(key)}
	}
	m.last[place] = uint32(offset-m.base) + 1
	return true
}

// later says whether key is known to have been written after offset.
func (m *offsetMap) later(key []byte, offset int64) bool {
	place, _ := m.find(key)
	return m.last[place] != 0 && m.base+int64(m.last[place]-1) > offset
}

// bits are marks of records, by their number.
type bits []uint64

func (b bits) len() int       { return len(b) * 64 }
func (b bits) get(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }
func (b bits) set(i int)      { b[i/64] |= 1 << (i % 64) }
