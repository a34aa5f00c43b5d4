package broker

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/journal"
	"millrace/platform/config"
	"millrace/platform/identity"
)

// kept is what a reset may keep.
type kept struct{ meta, key, pin string }

func who(t *testing.T, b *Broker) kept {
	t.Helper()
	return kept{b.Meta().ClusterID, b.identity.Fingerprint(), b.identity.Pin()}
}

// After a reset the next start is a first start: another board, without users or topics, or the same one without them.
func TestFactoryReset(t *testing.T) {
	for _, keep := range []bool{false, true} {
		dir := t.TempDir()
		b := board(t, dir, sasl)
		was, directory, secret := who(t, b), b.Meta().DirectoryID, adminSecret(t, b)
		appendOne(t, b, "t", "secret of old")
		if removed, err := FactoryReset(disk.OS{}, dir, keep); err == nil || !strings.Contains(err.Error(), "in use by another millrace") {
			t.Fatalf("a running board was reset: %v, %v", removed, err)
		}
		closed(t, b)
		plan, err := ResetPlan(disk.OS{}, dir, keep)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("..", filepath.Join(dir, "out")); err != nil { // what it points to stays
			t.Fatal(err)
		}
		removed, err := FactoryReset(disk.OS{}, dir, keep)
		if err != nil || !slices.Equal(removed, slices.Sorted(slices.Values(append(plan, "out")))) || slices.Contains(removed, identity.File) == keep {
			t.Fatalf("removed %v, planned %v, %v", removed, plan, err)
		}
		nowhere(t, dir, "secret of old")
		b = board(t, dir, sasl)
		if _, ok := b.Topic("t"); ok || b.quorum.Image().UserCount() != 1 {
			t.Error("something of the old board is there")
		}
		if is := who(t, b); (is == was) != keep || (is.meta == was.meta) != keep || b.Meta().DirectoryID == directory {
			t.Errorf("keep %v: it was %v, it is %v", keep, was, is)
		}
		if adminSecret(t, b) == secret {
			t.Error("the old secret counts")
		}
		appendOne(t, b, "new", "x")
		closed(t, b)
		// What the new board has made is not taken for the old one's.
		b = board(t, dir, sasl)
		if n := end(t, b, "new"); n != 1 {
			t.Errorf("%d records", n)
		}
	}
	if _, err := FactoryReset(disk.OS{}, t.TempDir(), false); !errors.Is(err, ErrNotFormatted) {
		t.Errorf("what is no board was reset: %v", err)
	}
	if _, err := FactoryReset(disk.OS{}, filepath.Join(t.TempDir(), "none"), false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what does not exist was reset: %v", err)
	}
}

// The old board had records in its FRAM and nowhere else: a new one does not ask for them.
func TestAResetForgetsTheFRAM(t *testing.T) {
	dir, chip := t.TempDir(), newChip()
	b, err := chipped(t, dir, chip, false)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		appendOne(t, b, "climate", "21.5")
	}
	cut, held := filepath.Join(t.TempDir(), "data"), newChip()
	if err := os.CopyFS(cut, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	clone(held, chip)
	closed(t, b)
	if _, err := FactoryReset(disk.OS{}, cut, false); err != nil {
		t.Fatal(err)
	}
	if b, err = chipped(t, cut, held, false); err != nil {
		t.Fatal(err)
	}
	if _, ok := b.Topic("climate"); ok {
		t.Error("the old board's topic is there")
	}
	appendOne(t, b, "new", "x")
	if s := b.journal.Stats(); s.Fronted == 0 {
		t.Errorf("the FRAM is not used: %+v", s)
	}
	closed(t, b)
	// Once it is up it forgets nothing any more.
	other := newChip()
	clone(other, held)
	if _, err := chipped(t, t.TempDir(), held, false); err != nil && !errors.Is(err, journal.ErrFront) {
		t.Error(err)
	}
	if b, err = chipped(t, cut, other, false); err != nil || end(t, b, "new") != 1 {
		t.Fatalf("the new board's record is gone: %v", err)
	}
	closed(t, b)
}

// A cut anywhere in a reset leaves the whole old board, or one that a start makes new.
func TestAResetIsWholeOrNot(t *testing.T) {
	old := t.TempDir()
	b := opened(t, old, sasl, func(string, string) error { return nil })
	was := who(t, b)
	appendOne(t, b, "t", "x")
	closed(t, b)
	stayed, went := 0, 0
	for seed := range uint64(24) {
		keep := seed%2 == 0
		root := t.TempDir()
		dir := filepath.Join(root, "disk", "data")
		if err := os.CopyFS(dir, os.DirFS(old)); err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(seed, 22))
		fs := disktest.New(disk.OS{})
		if err := fs.Record(filepath.Dir(dir)); err != nil {
			t.Fatal(err)
		}
		fs.StopAt(1 + rng.Int64N([]int64{3, 40}[seed/2%2]))
		_, err := FactoryReset(fs, dir, keep)
		done := err == nil
		fs.Stop()
		left := filepath.Join(root, "left")
		if err := fs.Cut(rng, left); err != nil {
			t.Fatal(err)
		}
		b := opened(t, filepath.Join(left, "data"), sasl, func(string, string) error { return nil })
		is := who(t, b)
		_, there := b.Topic("t")
		switch {
		case there && (is != was || b.quorum.Image().UserCount() != 1 || end(t, b, "t") != 1 || done):
			t.Errorf("seed %d: a part of the old board is there: %v, was %v, done %v", seed, is, was, done)
		case there:
			stayed++
		case (is == was) != keep:
			t.Errorf("seed %d, keep %v: it was %v, it is %v", seed, keep, was, is)
		default:
			went++
		}
		if pending, _, err := resetting(disk.OS{}, filepath.Join(left, "data")); pending || err != nil {
			t.Errorf("seed %d: the reset goes on: %v", seed, err)
		}
		closed(t, b)
	}
	if t.Logf("%d stayed, %d went", stayed, went); stayed == 0 || went == 0 {
		t.Errorf("%d old boards, %d new ones", stayed, went)
	}
}

// Formatting by hand after a reset makes the board it says.
func TestFormatAfterAReset(t *testing.T) {
	dir, id := t.TempDir(), RandomUUID()
	closed(t, opened(t, dir, nil, nil))
	if _, err := FactoryReset(disk.OS{}, dir, false); err != nil {
		t.Fatal(err)
	}
	if _, err := Format(disk.OS{}, dir, id, 1); err != nil {
		t.Fatal(err)
	}
	b := opened(t, dir, func(c *config.Config) { c.Broker.ClusterID = id }, nil)
	defer closed(t, b)
	if b.Meta().ClusterID != id {
		t.Errorf("%+v", b.Meta())
	}
}
