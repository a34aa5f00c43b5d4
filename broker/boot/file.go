package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"millrace/broker/disk"
	"millrace/broker/record"
)

// The table lies in two files that are written by turns, so that a torn one leaves the other. All numbers are big-endian:
//
//	magic 4, version 4, crc32c 4 of what follows, length 4 of the whole, sequence 8, boot 8, floor 8, eras 4, then each era:
//	kind 1, flags 1 (known, open), boot 8, wall 8, from 8, floor 8, length 8, correction 8, ceiling 8, ranges 4, then each
//	range: topic 16, partition 4, first 8, end 8
const (
	fileMagic   = "MRBT"
	fileVersion = 1
	headerSize  = 4 + 4 + 4 + 4 + 3*8 + 4
	eraSize     = 2 + 7*8 + 4
	rangeSize   = 16 + 4 + 2*8
	// fileMax bounds what is read of a file: the open era lists every partition, which are a million at most, as in a
	// checkpoint.
	fileMax = headerSize + (erasMax+2)*eraSize + (1<<20+2*rangesMax)*rangeSize

	flagKnown = 1
	flagOpen  = 2
)

var (
	pointFile = disk.NewPoint("boot.file")
	pointDir  = disk.NewPoint("boot.directory")
)

// errFile is a file that is not a whole table of a version this build knows.
var errFile = errors.New("the boot table is damaged")

// FileName is one of the two files, n is 0 or 1.
func FileName(n int) string { return fmt.Sprintf("clock.%d", n) }

func encode(t *Table, sequence uint64) []byte {
	p := append(make([]byte, 0, headerSize+len(t.Eras)*eraSize), fileMagic...)
	p = binary.BigEndian.AppendUint32(p, fileVersion)
	p = append(p, make([]byte, 8)...) // CRC and length
	p = binary.BigEndian.AppendUint64(p, sequence)
	p = numbers(p, t.Boot, t.Floor)
	p = binary.BigEndian.AppendUint32(p, uint32(len(t.Eras)))
	for _, e := range t.Eras {
		var flags byte
		if e.Known {
			flags |= flagKnown
		}
		if e.Open {
			flags |= flagOpen
		}
		p = append(p, byte(e.Kind), flags)
		p = numbers(p, e.Boot, e.Wall, e.From, e.Floor, e.Length, e.Correction, e.Ceiling)
		p = binary.BigEndian.AppendUint32(p, uint32(len(e.Ranges)))
		for _, r := range e.Ranges {
			p = append(p, r.Topic[:]...)
			p = binary.BigEndian.AppendUint32(p, uint32(r.Partition))
			p = numbers(p, r.First, r.End)
		}
	}
	binary.BigEndian.PutUint32(p[12:], uint32(len(p)))
	binary.BigEndian.PutUint32(p[8:], record.Castagnoli(p[12:]))
	return p
}

func numbers(p []byte, list ...int64) []byte {
	for _, n := range list {
		p = binary.BigEndian.AppendUint64(p, uint64(n))
	}
	return p
}

// decode reads a whole file; what a longer one before it has left behind it is ignored.
func decode(p []byte) (t *Table, sequence uint64, err error) {
	if len(p) < headerSize || string(p[:4]) != fileMagic {
		return nil, 0, fmt.Errorf("no header: %w", errFile)
	}
	if v := binary.BigEndian.Uint32(p[4:]); v != fileVersion {
		return nil, 0, fmt.Errorf("version %d, this build knows %d: %w", v, fileVersion, errFile)
	}
	size := binary.BigEndian.Uint32(p[12:])
	if size < headerSize || uint64(size) > uint64(len(p)) {
		return nil, 0, fmt.Errorf("%d bytes, the file has %d: %w", size, len(p), errFile)
	}
	p = p[:size]
	if got, want := record.Castagnoli(p[12:]), binary.BigEndian.Uint32(p[8:]); got != want {
		return nil, 0, fmt.Errorf("crc %08x, want %08x: %w", got, want, errFile)
	}
	r := reader{p: p[16:]}
	sequence = uint64(r.number())
	t = &Table{Boot: r.number(), Floor: r.number()}
	for range r.count(eraSize) {
		var e Era
		kind := r.take(2)
		e.Kind, e.Known, e.Open = Kind(kind[0]), kind[1]&flagKnown != 0, kind[1]&flagOpen != 0
		for _, n := range []*int64{&e.Boot, &e.Wall, &e.From, &e.Floor, &e.Length, &e.Correction, &e.Ceiling} {
			*n = r.number()
		}
		n := r.count(rangeSize)
		e.Ranges = make([]Range, n)
		for i := range e.Ranges {
			x := &e.Ranges[i]
			copy(x.Topic[:], r.take(16))
			x.Partition = int32(binary.BigEndian.Uint32(r.take(4)))
			x.First, x.End = r.number(), r.number()
		}
		t.Eras = append(t.Eras, e)
	}
	if r.bad || len(r.p) > 0 {
		return nil, 0, fmt.Errorf("lengths that do not fit: %w", errFile)
	}
	if err := t.check(); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errFile, err)
	}
	return t, sequence, nil
}

// reader takes numbers off its front. After the end all are zero and bad is set.
type reader struct {
	p   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if len(r.p) < n {
		r.bad, r.p = true, nil
		return make([]byte, n)
	}
	p := r.p[:n]
	r.p = r.p[n:]
	return p
}

func (r *reader) number() int64 { return int64(binary.BigEndian.Uint64(r.take(8))) }

// count is how many of a size follow, 0 when there is not as much left.
func (r *reader) count(size int) int {
	n := int64(binary.BigEndian.Uint32(r.take(4)))
	if n*int64(size) > int64(len(r.p)) {
		r.bad = true
		return 0
	}
	return int(n)
}

// files are the two files. Not for concurrent use.
type files struct {
	fs       disk.FS
	dir      string
	next     int // the one to write
	sequence uint64
	made     bool // both names are durable
}

// open reads both. The table is nil where there was none yet; bad tells of files that are damaged.
func (f *files) open() (t *Table, bad []error) {
	f.made = true
	for n := range 2 {
		got, sequence, err := f.read(n)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			f.made = false
		case err != nil:
			bad = append(bad, err)
		case t == nil || sequence > f.sequence:
			t, f.sequence, f.next = got, sequence, 1-n
		}
	}
	return t, bad
}

func (f *files) read(n int) (*Table, uint64, error) {
	name := filepath.Join(f.dir, FileName(n))
	file, err := f.fs.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, 0, err
	}
	raw, err := io.ReadAll(io.NewSectionReader(file, 0, fileMax))
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", name, err)
	}
	t, sequence, err := decode(raw)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", name, err)
	}
	return t, sequence, nil
}

// write puts the table into the older file and returns when it is durable.
func (f *files) write(t *Table) error {
	if f.sequence == math.MaxUint64 {
		return errFile // a file that was made by hand
	}
	name := filepath.Join(f.dir, FileName(f.next))
	file, err := f.fs.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	raw := encode(t, f.sequence+1)
	_, err = file.WriteAt(raw, 0)
	if err == nil {
		err = file.Truncate(int64(len(raw)))
	}
	if err == nil {
		err = file.Sync(pointFile)
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if !f.made {
		if err := f.fs.SyncDir(f.dir, pointDir); err != nil {
			return err
		}
		_, err := f.fs.Stat(filepath.Join(f.dir, FileName(1-f.next)))
		f.made = err == nil
	}
	f.sequence++
	f.next = 1 - f.next
	return nil
}

// Check reads the table of a data directory and changes nothing. bad tells of files that are damaged; whole says that the
// table is there all the same, or that there never was one.
func Check(fsys disk.FS, dir string) (bad []error, whole bool) {
	f := files{fs: fsys, dir: dir}
	t, bad := f.open()
	return bad, t != nil || len(bad) == 0
}
