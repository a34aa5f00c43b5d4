package vm

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/testbench/lane"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// up is what the console says when everything has started.
const up = "is active, up"

// shownSecret is what the console says before the secret of a new board.
const shownSecret = "secret  "

// memoryMax is what a serving board may have in use, in bytes.
const memoryMax = 90 << 20

// memoryOwn asks the kernel what the broker has for itself, and what of the page cache counts for it.
const memoryOwn = `grep -E "^(anon|file|kernel) " /sys/fs/cgroup/system.slice/millrace.service/memory.stat`

// sizeMax is how much there may be to download of an image, in bytes.
const sizeMax = 64 << 20

// acknowledged switches a board on and returns how long it took until a first record was acknowledged. The record is
// entered.
func acknowledged(t *testing.T, b *Board, l *ledger, life string, args ...string) Took {
	t.Helper()
	b.Start(args...)
	if b.Secret == "" { // a new board shows it, this once
		words := strings.Fields(b.Await(shownSecret).Text)
		b.Secret = words[len(words)-1]
	}
	client := connect(t.Context(), t, b.door())
	defer client.Disconnect(0)
	if err := publish(client, l, life, 1); err != nil {
		t.Fatalf("%s: %v", life, err)
	}
	return b.Took()
}

// says expects that the console of this life has said something.
func (b *Board) says(t *testing.T, text string) {
	t.Helper()
	if !b.Console.Has(text) {
		t.Errorf("the console does not say %q", text)
	}
}

func holds(t *testing.T, b *Board, l *ledger) []stored {
	t.Helper()
	log := read(t, b.door(), topic)
	for _, fault := range l.verdict(log) {
		t.Error(fault)
	}
	t.Logf("%d messages acknowledged, %d in the log", l.len(), len(log))
	if len(log) == 0 {
		t.Fatal("the log is empty")
	}
	return log
}

// One board through its life: a new card, an empty boot to compare with, a boot that serves, the plug pulled under load
// again and again, and a boot without a clock and with wrong settings. Nothing acknowledged is lost, and nobody is asked.
func TestABoardServesAndSurvives(t *testing.T) {
	t.Parallel()
	b := New(t)
	packed, err := os.Stat(filepath.Join(built.dir, "disk.img.zst"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the image was built in %.0f s; to download: %.1f MiB", built.took.Seconds(), float64(packed.Size())/(1<<20))
	if packed.Size() > sizeMax {
		t.Errorf("the image has %d bytes, want %d at most", packed.Size(), sizeMax)
	}
	l := newLedger()

	first := acknowledged(t, b, l, "new")
	b.Await(up)
	b.says(t, "there is no data partition")
	b.says(t, "a fresh data partition")
	b.says(t, b.fingerprint())
	holds(t, b, l)
	b.Kill()

	b.Hand()
	b.Kernel("millrace.off")
	b.Start()
	b.Await("is inactive, up")
	empty := b.Took()
	emptyMemory, _ := b.MemoryUsed()
	b.Kill()

	b.Kernel("")
	serving := acknowledged(t, b, l, "serving")
	b.Await(up)
	client := connect(t.Context(), t, b.door())
	if err := publish(client, l, "load", 2000); err != nil {
		t.Fatal(err)
	}
	memory, all := b.MemoryUsed()
	own := b.Do(memoryOwn)
	client.Disconnect(0)
	holds(t, b, l)
	if b.Console.Has(shownSecret) {
		t.Error("the secret is shown again")
	}
	t.Logf("power-on to the first acknowledged record: %.1f s, %.2f of an empty boot; %.1f s of CPU time, %.2f of it; with a new card %.1f s",
		serving.Wall.Seconds(), serving.Wall.Seconds()/empty.Wall.Seconds(),
		serving.CPU.Seconds(), serving.CPU.Seconds()/empty.CPU.Seconds(), first.CPU.Seconds())
	t.Logf("memory in use: %.1f MiB, %.2f of an empty boot; of all %d MiB with the kernel %.1f; of the broker (bytes): %s",
		float64(memory)/(1<<20), float64(memory)/float64(emptyMemory), Memory>>20, float64(all)/(1<<20), strings.ReplaceAll(own, "\n", " "))
	if all > memoryMax {
		t.Errorf("%d bytes are in use, want %d at most", all, memoryMax)
	}
	b.Kill()

	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	kills := lane.Count("MILLRACE_VM_KILLS", 10)
	for n := range kills {
		b.Start()
		client := connect(t.Context(), t, b.door())
		before, done := l.len(), make(chan error, 1)
		go func() { done <- publish(client, l, fmt.Sprint("kill ", n), 1_000_000) }()
		enough := before + 100 + rng.IntN(900)
		waitFor(t, "acknowledgements under load", func() bool { return l.len() >= enough })
		b.Kill()
		if err := <-done; err == nil {
			t.Fatal("the load ended before the plug was pulled")
		}
		client.Disconnect(0)
	}
	t.Logf("seed %#x: the plug was pulled %d times", seed, kills)

	floor := time.Now().Add(-time.Hour)
	b.Settings("[broker]\nlisteners = 7\n")
	acknowledged(t, b, l, "1970", "-rtc", "base=1970-01-01T00:00:00")
	b.Await(up)
	b.says(t, "is refused")
	b.says(t, "listeners")
	b.says(t, "the last good millrace.toml stays in force")
	log := holds(t, b, l)
	if last := log[len(log)-1]; last.at.Before(floor) {
		t.Errorf("a board without a clock is at %v, want the time it last knew, %v", last.at, floor)
	}
	b.Kill()
}

// What is damaged is repaired; what cannot be repaired is kept aside, and the board serves on a fresh partition.
func TestADamagedCardIsMended(t *testing.T) {
	t.Parallel()
	b := New(t)
	b.Provision()
	l := newLedger()
	acknowledged(t, b, l, "before")
	client := connect(t.Context(), t, b.door())
	if err := publish(client, l, "before too", 200); err != nil {
		t.Fatal(err)
	}
	client.Disconnect(0)
	b.Kill()

	first, size := b.Partition("data")
	b.Wipe(first, 4096) // the superblock; its copies are further on
	acknowledged(t, b, l, "mended")
	b.Await(up)
	b.says(t, "the data partition was repaired")
	holds(t, b, l)
	b.Kill()

	b.Wipe(first, size)
	fresh := newLedger()
	acknowledged(t, b, fresh, "fresh")
	b.Await(up)
	b.says(t, "it is kept as data-damaged")
	b.says(t, "a fresh data partition")
	holds(t, b, fresh)
	b.Kill()
	kept, keptSize := b.Partition("data-damaged")
	other, otherSize := b.Partition("data")
	if kept != first || keptSize < size/2 || other < kept+keptSize || otherSize < 128<<20 {
		t.Errorf("the damaged partition of %d bytes at %d is kept as %d bytes at %d; data is %d bytes at %d",
			size, first, keptSize, kept, otherSize, other)
	}

	b.Wipe(512, 33*512) // the partition table; its copy is at the end of the card
	acknowledged(t, b, fresh, "again")
	b.Await(up)
	b.says(t, "it was written again from the other")
	holds(t, b, fresh)
	if b.Console.Has("data partition is damaged") {
		t.Error("the fresh partition is found damaged")
	}
	b.Kill()
}

// waitFor waits for what another goroutine does.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for begin := time.Now(); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > patience {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
