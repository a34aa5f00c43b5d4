package powercut

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"millrace/broker/disk/disktest"
	"millrace/broker/journal"
	"millrace/hw/bus/sim"
	"millrace/hw/storage"
)

// The journal with a simulated FRAM chip in front of it, through the driver: the power goes for the disk and the chip at
// once, at an operation of the disk or in the middle of a byte of the chip.
func TestJournalWithAFront(t *testing.T) {
	n, first := max(*cuts/8, 400), *seed
	if first == 0 {
		first = rand.Uint64() >> 1
	}
	t.Logf("%d cuts from seed %d", n, first)
	var sum logTally
	for i := 0; i*worldCuts < n; i++ {
		seed := first + uint64(i)
		w := &logWorld{rng: rand.New(rand.NewPCG(seed, 78)), front: newFrontWorld()}
		tally, err := w.live(scratch(t), seed, "", worldCuts)
		if err != nil {
			t.Fatalf("%v\nagain: go test ./testbench/powercut -run %s -seed %d -cuts 1 -v", err, t.Name(), seed)
		}
		sum.acked += tally.acked
		sum.survived += tally.survived
		sum.drops += tally.drops
		sum.inRecovery += tally.inRecovery
		sum.front.sum(tally.front)
	}
	t.Logf("%+v", sum)
	f := sum.front
	if n >= 400 && (sum.acked == 0 || sum.drops == 0 || f.fronted == 0 || f.drains == 0 || f.failed == 0 || f.cut == 0 ||
		f.replayed == 0 || f.syncs >= f.commits) {
		t.Errorf("nothing proved: %+v", sum)
	}
}

type frontTally struct {
	commits, syncs  int64
	fronted, drains int64 // commits acknowledged from the chip, times it was emptied
	failed          int64 // times it failed at run time
	replayed        int64 // frames that a start found in the chip and nowhere else
	cut             int64 // lives that ended in a byte of the chip
}

func (t *frontTally) add(s journal.Stats, w *frontWorld) {
	t.sum(frontTally{commits: s.Commits, syncs: s.Syncs, fronted: s.Fronted, drains: s.Drains, failed: s.FrontFailed})
	if w.cut {
		t.cut++
	}
}

func (t *frontTally) sum(o frontTally) {
	t.commits += o.commits
	t.syncs += o.syncs
	t.fronted += o.fronted
	t.drains += o.drains
	t.failed += o.failed
	t.replayed += o.replayed
	t.cut += o.cut
}

var errBus = errors.New("the bus says no")

// frontWorld is the chip, which lives through all cuts.
type frontWorld struct {
	chip *sim.FRAM
	cut  bool // this life's power went in it
}

func newFrontWorld() *frontWorld {
	return &frontWorld{chip: sim.NewFRAM(8<<10, []byte{0x04, 0x7f, 0x03, 0x02})}
}

// begin gives the chip power and puts it in front of a journal.
func (w *frontWorld) begin(rng *rand.Rand, fs *disktest.FS, o *journal.Options) error {
	w.chip.Power()
	w.cut = false
	fram, err := storage.NewFRAM(w.chip, "mb85rs64v", storage.Options{})
	if err != nil {
		return fmt.Errorf("the chip: %w", err)
	}
	part, err := fram.Section(1000, 3000) // smaller than some commits
	if err != nil {
		return err
	}
	if rng.IntN(2) == 0 {
		w.chip.Cut(rng.IntN(12000), byte(rng.Uint32()))
	}
	o.Front = &framFront{part, w, fs}
	return nil
}

// fail has the bus fail for the rest of this life.
func (w *frontWorld) fail() { w.chip.Fail(errBus) }

// framFront is the chip on the same power as the disk.
type framFront struct {
	*storage.Section
	world *frontWorld
	fs    *disktest.FS
}

func (f *framFront) stopped() bool {
	select {
	case <-f.fs.Stopped():
		return true
	default:
		return false
	}
}

func (f *framFront) ReadAt(p []byte, off int64) (int, error) {
	if f.stopped() {
		return 0, disktest.ErrCut
	}
	return f.Section.ReadAt(p, off)
}

func (f *framFront) WriteAt(p []byte, off int64) (int, error) {
	if f.stopped() {
		return 0, disktest.ErrCut
	}
	n, err := f.Section.WriteAt(p, off)
	if errors.Is(err, sim.ErrPower) {
		f.world.cut = true
		f.fs.Stop()
	}
	return n, err
}
