package partition_test

import (
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/journal"
	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
)

// memory is a CheckpointStore that fails on demand.
type memory struct {
	bytes []byte
	err   error
	torn  int // bytes of the next write that are written before it fails; 0: all, and it does not
}

func newMemory(size int) *memory { return &memory{bytes: make([]byte, size)} }

func (m *memory) Size() int64 { return int64(len(m.bytes)) }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if m.err != nil {
		return 0, m.err
	}
	n := copy(p, m.bytes[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if m.err != nil {
		return 0, m.err
	}
	if m.torn > 0 {
		return copy(m.bytes[off:], p[:m.torn]), errDisk
	}
	return copy(m.bytes[off:], p), nil
}

// slot decodes one half.
func (m *memory) slot(n int) (partition.Slot, error) {
	return partition.DecodeSlot(m.bytes[n*len(m.bytes)/2 : (n+1)*len(m.bytes)/2])
}

func checkpoint(t *testing.T, w *partitiontest.World) {
	t.Helper()
	if err := w.Store.Checkpoint(); err != nil {
		t.Fatal(err)
	}
}

func fileSlots(t *testing.T, w *partitiontest.World) (newest partition.Slot) {
	t.Helper()
	for n := range 2 {
		if s, err := partition.ReadSlot(disk.OS{}, w.Dir, n); err == nil && s.Sequence > newest.Sequence {
			newest = s
		}
	}
	return newest
}

func beside(w *partitiontest.World) bool {
	_, err := os.Stat(partition.BesidePath(w.Dir))
	return err == nil
}

// withSlots is a store with a topic, ten records, a checkpoint of them in the memory, and ten more.
func withSlots(t *testing.T, m *memory) (*partitiontest.World, *partition.Partition) {
	w := partitiontest.New(t)
	w.Config.Slots = m
	w.Start()
	p := w.Create("a")
	partitiontest.Fill(t, p, 10)
	checkpoint(t, w)
	partitiontest.Fill(t, p, 10)
	return w, p
}

func holds(t *testing.T, w *partitiontest.World, n int) {
	t.Helper()
	if got := values(t, w.Partition("a")); !slices.Equal(got, want(0, int64(n))) {
		t.Errorf("holds %v, want %v", got, want(0, int64(n)))
	}
}

func TestCheckpointsAreInTheMemory(t *testing.T) {
	m := newMemory(1 << 10)
	w, _ := withSlots(t, m)
	first := fileSlots(t, w) // of the empty directory: it says whose the memory is
	slot, err := m.slot(0)
	if err != nil || slot.Sequence != first.Sequence+1 || slot.Mark.ID != first.Mark.ID || len(slot.Partitions) != 1 || !beside(w) {
		t.Fatalf("%+v, %v", slot, err)
	}
	w.Restart()
	if w.Report.Slots != 2 || w.Report.Gaps != 0 || w.Report.Entries != 10 {
		t.Errorf("%+v", w.Report)
	}
	holds(t, w, 20)
	checkpoint(t, w)
	partitiontest.Fill(t, w.Partition("a"), 5)
	if slot, err = m.slot(1); err != nil || slot.Partitions[0].Next != 20 {
		t.Errorf("%+v, %v", slot, err)
	}
	if got := fileSlots(t, w); got.Sequence != first.Sequence {
		t.Errorf("a file was written: %+v", got)
	}
	w.Restart()
	if w.Report.Entries != 5 {
		t.Errorf("%+v", w.Report)
	}
	holds(t, w, 25)
	checkpoint(t, w)
	if slot, err = m.slot(0); err != nil || slot.Partitions[0].Next != 25 {
		t.Errorf("the newer half was overwritten: %+v, %v", slot, err)
	}
}

func TestATornSlotInTheMemoryLeavesTheOther(t *testing.T) {
	m := newMemory(1 << 10)
	w := partitiontest.New(t)
	fs := disktest.New(disk.OS{})
	w.FS, w.Config.Slots = fs, m
	w.Start()
	p := w.Create("a")
	partitiontest.Fill(t, p, 10)
	checkpoint(t, w)
	partitiontest.Fill(t, p, 10)
	m.torn = 40 // the power goes in the middle of the next
	fs.FailWrite(func(name string) bool { return strings.Contains(name, "checkpoint.") }, errDisk, 1)
	if err := w.Store.Checkpoint(); err == nil {
		t.Fatal("a torn checkpoint went well")
	}
	w.Kill()
	m.torn = 0
	w.Start()
	if w.Report.Slots != 2 || w.Report.Gaps != 2 || w.Report.Entries != 10 { // the file is torn too
		t.Errorf("%+v", w.Report)
	}
	holds(t, w, 20)
	checkpoint(t, w)
	if slot, err := m.slot(1); err != nil || slot.Partitions[0].Next != 20 {
		t.Errorf("the torn half was not written first: %+v, %v", slot, err)
	}
}

func TestFromTheMemoryToFilesAndBack(t *testing.T) {
	m := newMemory(1 << 10)
	w, _ := withSlots(t, m)
	w.Stop() // leaves the newest slot in a file
	if got := fileSlots(t, w); beside(w) || got.Partitions[0].Next != 20 {
		t.Fatalf("%+v", got)
	}
	w.Config.Slots = nil
	w.Start()
	if w.Report.Gaps != 0 || w.Report.Entries != 0 {
		t.Errorf("%+v", w.Report)
	}
	partitiontest.Fill(t, w.Partition("a"), 10)
	checkpoint(t, w)
	w.Kill()
	w.Config.Slots = m // what it holds is older than the files
	w.Start()
	if w.Report.Gaps != 0 || w.Report.Entries != 0 {
		t.Errorf("%+v", w.Report)
	}
	holds(t, w, 30)
	partitiontest.Fill(t, w.Partition("a"), 10)
	checkpoint(t, w)
	w.Restart()
	if w.Report.Gaps != 0 || w.Report.Entries != 0 {
		t.Errorf("%+v", w.Report)
	}
	holds(t, w, 40)
}

// Without the memory the files' slots are older than what the journal has let go of: they are not believed.
func TestAMemoryThatIsGone(t *testing.T) {
	for name, gone := range map[string]func(w *partitiontest.World, m *memory){
		"not configured":  func(w *partitiontest.World, _ *memory) { w.Config.Slots = nil },
		"does not answer": func(_ *partitiontest.World, m *memory) { m.err = errDisk },
		"another one":     func(w *partitiontest.World, _ *memory) { w.Config.Slots = newMemory(1 << 10) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory(1 << 10)
			w, p := withSlots(t, m)
			checkpoint(t, w)
			partitiontest.Fill(t, p, 5)
			w.Kill()
			gone(w, m)
			w.Start()
			if w.Report.Slots != 0 || w.Report.Gaps == 0 || !strings.Contains(strings.Join(w.Report.Lost, "\n"), "FRAM") {
				t.Errorf("%+v", w.Report)
			}
			holds(t, w, 25)
			partitiontest.Fill(t, w.Partition("a"), 5)
			w.Restart()
			if name != "does not answer" && w.Report.Gaps != 0 {
				t.Errorf("%+v", w.Report)
			}
			holds(t, w, 30)
		})
	}
}

func TestSlotsOfAnotherBoardAreNotUsed(t *testing.T) {
	m := newMemory(1 << 10)
	w, _ := withSlots(t, m)
	w.Stop()
	other := partition.Slot{Sequence: 99, Mark: journal.Mark{ID: 0xbad, Index: 1000}}
	copy(m.bytes, other.Encode())
	w.Start()
	if w.Report.Gaps != 1 || !strings.Contains(w.Report.Lost[0], "not this directory's") {
		t.Errorf("%+v", w.Report)
	}
	holds(t, w, 20)

	fresh := partitiontest.New(t)
	fresh.Config.Slots = m
	fresh.Start()
	if fresh.Report.Slots != 0 || fresh.Report.Gaps == 0 {
		t.Errorf("a new directory: %+v", fresh.Report)
	}
}

func TestASlotThatDoesNotFitIsAFile(t *testing.T) {
	m := newMemory(250) // one partition in each half
	w, _ := withSlots(t, m)
	w.Create("b")
	before := fileSlots(t, w).Sequence
	checkpoint(t, w)
	if got := fileSlots(t, w); got.Sequence != before+2 || len(got.Partitions) != 2 || beside(w) {
		t.Errorf("%+v, beside %v", got, beside(w))
	}
	w.Restart()
	if w.Report.Gaps != 0 || w.Report.Entries != 0 {
		t.Errorf("%+v", w.Report)
	}
	holds(t, w, 20)
}

func TestAMemoryThatFailsAtRunTime(t *testing.T) {
	m := newMemory(1 << 10)
	w, p := withSlots(t, m)
	m.err = errDisk
	checkpoint(t, w)
	if got := fileSlots(t, w); got.Partitions[0].Next != 20 || beside(w) {
		t.Errorf("%+v, beside %v", got, beside(w))
	}
	partitiontest.Fill(t, p, 5)
	w.Restart() // it still fails, and is not needed
	if w.Report.Slots == 0 || w.Report.Entries != 5 {
		t.Errorf("%+v", w.Report)
	}
	holds(t, w, 25)
}

// The journal's front goes only when it is durable that the slot is in the memory; else a file is written.
func TestAMarkThatCannotBeMade(t *testing.T) {
	fs := disktest.New(disk.OS{})
	w := partitiontest.New(t)
	w.FS = fs
	w.Config.Slots = newMemory(1 << 10)
	w.Start()
	partitiontest.Fill(t, w.Create("a"), 10)
	fs.FailSync("checkpoint.directory", errDisk, 1)
	checkpoint(t, w)
	if got := fileSlots(t, w); len(got.Partitions) != 1 || got.Partitions[0].Next != 10 {
		t.Errorf("no file says it: %+v", got)
	}
	w.Restart()
	if w.Report.Gaps != 0 || w.Report.Entries != 0 {
		t.Errorf("%+v", w.Report)
	}
	holds(t, w, 10)
}
