package broker

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"periph.io/x/conn/v3/spi"

	"millrace/broker/disk"
	"millrace/broker/journal"
	"millrace/hw/bus"
	"millrace/hw/bus/sim"
	"millrace/platform/config"
)

// chipped opens a board with a simulated FRAM as the journal's front.
func chipped(t *testing.T, dir string, chip *sim.FRAM, forget bool) (*Broker, error) {
	t.Helper()
	var buses bus.Registry
	buses.AddSPI("SPI0.0", func() (spi.PortCloser, error) { return chip, nil })
	s := config.Default()
	s.Broker.LogDirs, s.Broker.ClusterAlias = dir, "test"
	s.Broker.Listeners, s.MQTT.Listeners = []string{"PLAINTEXT://127.0.0.1:0"}, []string{"tcp://127.0.0.1:0"}
	s.HTTP.Listener = ""
	if chip != nil {
		s.Journal.Front = "fm25"
		s.FRAMs = []config.FRAM{{Name: "fm25", Bus: "SPI0.0", Driver: "mb85rs256b"}}
	}
	return Open(t.Context(), Config{Settings: s, Buses: &buses, ForgetFront: forget})
}

func newChip() *sim.FRAM { return sim.NewFRAM(32<<10, []byte{0x04, 0x7f, 0x05, 0x09}) }

func closed(t *testing.T, b *Broker) {
	t.Helper()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// end is the offset after the last record of partition 0.
func end(t *testing.T, b *Broker, topic string) int64 {
	t.Helper()
	list, ok := b.Topic(topic)
	if !ok {
		t.Fatalf("no topic %s", topic)
	}
	return list[0].High()
}

func TestABoardAcknowledgesFromItsFRAM(t *testing.T) {
	dir, chip := t.TempDir(), newChip()
	b, err := chipped(t, dir, chip, false)
	if err != nil {
		t.Fatal(err)
	}
	appendOne(t, b, "climate", "first")
	before := b.journal.Stats()
	for range 20 {
		appendOne(t, b, "climate", "21.5")
	}
	if s := b.journal.Stats(); s.Fronted-before.Fronted != 20 || s.Syncs != before.Syncs || s.FrontBytes == 0 {
		t.Errorf("%+v, then %+v", before, s)
	}
	// The power goes: what is on the disk, and the chip as it is.
	cut := filepath.Join(t.TempDir(), "data")
	copied(t, cut, dir)
	kept, theirs := newChip(), newChip()
	clone(kept, chip)
	clone(theirs, chip)
	closed(t, b)

	r, err := Fsck(disk.OS{}, cut, nil)
	if err != nil || r.Damaged() || !strings.Contains(text(r), "FRAM") {
		t.Errorf("fsck: %v, %s", err, text(r))
	}
	if _, err := chipped(t, cut, nil, false); !errors.Is(err, journal.ErrFront) || !strings.Contains(err.Error(), "--forget-front") {
		t.Errorf("without the chip: %v", err)
	}
	if _, err := chipped(t, cut, newChip(), false); !errors.Is(err, journal.ErrFront) {
		t.Errorf("with a new chip: %v", err)
	}
	if b, err = chipped(t, cut, kept, false); err != nil {
		t.Fatal(err)
	}
	if n := end(t, b, "climate"); n != 21 {
		t.Errorf("%d records of 21", n)
	}
	closed(t, b)
	if b, err = chipped(t, cut, nil, false); err != nil { // after a clean stop the chip is not needed
		t.Fatal(err)
	}
	if n := end(t, b, "climate"); n != 21 {
		t.Errorf("%d records of 21 without the chip", n)
	}
	closed(t, b)

	if _, err = chipped(t, t.TempDir(), theirs, false); !errors.Is(err, journal.ErrFront) || !errors.Is(err, journal.ErrForeign) {
		t.Errorf("another board's chip: %v", err)
	}
}

// clone copies what one chip holds to another.
func clone(to, from *sim.FRAM) {
	a, b := from.Memory(), to.Memory()
	for i := range a {
		to.Spoil(i, a[i]^b[i])
	}
}

func text(r *FsckReport) string {
	var all []string
	for _, f := range r.Findings {
		all = append(all, f.Text)
	}
	return strings.Join(all, "\n")
}

func TestABoardWhoseFRAMIsDeadServesAllTheSame(t *testing.T) {
	dir, chip := t.TempDir(), newChip()
	chip.Unplug()
	b, err := chipped(t, dir, chip, false)
	if err != nil {
		t.Fatal(err)
	}
	appendOne(t, b, "climate", "21.5")
	if s := b.journal.Stats(); s.Fronted != 0 || s.Syncs == 0 {
		t.Errorf("%+v", s)
	}
	closed(t, b)
	chip.Power()
	if b, err = chipped(t, dir, chip, false); err != nil { // it is back
		t.Fatal(err)
	}
	appendOne(t, b, "climate", "21.6")
	if s := b.journal.Stats(); s.Fronted == 0 {
		t.Errorf("%+v", s)
	}
	chip.Unplug() // and gone while it runs
	appendOne(t, b, "climate", "21.7")
	appendOne(t, b, "climate", "21.8")
	if s := b.journal.Stats(); s.FrontFailed == 0 || s.FrontBytes != 0 {
		t.Errorf("%+v", s)
	}
	if n := end(t, b, "climate"); n != 4 {
		t.Errorf("%d records of 4", n)
	}
	closed(t, b)
}

// copied is a running board's directory as a power cut leaves it; of its control socket nothing is left to be copied.
func copied(t *testing.T, to, dir string) {
	t.Helper()
	if err := errors.Join(os.Remove(filepath.Join(dir, controlName)), os.CopyFS(to, os.DirFS(dir))); err != nil {
		t.Fatal(err)
	}
}

func TestAForgottenFront(t *testing.T) {
	dir, chip := t.TempDir(), newChip()
	b, err := chipped(t, dir, chip, false)
	if err != nil {
		t.Fatal(err)
	}
	appendOne(t, b, "climate", "21.5")
	cut := filepath.Join(t.TempDir(), "data")
	copied(t, cut, dir)
	closed(t, b)
	if b, err = chipped(t, cut, newChip(), true); err != nil {
		t.Fatal(err)
	}
	appendOne(t, b, "climate", "21.6")
	closed(t, b)
	if b, err = chipped(t, cut, nil, false); err != nil {
		t.Fatal(err)
	}
	closed(t, b)
}
