package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Front is memory beside the disk that keeps its bytes without power and without wear: FRAM. Small commits are
// acknowledged from it. The journal calls it from one goroutine at a time.
type Front interface {
	io.ReaderAt
	// WriteAt writes in the order of the bytes. They are durable when it returns nil; after an error or a power cut any
	// number of them from the first on are, and the next may be anything. Bytes outside are never touched.
	io.WriterAt
	// Size is how many bytes there are.
	Size() int64
}

// What the front holds, little endian: two headers, written in turn, then frames as the wal gets them, from the first byte
// on. A drain moves all of them to the wal, and the next frame then begins at the first byte again.
//
//	 0  4  magic
//	 4  4  CRC32C of what follows, in every version
//	 8  4  version
//	12  8  journal id
//	20  8  drained: every frame up to it is in the wal, and none of those here counts
//	28  8  sequence: the valid header with the higher one counts
const (
	frontMagic      = 0x5246524d // "MRFR"
	frontVersion    = 1
	frontHeaderSize = 36
	frontHeaderStep = 64
	frontFrames     = 2 * frontHeaderStep
	frontMin        = 1 << 10
	frontMax        = 1 << 20 // bytes used at most: so many are kept in memory too
)

var errFrontBlank = errors.New("it has no header of a journal")

// frontHeader is one of the two.
type frontHeader struct {
	id, drained, sequence uint64
}

func (h frontHeader) encode() []byte {
	p := make([]byte, frontHeaderSize)
	le := binary.LittleEndian
	le.PutUint32(p, frontMagic)
	le.PutUint32(p[8:], frontVersion)
	le.PutUint64(p[12:], h.id)
	le.PutUint64(p[20:], h.drained)
	le.PutUint64(p[28:], h.sequence)
	le.PutUint32(p[4:], checksum(p[8:]))
	return p
}

// decodeFrontHeader reads a header; ok is false for what is none, the error is that of a newer layout.
func decodeFrontHeader(p []byte) (h frontHeader, ok bool, err error) {
	le := binary.LittleEndian
	if len(p) < frontHeaderSize || le.Uint32(p) != frontMagic || le.Uint32(p[4:]) != checksum(p[8:frontHeaderSize]) {
		return h, false, nil
	}
	if v := le.Uint32(p[8:]); v > frontVersion {
		return h, false, fmt.Errorf("its layout is version %d, this build knows %d", v, frontVersion)
	}
	h = frontHeader{le.Uint64(p[12:]), le.Uint64(p[20:]), le.Uint64(p[28:])}
	return h, h.id != 0 && h.drained < maxIndex, nil
}

// frontFrame is one frame that the last life has left in the front and nowhere else.
type frontFrame struct {
	index uint64
	bytes []byte
}

// front is the journal's side of a Front. The committer owns it once the journal is started.
type front struct {
	mem    Front // nil: there is none, or it failed
	id     uint64
	size   int64         // bytes there are for frames
	after  time.Duration // what is held goes to the wal no later than this
	newest int           // of the two headers, which one counts
	header frontHeader   // it, as far as known

	blank   bool         // neither header is this journal's
	marked  bool         // a file says that the next start must have the front
	pending []frontFrame // found by open, those after the wal's last in the end; nil once the journal is started
	behind  bool         // the wal lacks frames that it was drained to

	// held are the frames in the front and not in the wal, without a gap; they are kept here too, because a front that
	// fails may not give them back.
	//
	// Invariant: they are the frames tail.index+1 to tail.index+len(ends), and len(held) <= used <= size.
	held []byte
	ends []int // of each frame in held
	used int64 // bytes of the front's frames: the next one goes there

	timer <-chan time.Time // runs while something is held
	want  bool             // a drain is due
	tried bool             // the last drain, of a journal that is closing, was tried
}

// open reads the front: its headers, and the frames that may not be in the wal, whose next frame is next. blank takes
// whatever is there for nothing.
func (f *front) open(mem Front, id, next uint64, blank bool) error {
	f.mem, f.id, f.size = mem, id, min(mem.Size(), frontMax)-frontFrames
	if mem.Size() < frontMin {
		return fmt.Errorf("a front of %d bytes: %w", mem.Size(), ErrInvalid)
	}
	p := make([]byte, frontFrames+f.size)
	if _, err := mem.ReadAt(p, 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read: %w", err)
	}
	found := false
	for i := range 2 {
		h, ok, err := decodeFrontHeader(p[i*frontHeaderStep:][:frontHeaderSize])
		if err != nil && !blank {
			return err
		}
		if ok && (!found || h.sequence > f.header.sequence) {
			f.header, f.newest, found = h, i, true
		}
	}
	f.blank = blank || !found || f.header.id != id
	switch {
	case blank:
		return nil
	case !found:
		return errFrontBlank
	case f.header.id != id:
		return fmt.Errorf("it belongs to journal %016x, this is %016x: %w", f.header.id, id, ErrForeign)
	}
	f.behind = f.header.drained >= next
	f.find(p[frontFrames:], f.header.drained)
	return nil
}

// split parts what was found from the frames below next, which the wal has, or lacks among its own.
func (f *front) split(next uint64) (below []frontFrame) {
	n := 0
	for n < len(f.pending) && f.pending[n].index < next {
		n++
	}
	below, f.pending = f.pending[:n:n], f.pending[n:]
	return below
}

// find lists the frames above floor. A frame that is not whole with nothing behind it was never acknowledged; one with a
// frame behind it is damage, and leaves a gap. What an earlier filling has left lies at or below floor.
func (f *front) find(p []byte, floor uint64) {
	var id [8]byte
	binary.LittleEndian.PutUint64(id[:], f.id)
	const idAt = 16
	var dec decoder
	budget := 16*len(p) + MaxFrame // CRC bytes that may be spent on candidates
	for pos := 0; pos+headerSize <= len(p) && budget > 0; {
		at := bytes.Index(p[pos+idAt:], id[:])
		if at < 0 || pos+at+headerSize > len(p) {
			return
		}
		pos += at
		h := parseHeader(p[pos:])
		if !h.sane() || h.index <= floor || int64(h.length) > int64(len(p)-pos) {
			pos++
			continue
		}
		budget -= int(h.length)
		frame := p[pos : pos+int(h.length)]
		if !dec.check(frame) {
			pos++
			continue
		}
		f.pending = append(f.pending, frontFrame{h.index, frame})
		floor = h.index
		pos += len(frame)
	}
}

// foreign tells whether the front has frames of a journal that nothing else knows.
func (f *front) foreign() bool {
	other := front{mem: f.mem, id: f.header.id, size: f.size}
	p := make([]byte, f.size)
	if _, err := f.mem.ReadAt(p, frontFrames); err != nil && !errors.Is(err, io.EOF) {
		return true
	}
	other.find(p, f.header.drained)
	return len(other.pending) > 0
}

// extend adds the pending frames to what a pass over the wal reported.
func (f *front) extend(r *Report, next, after uint64) {
	if f.behind {
		r.gap(next, f.header.drained+1, after)
		next = max(next, f.header.drained+1)
	}
	for _, p := range f.pending {
		r.gap(next, p.index, after)
		next = p.index + 1
		r.count(p.bytes)
		r.Fronted++
	}
}

// replay passes the pending frames to fn.
func (f *front) replay(fn func(Frame) error) error {
	var dec decoder
	for i, p := range f.pending {
		if !dec.check(p.bytes) {
			return fmt.Errorf("frame %d: %w", p.index, errEntry) // it was checked when it was found
		}
		if err := fn(Frame{Index: p.index, Entries: dec.entries, Last: i == len(f.pending)-1}); err != nil {
			return err
		}
	}
	return nil
}

// begin makes the front empty and this journal's, once everything up to index is in the wal.
func (f *front) begin(index uint64) error {
	f.pending, f.used = nil, 0
	if f.blank { // both, so that nothing of another journal is left to be found
		if err := f.writeHeader(index); err != nil {
			return err
		}
		f.blank = false
	}
	return f.writeHeader(index)
}

func (f *front) writeHeader(drained uint64) error {
	h := frontHeader{id: f.id, drained: drained, sequence: f.header.sequence + 1}
	if _, err := f.mem.WriteAt(h.encode(), int64((1-f.newest)*frontHeaderStep)); err != nil {
		return err
	}
	f.header, f.newest = h, 1-f.newest
	return nil
}

// fits tells whether a frame of so many bytes can be acknowledged from the front.
func (f *front) fits(n int) bool { return f.mem != nil && f.used+int64(n) <= f.size }

// put makes a frame durable in the front. After an error it may be there or not.
func (f *front) put(frame []byte) error {
	if _, err := f.mem.WriteAt(frame, frontFrames+f.used); err != nil {
		return err
	}
	f.used += int64(len(frame))
	f.held = append(f.held, frame...)
	f.ends = append(f.ends, len(f.held))
	return nil
}

// frames appends the held frames to dst.
func (f *front) frames(dst [][]byte) [][]byte {
	from := 0
	for _, end := range f.ends {
		dst = append(dst, f.held[from:end:end])
		from = end
	}
	return dst
}

// trim lets go of the first n held frames, which are in the wal now.
func (f *front) trim(n int) {
	if n == 0 {
		return
	}
	cut := f.ends[n-1]
	f.held = f.held[:copy(f.held, f.held[cut:])]
	f.ends = f.ends[:copy(f.ends, f.ends[n:])]
	for i := range f.ends {
		f.ends[i] -= cut
	}
	if len(f.ends) == 0 {
		f.timer, f.want = nil, false
	}
}
