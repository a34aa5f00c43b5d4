package contract

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"millrace/broker/disk"
	"millrace/broker/record"
)

// The budget's file has two slots, written by turns, so that a torn one leaves the other. All numbers are big-endian:
//
//	magic 4, version 4, crc32c 4 of what follows, sequence 8, day 8, reserved 8, undated 8, ran 8 (ns)
const (
	slotMagic   = "MRDB"
	slotVersion = 1
	slotSize    = 3*4 + 5*8
	slotApart   = 4096 // so that no block of the device holds both
)

var (
	pointBudget          = disk.NewPoint("contract.budget")
	pointBudgetDirectory = disk.NewPoint("contract.budget.dir")
)

var errSlot = errors.New("damaged")

func encodeSlot(s state, sequence uint64) []byte {
	p := append(make([]byte, 0, slotSize), slotMagic...)
	p = binary.BigEndian.AppendUint32(p, slotVersion)
	p = append(p, 0, 0, 0, 0)
	p = binary.BigEndian.AppendUint64(p, sequence)
	for _, n := range []int64{s.day, s.reserved, s.undated, int64(s.ran)} {
		p = binary.BigEndian.AppendUint64(p, uint64(n))
	}
	binary.BigEndian.PutUint32(p[8:], record.Castagnoli(p[12:]))
	return p
}

func decodeSlot(p []byte) (s state, sequence uint64, err error) {
	switch {
	case len(p) != slotSize || string(p[:4]) != slotMagic:
		return s, 0, fmt.Errorf("no header: %w", errSlot)
	case binary.BigEndian.Uint32(p[4:]) != slotVersion:
		return s, 0, fmt.Errorf("version %d, this build knows %d: %w", binary.BigEndian.Uint32(p[4:]), slotVersion, errSlot)
	case binary.BigEndian.Uint32(p[8:]) != record.Castagnoli(p[12:]):
		return s, 0, fmt.Errorf("checksum: %w", errSlot)
	}
	number := func(i int) int64 { return int64(binary.BigEndian.Uint64(p[12+8*i:])) }
	s = state{day: number(1), reserved: number(2), undated: number(3), ran: time.Duration(number(4))}
	if s.reserved < 0 || s.reserved > 2*perDayMax || s.undated < 0 || s.undated > s.reserved || s.ran < 0 {
		return state{}, 0, fmt.Errorf("numbers that cannot be: %w", errSlot)
	}
	return s, uint64(number(0)), nil
}

// slots is the file. It is used by one at a time.
type slots struct {
	fs   disk.FS
	path string
	file disk.File // nil after a failed write: what the handle holds is not to be trusted
	next uint64    // the sequence of the next write; its lowest bit says the slot
}

// openSlots reads what the file says, or makes it anew where there is none. whole is how many of the two slots are.
func openSlots(fsys disk.FS, path string) (s state, f *slots, whole int, err error) {
	f = &slots{fs: fsys, path: path}
	f.file, err = fsys.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		s = state{day: noDay}
		return s, f, 2, f.create(s)
	}
	if err != nil {
		return s, nil, 0, err
	}
	for i := range 2 {
		p := make([]byte, slotSize)
		n, readErr := f.file.ReadAt(p, int64(i)*slotApart)
		if readErr != nil && !errors.Is(readErr, io.EOF) {
			return s, nil, 0, errors.Join(fmt.Errorf("%s: %w", path, readErr), f.file.Close())
		}
		found, sequence, slotErr := decodeSlot(p[:n])
		if slotErr != nil {
			continue
		}
		if whole++; sequence >= f.next {
			s, f.next = found, sequence+1
		}
	}
	return s, f, whole, nil
}

// CheckBudget says what is wrong with the file of a Budget, and what the next start makes of that. It changes nothing.
func CheckBudget(fsys disk.FS, path string) (err error) {
	f, err := fsys.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	raw := make([]byte, slotApart+slotSize+1)
	n, err := f.ReadAt(raw, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", path, err)
	}
	raw = raw[:n]
	var damage []error
	for i := range 2 {
		at := min(i*slotApart, n)
		_, sequence, err := decodeSlot(raw[at:min(at+slotSize, n)])
		if err == nil && sequence&1 != uint64(i) {
			err = errSlot
		}
		if err != nil {
			damage = append(damage, fmt.Errorf("copy %d: %w", i+1, err))
		}
	}
	switch {
	case len(damage) == 2:
		return fmt.Errorf("%s: %w; the bytes of the day count as spent until the next one begins", path, errors.Join(damage...))
	case len(damage) == 1:
		return fmt.Errorf("%s: %w; a hundredth of the day counts as spent", path, damage[0])
	case n != slotApart+slotSize || slices.ContainsFunc(raw[slotSize:slotApart], func(b byte) bool { return b != 0 }):
		return fmt.Errorf("%s: %w beside its two copies, which are good: nothing is lost", path, errSlot)
	}
	return nil
}

// create makes the whole file under another name first: a file that is there was written once.
func (f *slots) create(s state) error {
	temporary := f.path + ".new"
	file, err := f.fs.OpenFile(temporary, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	f.file = file
	for range 2 {
		if err := f.put(s); err != nil {
			return err
		}
	}
	if err := f.fs.Rename(temporary, f.path); err != nil {
		return errors.Join(err, f.close())
	}
	if err := f.fs.SyncDir(filepath.Dir(f.path), pointBudgetDirectory); err != nil {
		return errors.Join(err, f.close())
	}
	return nil
}

// write makes s durable. After an error the slot it went to may hold anything, and the next write goes there again.
func (f *slots) write(s state) error {
	if f.file == nil {
		file, err := f.fs.OpenFile(f.path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		f.file = file
	}
	return f.put(s)
}

func (f *slots) put(s state) error {
	_, err := f.file.WriteAt(encodeSlot(s, f.next), int64(f.next&1)*slotApart)
	if err == nil {
		err = f.file.Sync(pointBudget)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", f.path, err), f.close())
	}
	f.next++
	return nil
}

func (f *slots) close() error {
	if f.file == nil {
		return nil
	}
	file := f.file
	f.file = nil
	return file.Close()
}
