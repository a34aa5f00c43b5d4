package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/journal"
	"millrace/broker/record"
)

// The layout of a slot is in README.md beside this file. All numbers are big-endian, like Kafka's.
const (
	slotMagic      = "MRCK"
	slotVersion    = 1
	slotHeaderSize = 4 + 4 + 4 + 4 + 8 + 8 + 8 + 4 // magic, version, crc, length, sequence, journal id, index, count
	slotEntrySize  = 16 + 4 + 5*8
	// slotMax bounds what is read of a slot: a million partitions, far above what a board can hold.
	slotMax = slotHeaderSize + 1<<20*slotEntrySize
)

var (
	pointSlot    = disk.NewPoint("checkpoint.slot")
	pointSlotDir = disk.NewPoint("checkpoint.directory")
)

// ErrSlot is returned by DecodeSlot for bytes that are not a whole checkpoint slot of a version this build knows.
var ErrSlot = errors.New("checkpoint slot is damaged")

// Slot is one checkpoint: up to Mark, everything the journal says is in the segments, synced.
type Slot struct {
	Sequence   uint64 // the valid slot with the higher one counts
	Mark       journal.Mark
	Partitions []SlotEntry
}

// SlotEntry is one partition as a checkpoint found it.
type SlotEntry struct {
	Topic     catalog.TopicID
	Partition int32
	Segment   int64 // base offset of the active segment
	Position  int64 // bytes of it that are flushed
	Next      int64 // offset after the last record in them
	Start     int64 // first readable offset
	Snapshot  int64 // offset of the newest producer snapshot, -1 where there is none
}

// Encode is the slot's whole file.
func (s Slot) Encode() []byte {
	size := slotHeaderSize + len(s.Partitions)*slotEntrySize
	p := make([]byte, 0, size)
	p = append(p, slotMagic...)
	p = binary.BigEndian.AppendUint32(p, slotVersion)
	p = binary.BigEndian.AppendUint32(p, 0) // the CRC, of everything after it
	p = binary.BigEndian.AppendUint32(p, uint32(size))
	p = binary.BigEndian.AppendUint64(p, s.Sequence)
	p = binary.BigEndian.AppendUint64(p, s.Mark.ID)
	p = binary.BigEndian.AppendUint64(p, s.Mark.Index)
	p = binary.BigEndian.AppendUint32(p, uint32(len(s.Partitions)))
	for _, e := range s.Partitions {
		p = e.append(p)
	}
	binary.BigEndian.PutUint32(p[8:], record.Castagnoli(p[12:]))
	return p
}

// DecodeSlot reads a slot's file. It returns ErrSlot for anything but a whole one; bytes after it, left by a longer
// slot before it, are ignored.
func DecodeSlot(p []byte) (Slot, error) {
	if len(p) < slotHeaderSize || string(p[:4]) != slotMagic {
		return Slot{}, fmt.Errorf("no header: %w", ErrSlot)
	}
	if v := binary.BigEndian.Uint32(p[4:]); v != slotVersion {
		return Slot{}, fmt.Errorf("version %d, this build knows %d: %w", v, slotVersion, ErrSlot)
	}
	size := int64(binary.BigEndian.Uint32(p[12:]))
	count := int64(binary.BigEndian.Uint32(p[40:]))
	if size > int64(len(p)) || size != slotHeaderSize+count*slotEntrySize {
		return Slot{}, fmt.Errorf("%d bytes for %d partitions, file has %d: %w", size, count, len(p), ErrSlot)
	}
	p = p[:size]
	if got, want := record.Castagnoli(p[12:]), binary.BigEndian.Uint32(p[8:]); got != want {
		return Slot{}, fmt.Errorf("crc %08x, want %08x: %w", got, want, ErrSlot)
	}
	s := Slot{
		Sequence:   binary.BigEndian.Uint64(p[16:]),
		Mark:       journal.Mark{ID: binary.BigEndian.Uint64(p[24:]), Index: binary.BigEndian.Uint64(p[32:])},
		Partitions: make([]SlotEntry, count),
	}
	for i := range s.Partitions {
		s.Partitions[i] = decodeSlotEntry(p[slotHeaderSize+i*slotEntrySize:])
	}
	return s, nil
}

func (e SlotEntry) append(p []byte) []byte {
	p = append(p, e.Topic[:]...)
	p = binary.BigEndian.AppendUint32(p, uint32(e.Partition))
	for _, v := range [...]int64{e.Segment, e.Position, e.Next, e.Start, e.Snapshot} {
		p = binary.BigEndian.AppendUint64(p, uint64(v))
	}
	return p
}

// decodeSlotEntry reads an entry of slotEntrySize bytes.
func decodeSlotEntry(p []byte) (e SlotEntry) {
	copy(e.Topic[:], p)
	e.Partition = int32(binary.BigEndian.Uint32(p[16:]))
	for i, v := range []*int64{&e.Segment, &e.Position, &e.Next, &e.Start, &e.Snapshot} {
		*v = int64(binary.BigEndian.Uint64(p[20+8*i:]))
	}
	return e
}

// SlotPath is the file of slot 0 or 1 in a data directory.
func SlotPath(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("checkpoint.%d", n)) }

// ReadSlot reads slot 0 or 1 of a data directory and changes nothing. The error is fs.ErrNotExist where there is none
// yet and ErrSlot where it is damaged.
func ReadSlot(fsys disk.FS, dir string, n int) (Slot, error) {
	f, err := fsys.OpenFile(SlotPath(dir, n), os.O_RDONLY, 0)
	if err != nil {
		return Slot{}, err
	}
	raw, err := io.ReadAll(io.NewSectionReader(f, 0, slotMax))
	if err := errors.Join(err, f.Close()); err != nil {
		return Slot{}, fmt.Errorf("read %s: %w: %w", SlotPath(dir, n), err, ErrSlot)
	}
	s, err := DecodeSlot(raw)
	if err != nil {
		return Slot{}, fmt.Errorf("%s: %w", SlotPath(dir, n), err)
	}
	return s, nil
}

// slots are the two files a checkpoint alternates between, so that a torn one leaves the other; or two halves of a memory
// beside the disk, see slotmemory.go.
type slots struct {
	fs     disk.FS
	dir    string
	next   int    // the file to write: the older, or the damaged one
	made   bool   // both files' names are durable
	filed  bool   // a file has a valid slot
	newest uint64 // the highest sequence seen
	last   Slot   // the newest valid one
	prev   Slot   // the one before, zero where it is not valid
	ok     bool   // last is valid
	valid  int    // valid slots found, at most 2

	memory *slotMemory // nil: there is none
	beside bool        // a file says that the newest slot may be in the memory only
}

// openSlots reads them. Damage is told, never refused: with none valid recovery walks the segments.
func openSlots(fsys disk.FS, dir string, store CheckpointStore) (slots, []string) {
	s := slots{fs: fsys, dir: dir, made: true}
	var bad []string
	for n := range 2 {
		slot, err := ReadSlot(fsys, dir, n)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			s.made = false
		case err != nil:
			bad = append(bad, err.Error())
		case s.take(slot):
			s.next = 1 - n
		}
	}
	s.filed = s.ok
	return s, append(bad, s.openMemory(store, len(bad) > 0)...)
}

// take counts a valid slot, and tells whether it is the newest so far.
func (s *slots) take(slot Slot) bool {
	s.valid = min(s.valid+1, 2)
	s.newest = max(s.newest, slot.Sequence)
	switch {
	case !s.ok || slot.Sequence > s.last.Sequence:
		s.last, s.prev, s.ok = slot, s.last, true
		return true
	case slot.Sequence > s.prev.Sequence:
		s.prev = slot
	}
	return false
}

// write makes slot the newest, durably. Its sequence and nothing else is filled in here. The second error is that of the
// memory, which is not used any more; the slot is in a file then.
func (s *slots) write(slot Slot) (err, memoryErr error) {
	slot.Sequence = s.newest + 1
	p := slot.Encode()
	done, memoryErr := s.writeMemory(p)
	if !done {
		if err := s.writeFile(p); err != nil {
			return err, memoryErr
		}
		if err := s.unmark(); err != nil {
			return err, memoryErr
		}
	}
	s.newest = slot.Sequence
	s.last, s.prev, s.ok = slot, s.last, true
	return nil, memoryErr
}

// writeFile writes the slot p to the older file.
func (s *slots) writeFile(p []byte) error {
	name := SlotPath(s.dir, s.next)
	f, err := s.fs.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(p, 0)
	if err == nil {
		err = f.Truncate(int64(len(p)))
	}
	if err == nil {
		err = f.Sync(pointSlot)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if !s.made {
		if err := s.fs.SyncDir(s.dir, pointSlotDir); err != nil {
			return err
		}
		_, err := s.fs.Stat(SlotPath(s.dir, 1-s.next))
		s.made = err == nil
	}
	s.next, s.filed = 1-s.next, true
	return nil
}
