package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// CheckpointStore is memory beside the disk that keeps its bytes without power: FRAM. The checkpoint slots lie in its two
// halves, where they fit. The store calls it from one goroutine at a time.
type CheckpointStore interface {
	io.ReaderAt
	// WriteAt writes in the order of the bytes. They are durable when it returns nil; after an error or a power cut any
	// number of them from the first on are.
	io.WriterAt
	// Size is how many bytes there are.
	Size() int64
}

// besideName is an empty file that is there while a slot in the memory may be newer than those in the files: without that
// memory the files say less than the journal has let go of, and are not believed.
const besideName = "checkpoint.fram"

// BesidePath is the file that says that the newest checkpoint slot may be in FRAM.
func BesidePath(dir string) string { return filepath.Join(dir, besideName) }

// slotMemory is the two halves of a CheckpointStore.
type slotMemory struct {
	store CheckpointStore
	half  int64
	next  int // the half to write: the older, or the damaged one
}

// openMemory adds the slots in the memory to those of the files. A slot counts when a file's has the same journal: the
// memory may have come from another board. damaged says that a file has one that cannot be read.
func (s *slots) openMemory(store CheckpointStore, damaged bool) (bad []string) {
	_, err := s.fs.Stat(BesidePath(s.dir))
	s.beside = err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		bad = append(bad, err.Error())
		s.beside = true
	}
	if store != nil {
		s.memory = &slotMemory{store: store, half: store.Size() / 2}
		home, found := s.last.Mark.ID, false
		var newest uint64
		for n := range 2 {
			slot, there, err := s.memory.read(n)
			switch {
			case err != nil:
				bad = append(bad, err.Error())
				continue
			case !there:
				continue
			case s.filed && slot.Mark.ID != home || !s.filed && !damaged:
				bad = append(bad, fmt.Sprintf("checkpoint slot %d in FRAM is of journal %016x, which is not this directory's", n, slot.Mark.ID))
				continue
			}
			if s.take(slot); !found || slot.Sequence > newest {
				newest, s.memory.next = slot.Sequence, 1-n
			}
			found = true
		}
		if found {
			return bad
		}
	}
	if s.beside {
		bad = append(bad, "the newest checkpoint slot was in FRAM, and none can be read there")
		s.last, s.prev, s.ok, s.valid = Slot{}, Slot{}, false, 0
	}
	return bad
}

// read reads one half; there is false where nothing was ever written.
func (m *slotMemory) read(n int) (slot Slot, there bool, err error) {
	at := int64(n) * m.half
	p := make([]byte, min(m.half, slotHeaderSize))
	if _, err := m.store.ReadAt(p, at); err != nil {
		return Slot{}, false, fmt.Errorf("checkpoint slot %d in FRAM: %w: %w", n, err, ErrSlot)
	}
	if len(p) < slotHeaderSize || string(p[:4]) != slotMagic {
		return Slot{}, false, nil
	}
	size := min(int64(binary.BigEndian.Uint32(p[12:])), m.half)
	p = make([]byte, size)
	if _, err = m.store.ReadAt(p, at); err == nil {
		slot, err = DecodeSlot(p)
	}
	if err != nil {
		return Slot{}, false, fmt.Errorf("checkpoint slot %d in FRAM: %w", n, err)
	}
	return slot, true, nil
}

// writeMemory writes the slot p to the older half, where there is one and it fits. A memory that fails is not used again.
func (s *slots) writeMemory(p []byte) (done bool, err error) {
	m := s.memory
	if m == nil || !s.filed || int64(len(p)) > m.half { // the first one goes to a file, to say whose the others are
		return false, nil
	}
	if _, err := m.store.WriteAt(p, int64(m.next)*m.half); err != nil {
		s.memory = nil
		return false, fmt.Errorf("checkpoint slot in FRAM: %w", err)
	}
	m.next = 1 - m.next
	// Before the journal lets anything go on the strength of this slot.
	if err := s.mark(); err != nil {
		s.memory = nil
		return false, fmt.Errorf("mark that the checkpoint is in FRAM: %w", err)
	}
	return true, nil
}

func (s *slots) mark() error {
	if s.beside {
		return nil
	}
	f, err := s.fs.OpenFile(BesidePath(s.dir), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := s.fs.SyncDir(s.dir, pointSlotDir); err != nil {
		return err
	}
	s.beside = true
	return nil
}

// unmark says that the newest slot is in a file.
func (s *slots) unmark() error {
	if !s.beside {
		return nil
	}
	if err := s.fs.Remove(BesidePath(s.dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.fs.SyncDir(s.dir, pointSlotDir); err != nil {
		return err
	}
	s.beside = false
	return nil
}

// settle copies the newest slot to a file, where it is in the memory only: the next start may do without.
func (s *slots) settle() error {
	if !s.beside || !s.ok {
		return nil
	}
	slot := s.last
	slot.Sequence = s.newest + 1
	if err := s.writeFile(slot.Encode()); err != nil {
		return err
	}
	s.newest, s.last = slot.Sequence, slot
	return s.unmark()
}
