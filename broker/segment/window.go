package segment

import (
	"errors"
	"io"
	"sync"

	"millrace/broker/disk"
	"millrace/broker/record"
)

// windowSize is how much of a log is read at a time. Batches larger than it are checked in pieces.
const windowSize = 64 << 10

// headerRead is how much is read where only headers are wanted: about one index interval.
const headerRead = 4 << 10

// window is a view of a file through one pooled buffer.
type window struct {
	file disk.File
	from int64 // file position of buf[0]
	n    int   // bytes of buf that are filled
	buf  [windowSize]byte
}

var windows = sync.Pool{New: func() any { return new(window) }}

func openWindow(f disk.File) *window {
	w := windows.Get().(*window)
	w.file, w.from, w.n = f, 0, 0
	return w
}

func (w *window) close() {
	w.file = nil
	windows.Put(w)
}

// peek is the n bytes at pos, n <= windowSize, valid until the next peek. When they are not at hand it reads ahead,
// hint bytes or n, but not past end. It returns io.ErrUnexpectedEOF when the file is shorter.
func (w *window) peek(pos int64, n, hint int, end int64) ([]byte, error) {
	if pos >= w.from && pos+int64(n) <= w.from+int64(w.n) {
		at := int(pos - w.from)
		return w.buf[at : at+n], nil
	}
	want := int64(min(max(n, hint), windowSize))
	want = max(min(want, end-pos), int64(n))
	w.from, w.n = pos, 0
	m, err := w.file.ReadAt(w.buf[:want], pos)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	w.n = m
	if m < n {
		return nil, io.ErrUnexpectedEOF
	}
	return w.buf[:n], nil
}

// checksum is the CRC32C of [pos, end).
func (w *window) checksum(pos, end, limit int64) (uint32, error) {
	var crc uint32
	for pos < end {
		n := int(min(end-pos, windowSize))
		p, err := w.peek(pos, n, windowSize, limit)
		if err != nil {
			return 0, err
		}
		crc = record.Update(crc, p)
		pos += int64(n)
	}
	return crc, nil
}
