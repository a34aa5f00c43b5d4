package journal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"millrace/broker/disk"
)

// build turns fuzz input into a journal directory: a program of whole frames with any index and id, raw bytes, zeros,
// new files with any name, and damage to what was written.
func build(t *testing.T, dir string, program []byte) {
	var file []byte
	name := walName(1)
	flush := func() {
		if err := os.WriteFile(filepath.Join(dir, name), file, 0o640); err != nil {
			t.Fatal(err)
		}
		file = nil
	}
	for len(program) >= 3 {
		op, a, b := program[0], program[1], program[2]
		program = program[3:]
		switch op % 8 {
		case 0, 1, 2:
			encode := encodeFrame
			if a >= 128 {
				encode = packFrame
			}
			f := encode(uint64(a%32)+1, uint64(b%2)+1, record(int64(a), string(program[:min(len(program), int(b))])))
			file = append(binary.AppendUvarint(file, uint64(len(f))), f...)
		case 3:
			n := min(len(program), int(a))
			file = append(file, program[:n]...)
			program = program[n:]
		case 4:
			file = append(file, make([]byte, int(a)*int(b)%5000)...)
		case 5:
			if len(file) > 0 {
				file[(int(a)<<8|int(b))%len(file)] ^= a | 1
			}
		case 6:
			file = file[:len(file)-min(len(file), int(a))]
		case 7:
			flush()
			name = walName(uint64(a%40)) + []string{"", "", "", "", ".START", ".END", ".TEMP", ".x"}[b%8]
		}
	}
	flush()
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 1, 0, 0, 2, 0, 4, 100, 9, 7, 3, 0, 0, 3, 0, 0, 4, 2})
	f.Add([]byte{0, 0, 0, 5, 0, 9, 0, 1, 0, 3, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 5, 0, 7, 8, 4, 7, 8, 5, 0, 9, 1})
	f.Add([]byte{7, 39, 0, 0, 31, 1, 7, 0, 0, 7, 2, 5, 0, 2, 0, 6, 5, 0})
	f.Fuzz(func(t *testing.T, program []byte) { openAnything(t, t.TempDir(), program) })
}

func TestAnyDirectoryOpens(t *testing.T) {
	for _, seed := range seeds(t, 150) {
		rng := rand.New(rand.NewPCG(seed, 2))
		program := make([]byte, rng.IntN(120))
		for i := range program {
			program[i] = byte(rng.Uint32())
		}
		func() {
			defer func() {
				if t.Failed() {
					t.Logf("MILLRACE_SEED=%d", seed)
				}
			}()
			openAnything(t, filepath.Join(t.TempDir(), "journal"), program)
		}()
	}
}

// openAnything demands of any directory: Open does not panic, every frame passed on is one, rising, above the mark, and
// the journal works.
func openAnything(t *testing.T, dir string, program []byte) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	build(t, dir, program)
	var mark Mark
	if len(program) > 0 && program[0] >= 128 {
		mark = Mark{ID: 1, Index: uint64(program[0] % 64)}
	}
	// Scan sees what is there; every frame is checked again by hand, from the file.
	last := uint64(0)
	if _, err := Scan(disk.OS{}, dir, func(i FrameInfo) error {
		p, err := os.ReadFile(filepath.Join(dir, i.File))
		if err != nil {
			return err
		}
		p = p[i.Offset : i.Offset+int64(i.Size)]
		if crc32.Checksum(p[4:], crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(p) ||
			int(binary.LittleEndian.Uint32(p[4:])) != len(p) || binary.LittleEndian.Uint64(p[8:]) != i.Index {
			t.Fatalf("frame %d of %d bytes at %d of %s is not one", i.Index, i.Size, i.Offset, i.File)
		}
		if i.Index <= last {
			t.Fatalf("frame %d after %d", i.Index, last)
		}
		last = i.Index
		return nil
	}); err != nil {
		t.Fatalf("Scan: %v", err)
	}
	j, err := Open(Options{Dir: dir, SegmentBytes: 300}, mark)
	if errors.Is(err, ErrForeign) {
		return
	}
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	before, r := texts(t, j)
	if r.First != 0 && r.First <= mark.Index {
		t.Fatalf("frame %d is below the mark", r.First)
	}
	if err := j.Start(); err != nil {
		t.Fatalf("Start: %v", err)
	}
	put(t, j, "a", "b")
	shut(t, j)
	j = open(t, Options{Dir: dir}, mark)
	after, again := texts(t, j)
	shut(t, j)
	if !slices.Equal(after, append(before, "a", "b")) || again.Missing < r.Missing {
		t.Fatalf("replayed %q, then %q; missing %d, then %d", before, after, r.Missing, again.Missing)
	}
}
