package journal

import (
	"errors"
	"fmt"
	"io"

	"millrace/broker/disk"
)

const (
	windowSize = 256 << 10
	blockSize  = 4096
	maxDead    = 64 // unreadable blocks in one pass before the device itself is called broken
)

// window reads a file through one buffer of bounded size, with preads of its own: wal.Read is unsafe beside writes,
// loads whole segments, and panics on damage.
type window struct {
	file disk.File
	size int64
	off  int64 // of buf[0] in the file
	buf  []byte
	dead int // unreadable blocks met
}

// reset points the window at another file and keeps the buffer.
func (w *window) reset(file disk.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	w.file, w.size, w.off, w.buf = file, info.Size(), 0, w.buf[:0]
	return nil
}

// at returns n bytes from off, fewer only at the end of the file. They are valid until the next call.
func (w *window) at(off int64, n int) ([]byte, error) {
	n = int(min(int64(n), max(w.size-off, 0)))
	if n == 0 {
		return nil, nil
	}
	if off >= w.off && off+int64(n) <= w.off+int64(len(w.buf)) {
		i := int(off - w.off)
		return w.buf[i : i+n], nil
	}
	want := int(min(int64(max(n, windowSize)), w.size-off))
	if cap(w.buf) < want {
		w.buf = make([]byte, want)
	}
	w.buf, w.off = w.buf[:want], off
	got, err := w.file.ReadAt(w.buf, off)
	if errors.Is(err, io.EOF) { // cut under us: what is gone is not there
		w.size, err = off+int64(got), nil
	}
	w.buf = w.buf[:got]
	if err != nil {
		if err := w.salvage(err); err != nil {
			w.buf = w.buf[:0]
			return nil, err
		}
	}
	return w.buf[:min(n, len(w.buf))], nil
}

// rest returns what the buffer has from off on, at least n bytes unless the file ends, and fills it again when it has
// fewer. It is valid until the next call.
func (w *window) rest(off int64, n int) ([]byte, error) {
	if have := w.off + int64(len(w.buf)) - off; off >= w.off && have >= int64(n) {
		return w.buf[off-w.off:], nil
	}
	return w.at(off, windowSize)
}

// salvage fills the window block by block after a failed read, so that one dead sector costs the frames in it and no
// more. A device that fails everywhere is an error, not damage.
func (w *window) salvage(cause error) error {
	w.buf = w.buf[:int(min(int64(cap(w.buf)), w.size-w.off))]
	for i := 0; i < len(w.buf); i += blockSize {
		block := w.buf[i:min(i+blockSize, len(w.buf))]
		if _, err := w.file.ReadAt(block, w.off+int64(i)); err != nil {
			if w.dead++; w.dead > maxDead {
				return fmt.Errorf("read %s at %d: %w", w.file.Name(), w.off+int64(i), errors.Join(cause, err))
			}
			for k := range block {
				block[k] = 0xdb // not zero: it counts as damage, and no frame looks like it
			}
		}
	}
	return nil
}
