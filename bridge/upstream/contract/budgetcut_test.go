package contract

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
)

// The power is cut in each changing operation in turn, the making of the file and every slot among them: whatever the disk holds
// then, no byte that went out is forgotten, and no day is lost over it.
func TestACutAtAnyOperation(t *testing.T) {
	cuts := 0
	for n := int64(1); ; n++ {
		dir := t.TempDir()
		data := filepath.Join(dir, "data")
		if err := os.Mkdir(data, 0o700); err != nil {
			t.Fatal(err)
		}
		w := newBoard(t, data)
		w.fs = disktest.New(disk.OS{})
		if err := w.fs.Record(data); err != nil {
			t.Fatal(err)
		}
		w.fs.StopAt(n)
		config := BudgetConfig{FS: w.fs, Path: w.path, Limit: w.limit, Now: func() Moment { return w.now }}
		b, _, err := OpenBudget(config)
		sent := int64(0)
		for err == nil && sent < 8*w.limit/100 {
			if err = b.take(b.piece()); err == nil {
				sent += int64(b.piece())
			}
		}
		if err != nil && !errors.Is(err, disktest.ErrCut) {
			t.Fatal(err)
		}
		if err == nil {
			if cuts < 60 {
				t.Errorf("only %d cuts", cuts)
			}
			if err := b.Close(); err != nil && !errors.Is(err, disktest.ErrCut) {
				t.Error(err)
			}
			return
		}
		rng := rand.New(rand.NewPCG(uint64(n), 1))
		for i := range 6 {
			left := filepath.Join(dir, strconv.Itoa(i))
			if err := w.fs.Cut(rng, left); err != nil {
				t.Fatal(err)
			}
			after := config
			after.FS, after.Path = disk.OS{}, filepath.Join(left, filepath.Base(w.path))
			again, damage, err := OpenBudget(after)
			if err != nil {
				t.Fatal(err)
			}
			if used := again.Day().Used; damage != nil || used < sent || used > sent+2*w.limit/100 {
				t.Errorf("cut in operation %d: %d sent, %d counted, damage %v", n, sent, used, damage)
			}
			if err := again.Close(); err != nil {
				t.Error(err)
			}
			cuts++
		}
	}
}
