package quorum_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/quorum"
)

var (
	cuts = flag.Int("quorum.cuts", 80, "power cuts of TestPowerCut")
	seed = flag.Uint64("quorum.seed", 0, "seed of TestPowerCut and TestDamage, 0 draws one")
)

func random(t *testing.T) *rand.Rand {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("-quorum.seed=%d", s)
	return rand.New(rand.NewPCG(s, 1))
}

// board is a quorum on a disk whose power can be cut, and what it confirmed so far.
type board struct {
	t   *testing.T
	rng *rand.Rand
	dir string // the parent of the quorum's directory
	fs  *disktest.FS
	// confirmed is the last image a proposal returned; tried is the version it may have reached beyond that.
	confirmed *catalog.Image
	tried     uint64
	topics    int
	skip      disk.Point
	long      bool // long times between cuts only
	cuts      int
}

func newBoard(t *testing.T, rng *rand.Rand, skip disk.Point) *board {
	b := &board{t: t, rng: rng, dir: filepath.Join(t.TempDir(), "disk-0"), confirmed: &catalog.Image{}, skip: skip}
	if err := os.Mkdir(b.dir, 0o750); err != nil {
		t.Fatal(err)
	}
	b.mount()
	return b
}

func (b *board) mount() {
	b.fs = disktest.New(disk.OS{})
	if err := b.fs.Record(b.dir); err != nil {
		b.t.Fatal(err)
	}
	b.fs.WAL(filepath.Join(b.dir, "quorum", "log"))
	if b.skip != "" {
		b.fs.Skip(b.skip)
	}
}

// command is the next change: mostly leaders of a topic, large enough that files roll and snapshots come.
func (b *board) command() catalog.Command {
	img := b.confirmed
	switch {
	case len(img.Brokers()) == 0:
		return register()
	case img.Len() == 0 || b.rng.IntN(8) == 0 && img.Len() < 30:
		b.topics++
		return topic(b.topics)
	case b.rng.IntN(10) == 0:
		return catalog.AllocateProducerIDs{Broker: 1, Epoch: -1}
	}
	var id catalog.TopicID
	for t := range img.Topics() {
		id = t.ID
		if b.rng.IntN(4) == 0 {
			break
		}
	}
	return bulk(id, 1+b.rng.IntN(7000))
}

// run opens the quorum, checks that nothing confirmed is lost, and works until the power is cut in the n-th operation.
// Now and then a sync or a write fails before that.
func (b *board) run(n int64) error {
	b.fs.StopAt(n)
	return b.work(b.fs)
}

// work is one process's life on fs, which is b.fs or something before it that fails. Only what the board lost or made up
// is an error.
func (b *board) work(fs disk.FS) error {
	q, err := quorum.Open(quorum.Config{Dir: filepath.Join(b.dir, "quorum"), FS: fs, NodeID: 1})
	if err != nil {
		if errors.Is(err, disktest.ErrCut) || errors.Is(err, errKilled) || errors.Is(err, syscall.EIO) {
			return nil
		}
		return err
	}
	defer func() {
		if err := q.Close(); err != nil && !errors.Is(err, disktest.ErrCut) && !errors.Is(err, errKilled) {
			b.t.Logf("close: %v", err)
		}
	}()
	if err := b.check(q); err != nil {
		return err
	}
	for {
		select {
		case <-b.fs.Stopped():
			return nil
		default:
		}
		switch b.rng.IntN(60) {
		case 0:
			b.fs.FailSync("quorum.log", syscall.EIO, 1)
		case 1:
			b.fs.FailSync("quorum.log.dir", syscall.EIO, 1)
		case 2:
			b.fs.FailSync("quorum.snapshot", syscall.EIO, 1)
		}
		b.tried = max(b.tried, b.confirmed.Version()) + 1
		img, err := q.Propose(b.t.Context(), b.command())
		switch {
		case err == nil:
			b.confirmed, b.tried = img, img.Version()
		case errors.Is(err, errKilled):
			return nil
		case !errors.Is(err, quorum.ErrUnavailable):
			return err
		}
	}
}

// check: the recovered image is the confirmed one, or one a proposal without an answer led to.
func (b *board) check(q *quorum.Quorum) error {
	got, r := q.Image(), q.Report()
	switch {
	case r.Lost || len(r.Damage) > 0:
		return fmt.Errorf("a power cut is reported as damage: %+v", r)
	case got.Version() < b.confirmed.Version() || got.Version() > max(b.tried, b.confirmed.Version()):
		return fmt.Errorf("recovered version %d, confirmed %d, tried %d", got.Version(), b.confirmed.Version(), b.tried)
	case got.Version() == b.confirmed.Version() && !got.Equal(b.confirmed):
		return fmt.Errorf("version %d is not what was confirmed", got.Version())
	}
	// Seen is as good as confirmed: a later power cut must not take it back.
	b.confirmed, b.tried = got, got.Version()
	return nil
}

// cut takes the power away and goes on with a disk as it might be then.
func (b *board) cut() error {
	b.cuts++
	next := filepath.Join(filepath.Dir(b.dir), fmt.Sprintf("disk-%d", b.cuts))
	if err := b.fs.Cut(b.rng, next); err != nil {
		return err
	}
	if err := os.RemoveAll(b.dir); err != nil {
		return err
	}
	b.dir = next
	b.mount()
	return nil
}

func (b *board) live(cuts int) error {
	for range cuts {
		n := int64(1 + b.rng.IntN(30))
		if b.long || b.rng.IntN(3) == 0 {
			n += int64(b.rng.IntN(400)) // long enough for files to roll and snapshots to push each other out
		}
		if err := b.run(n); err != nil {
			return fmt.Errorf("cut %d: %w", b.cuts, err)
		}
		if err := b.cut(); err != nil {
			return err
		}
	}
	return nil
}

// TestPowerCut cuts the power at random operations, during recovery too, with failing syncs in between.
func TestPowerCut(t *testing.T) {
	b := newBoard(t, random(t), "")
	if err := b.live(*cuts); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d cuts, %d commands confirmed", b.cuts, b.confirmed.Version())
}

// TestEverySyncIsNeeded leaves out one sync after the other and expects that something confirmed is lost.
func TestEverySyncIsNeeded(t *testing.T) {
	for _, point := range []disk.Point{"quorum.log", "quorum.log.dir", "quorum.create", "quorum.vote", "quorum.snapshot", "quorum.snapshot.dir"} {
		t.Run(string(point), func(t *testing.T) {
			rng := random(t)
			for range 60 {
				b := newBoard(t, rng, point)
				// A lost snapshot is only missed once the next one has let the log go that it stood for.
				b.long = strings.HasPrefix(string(point), "quorum.snapshot")
				cuts := 10
				if point == "quorum.vote" {
					cuts = 2 // the file's first sync is the one that is missed
				}
				if err := b.live(cuts); err != nil {
					t.Log(err)
					return
				}
			}
			t.Errorf("nothing was lost without %s", point)
		})
	}
}
