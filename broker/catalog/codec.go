package catalog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"slices"
)

// Limits of the encoding, checked before anything is allocated.
const (
	// MaxCommandSize is the size of one encoded command in bytes.
	MaxCommandSize = 1 << 20
	// MaxSnapshotSize is the size of one encoded image in bytes.
	MaxSnapshotSize = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal appends the CRC32C of all of b, big endian.
func seal(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// unseal checks and cuts what seal appended.
func unseal(b []byte) ([]byte, error) {
	if len(b) < 4 {
		return nil, fmt.Errorf("%w: %d bytes", ErrCorrupt, len(b))
	}
	body := b[:len(b)-4]
	if sum := crc32.Checksum(body, castagnoli); sum != binary.BigEndian.Uint32(b[len(body):]) {
		return nil, fmt.Errorf("%w: CRC mismatch", ErrCorrupt)
	}
	return body, nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendConfig writes the settings sorted by name, so that equal configurations have equal bytes.
func appendConfig(b []byte, c map[string]string) []byte {
	b = binary.AppendUvarint(b, uint64(len(c)))
	for _, name := range slices.Sorted(maps.Keys(c)) {
		b = appendString(appendString(b, name), c[name])
	}
	return b
}

func appendIDs(b []byte, ids []int32) []byte {
	b = binary.AppendUvarint(b, uint64(len(ids)))
	for _, id := range ids {
		b = binary.AppendVarint(b, int64(id))
	}
	return b
}

func appendStates(b []byte, states []PartitionState) []byte {
	b = binary.AppendUvarint(b, uint64(len(states)))
	for _, s := range states {
		b = binary.AppendVarint(b, int64(s.Leader))
		b = binary.AppendUvarint(b, uint64(s.LeaderEpoch))
		b = binary.AppendUvarint(b, uint64(s.Epoch))
		b = appendIDs(appendIDs(b, s.Replicas), s.ISR)
	}
	return b
}

func appendOps(b []byte, ops []ConfigOp) []byte {
	b = binary.AppendUvarint(b, uint64(len(ops)))
	for _, op := range ops {
		b = appendString(append(appendString(b, op.Name), byte(op.Op)), op.Value)
	}
	return b
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// decoder reads what the append functions wrote. The first error sticks: everything after it reads as zero, and finish
// reports it. One encoding per value is accepted (shortest varints, sorted names), so decode and encode are inverse.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s, %d bytes before the end", ErrCorrupt, what, len(d.b))
	}
	d.b = nil
}

// finish is the decoder's error; bytes that nobody read are one.
func (d *decoder) finish() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("bytes left over")
	}
	return d.err
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.fail("it ends early")
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 { // a last byte of zero: it could have been shorter
		d.fail("bad varint")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	u := d.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func (d *decoder) int32() int32 {
	v := d.varint()
	if v < math.MinInt32 || v > math.MaxInt32 {
		d.fail("number above 32 bits")
		return 0
	}
	return int32(v)
}

func (d *decoder) uint31() int32 {
	v := d.uvarint()
	if v > math.MaxInt32 {
		d.fail("number above 31 bits")
		return 0
	}
	return int32(v)
}

// count reads a number of things of at least size bytes each; more than the bytes left can hold is refused.
func (d *decoder) count(size int) int {
	v := d.uvarint()
	if v > uint64(len(d.b)/size) {
		d.fail("count above the bytes left")
		return 0
	}
	return int(v)
}

func (d *decoder) string() string { return string(d.take(d.count(1))) }

func (d *decoder) byte() byte {
	if p := d.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (d *decoder) bool() bool {
	switch d.byte() {
	case 0:
		return false
	case 1:
		return true
	}
	d.fail("bad boolean")
	return false
}

func (d *decoder) id() (id [16]byte) {
	copy(id[:], d.take(len(id)))
	return id
}

func (d *decoder) config() map[string]string {
	n := d.count(2)
	if n == 0 {
		return nil
	}
	c := make(map[string]string, n)
	last := ""
	for i := range n {
		name := d.string()
		if i > 0 && name <= last {
			d.fail("settings out of order")
			return nil
		}
		c[name], last = d.string(), name
	}
	return c
}

func (d *decoder) ids() []int32 {
	n := d.count(1)
	if n == 0 {
		return nil
	}
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = d.int32()
	}
	return ids
}

func (d *decoder) states() []PartitionState {
	n := d.count(5)
	if n == 0 {
		return nil
	}
	states := make([]PartitionState, n)
	for i := range states {
		states[i] = PartitionState{Leader: d.int32(), LeaderEpoch: d.uint31(), Epoch: d.uint31(), Replicas: d.ids(), ISR: d.ids()}
	}
	return states
}

func (d *decoder) ops() []ConfigOp {
	n := d.count(3)
	if n == 0 {
		return nil
	}
	ops := make([]ConfigOp, n)
	for i := range ops {
		ops[i] = ConfigOp{Name: d.string(), Op: Op(d.byte()), Value: d.string()}
		if ops[i].Op > OpSubtract {
			d.fail("unknown operation")
		}
	}
	return ops
}
