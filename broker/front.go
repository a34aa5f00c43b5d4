package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"millrace/broker/journal"
	"millrace/broker/partition"
	"millrace/hw/bus"
	"millrace/hw/storage"
	"millrace/platform/config"
)

// slotsShare is the part of the FRAM that the checkpoint's slots have, at its end; the journal has the rest.
const slotsShare = 4

// memories are the parts of the FRAM that [journal] names; nil where it names none, or it does not answer.
type memories struct {
	front journal.Front
	slots partition.CheckpointStore
	err   error // why there are none where there should be some
}

// openFront opens the FRAM that [journal] names. A chip that does not answer is no error here: whether the board can do
// without it the journal knows.
func (b *Broker) openFront(context.Context) error {
	s := b.config.Settings
	if s.Journal.Front == "" {
		return nil
	}
	at := slices.IndexFunc(s.FRAMs, func(f config.FRAM) bool { return f.Name == s.Journal.Front })
	if at < 0 {
		return fmt.Errorf("front in [journal]: there is no [[fram]] named %q", s.Journal.Front)
	}
	c := s.FRAMs[at]
	if err := storage.Known(c.Driver); err != nil {
		return fmt.Errorf("driver in [[fram]] %q: %w", c.Name, err)
	}
	if err := b.openChip(c); err != nil {
		b.memories.err = fmt.Errorf("[[fram]] %q: %w", c.Name, err)
	}
	return nil
}

func (b *Broker) openChip(c config.FRAM) error {
	port, err := b.buses.OpenSPI(c.Bus, busTimeout(b.config.Settings.Buses, c.Bus))
	if err != nil {
		return err
	}
	chip, err := storage.NewFRAM(port, c.Driver, storage.Options{})
	if err != nil {
		return errors.Join(err, port.Close())
	}
	b.owns(func() error {
		if err := chip.Halt(); err != nil {
			b.log.Warn("FRAM not put to sleep", "err", err) // all it holds is written
		}
		return port.Close()
	})
	share := chip.Size() / slotsShare
	front, err := chip.Section(0, chip.Size()-share)
	if err != nil {
		return err
	}
	slots, err := chip.Section(chip.Size()-share, share)
	if err != nil {
		return err
	}
	b.memories = memories{front: front, slots: slots}
	b.log.Info("small commits are acknowledged from FRAM", "chip", chip.String(), "bytes", front.Size())
	return nil
}

// busTimeout is what a [[bus]] of that name says, or the default.
func busTimeout(buses []config.Bus, name string) time.Duration {
	for _, c := range buses {
		if c.Name == name {
			return c.Timeout
		}
	}
	return config.BusTimeout
}

// registry is the buses of the board: the kernel's, and what the configuration of a test adds.
func registry(r *bus.Registry) *bus.Registry {
	if r == nil {
		return &bus.Registry{}
	}
	return r
}

// refused says what to do about a front that the journal refuses.
func refused(err error) error {
	if !errors.Is(err, journal.ErrFront) {
		return err
	}
	return fmt.Errorf("%w; acknowledged records may be lost without it: give this board the FRAM it had and name it with "+
		"front in [journal], or start once with --forget-front to go on without what it holds", err)
}
