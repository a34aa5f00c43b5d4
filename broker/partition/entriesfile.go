package partition

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"millrace/broker/disk"
	"millrace/broker/journal"
	"millrace/broker/record"
)

// A file of entries keeps what the journal says of one partition, or of topics that nobody knows, when the journal must
// let it go. Its layout is in README.md beside this file; all numbers are big-endian.
const (
	entriesMagic      = "MREN"
	entriesVersion    = 1
	entriesHeaderSize = 4 + 4 + 4 + 8 + 8 + 1 + slotEntrySize // magic, version, crc, journal id, index, flags, slot entry
	entryHeadSize     = 4 + 4                                 // length, crc
	entryFixedSize    = 8 + 1 + 16 + 4 + 3*8 + 4 + 4          // frame, kind, topic, partition, places, length, crc
	entryMax          = journal.MaxFrame                      // bytes of an entry: it came out of a frame
	entriesBuffer     = 64 << 10
)

const (
	flagSlot     = 1 << iota // the slot entry is one
	flagComplete             // a slot was valid: the journal had everything after it
	flagGaps                 // the journal had gaps
)

// ErrEntries is returned by ReadEntries for a file that does not begin like one.
var ErrEntries = errors.New("file of journal entries is damaged")

// entriesHead says what the entries of a file go with.
type entriesHead struct {
	upto     journal.Mark // what the journal says up to here is in the file
	slot     *SlotEntry   // the checkpoint they come after, nil for none
	complete bool         // log.complete
	gaps     bool         // entries are missing
}

func (h entriesHead) encode() []byte {
	be := binary.BigEndian
	p := append(make([]byte, 0, entriesHeaderSize), entriesMagic...)
	p = be.AppendUint32(p, entriesVersion)
	p = be.AppendUint32(p, 0) // the CRC, of the rest of the header
	p = be.AppendUint64(p, h.upto.ID)
	p = be.AppendUint64(p, h.upto.Index)
	var flags byte
	slot := SlotEntry{}
	if h.slot != nil {
		flags, slot = flagSlot, *h.slot
	}
	if h.complete {
		flags |= flagComplete
	}
	if h.gaps {
		flags |= flagGaps
	}
	p = slot.append(append(p, flags))
	be.PutUint32(p[8:], record.Castagnoli(p[12:]))
	return p
}

func decodeEntriesHead(p []byte) (h entriesHead, err error) {
	be := binary.BigEndian
	switch {
	case len(p) < entriesHeaderSize || string(p[:4]) != entriesMagic:
		return h, fmt.Errorf("no header: %w", ErrEntries)
	case be.Uint32(p[4:]) != entriesVersion:
		return h, fmt.Errorf("version %d, this build knows %d: %w", be.Uint32(p[4:]), entriesVersion, ErrEntries)
	case be.Uint32(p[8:]) != record.Castagnoli(p[12:entriesHeaderSize]):
		return h, fmt.Errorf("crc of the header: %w", ErrEntries)
	}
	h.upto = journal.Mark{ID: be.Uint64(p[12:]), Index: be.Uint64(p[20:])}
	flags := p[28]
	h.complete, h.gaps = flags&flagComplete != 0, flags&flagGaps != 0
	if flags&flagSlot != 0 {
		e := decodeSlotEntry(p[29:])
		h.slot = &e
	}
	return h, nil
}

// entriesWriter writes a file of entries. Nothing is durable before finish.
type entriesWriter struct {
	file disk.File
	buf  []byte
	at   int64
	n    int64 // entries
}

// createEntries begins a file, in place of one with that name.
func createEntries(fs disk.FS, path string, h entriesHead) (*entriesWriter, error) {
	f, err := fs.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, err
	}
	return &entriesWriter{file: f, buf: append(h.encode(), h.encode()...)}, nil
}

// add puts one entry behind the others.
func (w *entriesWriter) add(frame uint64, e *journal.Entry) error {
	be := binary.BigEndian
	from := len(w.buf)
	w.buf = be.AppendUint32(w.buf, uint32(entryFixedSize+len(e.Bytes)))
	w.buf = be.AppendUint32(w.buf, 0)
	w.buf = be.AppendUint64(w.buf, frame)
	w.buf = append(w.buf, byte(e.Kind))
	w.buf = append(w.buf, e.Topic[:]...)
	w.buf = be.AppendUint32(w.buf, uint32(e.Partition))
	for _, v := range [...]int64{e.Segment, e.Position, e.Base} {
		w.buf = be.AppendUint64(w.buf, uint64(v))
	}
	w.buf = be.AppendUint32(w.buf, uint32(e.Length))
	w.buf = be.AppendUint32(w.buf, e.CRC)
	w.buf = append(w.buf, e.Bytes...)
	be.PutUint32(w.buf[from+4:], record.Castagnoli(w.buf[from+entryHeadSize:]))
	w.n++
	if len(w.buf) < entriesBuffer {
		return nil
	}
	return w.flush()
}

func (w *entriesWriter) flush() error {
	n, err := w.file.WriteAt(w.buf, w.at)
	w.at, w.buf = w.at+int64(n), w.buf[:0]
	return err
}

// finish makes the file's bytes durable and closes it; its name is the caller's to sync.
func (w *entriesWriter) finish(point disk.Point) error {
	err := w.flush()
	if err == nil {
		err = w.file.Sync(point)
	}
	return errors.Join(err, w.file.Close())
}

// EntriesSuffix ends the name of a file of journal entries, in OfflineDir and in quarantine/.
const EntriesSuffix = ".entries"

// ReadEntries hands every entry of a file of entries to fn, with the frame it was in, and changes nothing. An entry is
// valid until fn returns. Damaged ones are stepped over and counted. It returns ErrEntries where nothing can be read, and
// fn's error. Memory goes with the largest entry.
func ReadEntries(fs disk.FS, path string, fn func(frame uint64, e *journal.Entry) error) (damaged int, err error) {
	_, damaged, err = readEntries(fs, path, fn)
	return damaged, err
}

// readEntries hands every entry to fn, which may be nil for the head alone, in the order in which they were added. Their
// Bytes are valid until fn returns. Damaged ones are stepped over and counted. The error is ErrEntries for a file whose
// head is damaged.
func readEntries(fs disk.FS, path string, fn func(frame uint64, e *journal.Entry) error) (h entriesHead, damaged int, err error) {
	f, err := fs.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return h, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return h, 0, err
	}
	r := bufio.NewReaderSize(io.NewSectionReader(f, 0, info.Size()), entriesBuffer)
	head := make([]byte, 2*entriesHeaderSize)
	if _, err := io.ReadFull(r, head); err != nil && !short(err) {
		return h, 0, err
	}
	if h, err = decodeEntriesHead(head); err != nil {
		h, err = decodeEntriesHead(head[entriesHeaderSize:])
	}
	if err != nil || fn == nil {
		return h, 0, err
	}
	be := binary.BigEndian
	var p []byte
	for {
		if _, err := io.ReadFull(r, head[:entryHeadSize]); errors.Is(err, io.EOF) {
			return h, damaged, nil
		} else if err != nil && !short(err) {
			return h, damaged, err
		}
		n := be.Uint32(head)
		if n < entryFixedSize || n > entryFixedSize+entryMax {
			return h, damaged + 1, nil // where the next one begins nobody knows
		}
		if uint32(cap(p)) < n {
			p = make([]byte, n)
		}
		p = p[:n]
		if _, err := io.ReadFull(r, p); short(err) {
			return h, damaged + 1, nil
		} else if err != nil {
			return h, damaged, err
		}
		if record.Castagnoli(p) != be.Uint32(head[4:]) {
			damaged++
			continue
		}
		frame, e := decodeKeptEntry(p)
		if err := fn(frame, &e); err != nil {
			return h, damaged, err
		}
	}
}

// short says whether a file ended before what was to be read of it.
func short(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) }

// decodeKeptEntry reads an entry of at least entryFixedSize bytes, whose checksum held.
func decodeKeptEntry(p []byte) (frame uint64, e journal.Entry) {
	be := binary.BigEndian
	frame, e.Kind = be.Uint64(p), journal.Kind(p[8])
	copy(e.Topic[:], p[9:])
	e.Partition = int32(be.Uint32(p[25:]))
	for i, v := range []*int64{&e.Segment, &e.Position, &e.Base} {
		*v = int64(be.Uint64(p[29+8*i:]))
	}
	e.Length, e.CRC = int32(be.Uint32(p[53:])), be.Uint32(p[57:])
	if len(p) > entryFixedSize {
		e.Bytes = p[entryFixedSize:]
	}
	return frame, e
}
