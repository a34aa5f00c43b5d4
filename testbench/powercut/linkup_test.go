package powercut

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
	"millrace/broker"
	"millrace/broker/disk"
	"millrace/broker/partition"
	"millrace/broker/record"
)

// Names, Count, Configs and OnAdvance implement upstream.Log.
func (h *harbour) Names() []string { return []string{"up.a"} }

// Count is how many partitions a topic has.
func (h *harbour) Count(topic string) int32 { return int32(len(h.list[topic])) }

// Configs is nothing.
func (h *harbour) Configs(string) map[string]string { return nil }

// OnAdvance has fn called by add.
func (h *harbour) OnAdvance(fn func(string, [16]byte, int32)) (cancel func()) {
	h.tell = fn
	return func() {}
}

// memories are the files of a link that goes up: the cursors as it knew them last, and how far it was.
func (h *harbour) memories() (hint, delivered upstream.Memory) {
	dir := filepath.Join(h.data, "upstream")
	return broker.LinkMemory(h.fs, filepath.Join(dir, "hq.cursors")), broker.LinkMemory(h.fs, filepath.Join(dir, "hq.delivered"))
}

// rise has the link that goes up run.
func (h *harbour) rise() error {
	hint, delivered := h.memories()
	var err error
	h.up, err = upstream.New(upstream.Config{Name: "hq", Board: "board", Topics: []string{"up.*"}, Linger: -1}, upstream.Env{
		Log: h, Clock: upstreamtest.Clock{}, Remote: h.kafka.Client(), Backoff: quick{}, Hint: hint, Memory: delivered, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	h.run(h.up.Run)
	return nil
}

// add appends a record to the board, and waits until it is acknowledged.
func (h *harbour) add() error {
	h.n++
	p := h.store.Get(h.image.Topic("up.a").ID, int32(h.rng.IntN(2)))
	size := h.rng.IntN(300)
	if h.rng.IntN(8) == 0 {
		size = inlineMax + h.rng.IntN(2000)
	}
	answer := make(chan error, 1)
	p.AppendRecords([]record.Record{{Timestamp: h.now().UnixMilli(), Value: value(uint64(h.n), size)}}, partition.AppendOptions{Epoch: -1},
		func(r partition.AppendResult) { answer <- r.Err })
	err := <-answer
	if h.tell != nil {
		h.tell(p.Topic(), p.TopicID(), p.Index())
	}
	return err
}

// given has records go up, in several lives of the link, each of which leaves its files.
func (h *harbour) given() (err error) {
	for i := 0; i < 3 && err == nil && !h.over(); i++ {
		err = h.rise()
		for k := 0; k < 3 && err == nil && !h.over(); k++ {
			for range 1 + h.rng.IntN(3) {
				err = errors.Join(err, h.add())
			}
			err = errors.Join(err, h.idle(h.up.Status))
		}
		time.Sleep(time.Hour) // of the bubble: the files are not written all the time
		if err == nil {
			h.end()
			h.end = nil
		}
	}
	return err
}

// lookUp has the next life deliver what is missing, and compares both ends: what is on the board is upstream, once and in order.
func (a *ashore) lookUp(data string) (err error) {
	h, err := a.begin(unsynced(), data)
	defer func() { err = errors.Join(err, h.close()) }()
	if err != nil {
		return err
	}
	hint, delivered := h.memories()
	for _, m := range []upstream.Memory{hint, delivered} {
		text, err := m.Load()
		if err != nil {
			return fmt.Errorf("LOST: a file of the link is neither old nor new: %w", err)
		}
		if len(text) > 0 {
			a.left.files++
		}
	}
	err = h.rise()
	for range 3 {
		err = errors.Join(err, h.add())
	}
	if err = errors.Join(err, h.idle(h.up.Status)); err != nil {
		return err
	}
	for i, p := range h.list["up.a"] {
		want, err := recordsOf(p)
		if err != nil {
			return err
		}
		got := a.kafka.Committed("up.a", i)
		for k := range max(len(want), len(got)) {
			if k >= len(got) || k >= len(want) || !bytes.Equal(got[k].Value, want[k].Value) {
				return fmt.Errorf("LOST or TWICE: partition %d has %d records, %d are upstream, and they differ from %d on: %+v", i, len(want), len(got), k, h.up.Status())
			}
		}
	}
	return nil
}

// givenCut is one world: a cut in the at-th operation on the disk without one of the syncs, 0: after all of them.
func givenCut(t *testing.T, seed uint64, at int64, skip disk.Point) (ops int64, left left, err error) {
	dir := filepath.Join(scratch(t), fmt.Sprint(at))
	synctest.Test(t, func(*testing.T) {
		var a *ashore
		if a, err = newAshore(dir, seed); err != nil {
			return
		}
		if skip != "" {
			a.fs.Skip(skip)
		}
		if ops, err = a.play(at, (*harbour).given); err == nil {
			err = a.cutInto(1, a.lookUp) // it changes what is upstream
		}
		left = a.left
	})
	if err != nil {
		err = fmt.Errorf("cut in operation %d: %w", at, err)
	}
	return ops, left, errors.Join(err, os.RemoveAll(dir))
}

// What went up was on flash, and the files of the link are whole or not there: whatever cut comes in whatever operation on the
// disk, the next life goes on with what is missing.
func TestCutAtEveryOperationOfALinkThatGoesUp(t *testing.T) {
	begin := uint64(time.Now().UnixNano())
	if *seed != 0 {
		begin = *seed
	}
	ops, _, err := givenCut(t, begin, 0, "")
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for at := int64(1); at <= ops; at++ {
		_, left, err := givenCut(t, begin, at, "")
		if err != nil {
			t.Errorf("%v\nagain: go test ./testbench/powercut -run %s -seed %d", err, t.Name(), begin)
		}
		files += left.files
	}
	t.Logf("%d operations, seed %d; %d files of the link were left", ops, begin, files)
	if ops < 50 || files < 20 {
		t.Error("too little has happened to prove anything")
	}
}

// Without a sync that is before what went up, or of the link's files, that is found out.
func TestWhatALinkNeedsOfTheDiskIsFound(t *testing.T) {
	for _, skip := range []disk.Point{"journal.commit", "meta.file"} {
		t.Run(string(skip), func(t *testing.T) {
			ops, _, _ := givenCut(t, 1, 0, "")
			for at := int64(1); at <= ops; at++ {
				if _, _, err := givenCut(t, 1, at, skip); err != nil {
					t.Logf("found: %v", err)
					return
				}
			}
			t.Errorf("not found in %d cuts", ops)
		})
	}
}
