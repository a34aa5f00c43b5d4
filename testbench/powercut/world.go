// Package powercut proves the first promise: acknowledged means on flash.
//
// A World is a store of partitions over a real journal on a real directory. It runs a workload made from a seed, the
// power is cut inside any one operation on the disk, and the next session begins on a disk as the cut might have left
// it. After each cut every acknowledged record must be there once, in order, at its offset and byte for byte, and so
// must every record a reader has ever been served; and nothing that was refused or deleted may be there. Of a compacted topic
// it must be that record or a later one of its key.
package powercut

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"millrace/broker"
	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/journal"
	"millrace/broker/partition"
	"millrace/broker/record"
)

const (
	inlineMax    = 4 << 10  // shares from here on go as pointers
	walSegment   = 24 << 10 // so that the journal rolls often
	logSegment   = 24 << 10 // and the partitions too
	retainBytes  = 60 << 10
	mostOps      = 400 // changing operations of the disk before the cut, at most
	mostSteps    = 120 // steps of the workload, at most
	answerWithin = time.Minute
	checkEvery   = 8 // disks, of which fsck looks at one
)

// Config is what a world is made from.
type Config struct {
	Dir  string // empty, for the disks
	Seed uint64
	// Skip makes one sync point of the code lie, to prove that it is needed.
	Skip disk.Point
	// Trace, if set, is told every step.
	Trace func(format string, args ...any)
}

// World is one board and its power cuts.
type World struct {
	cfg   Config
	rng   *rand.Rand
	model *model
	cuts  int
	disk  string // root of the disk the next session runs on
	now   time.Time
	tally Tally

	fs      *disktest.FS
	store   *partition.Store
	builder *record.Builder
	ties    []tie
	faulted bool // a fault was switched on in this session: refusals are no surprise

	mu       sync.Mutex // guards the model's partitions and what follows while answers may come
	failure  error
	answered sync.WaitGroup
}

// Tally counts what worlds did, so that a run can show that it tried what it claims to.
type Tally struct {
	Cuts, InRecovery                             int
	Acked, Refused, Unanswered, Served, Survived int // records
	Pointed, Rolls, Starts, Truncations          int
	Creates, Deletes, Checkpoints, Faults, Stops int
	Offline                                      int   // partitions that a failing disk kept from opening
	Repeats                                      int   // batches of idempotent producers sent again
	Fscks                                        int   // disks that fsck looked at
	Compactions                                  int   // that came to their end
	Compacted                                    int64 // bytes they saved
	Ties, TiesKept                               int   // records appended together that a cut met; that it left there
}

// New makes a world with an empty disk.
func New(cfg Config) (*World, error) {
	w := &World{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x9e3779b97f4a7c15)), model: newModel(),
		disk: filepath.Join(cfg.Dir, "disk-0"), now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC),
		builder: record.NewBuilder(record.None),
	}
	if cfg.Trace == nil {
		w.cfg.Trace = func(string, ...any) {}
	}
	data := filepath.Join(w.disk, "data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return nil, err
	}
	_, err := broker.Format(disk.OS{}, data, broker.RandomUUID(), 1)
	return w, err
}

// Tally is what the world did so far.
func (w *World) Tally() Tally { return w.tally }

// Cut runs one session: start on what the last cut left, compare with what was promised, work, and be cut.
func (w *World) Cut() error {
	w.fs = disktest.New(disk.OS{})
	if w.cfg.Skip != "" {
		w.fs.Skip(w.cfg.Skip)
	}
	if err := w.fs.Record(w.disk); err != nil {
		return err
	}
	w.fs.WAL(filepath.Join(w.disk, "data", "journal"))
	w.faulted = false
	at := int64(1 + w.rng.IntN(mostOps))
	stop := false
	switch w.rng.IntN(20) {
	case 0, 1, 2, 3:
		at = int64(1 + w.rng.IntN(40)) // likely in recovery
	case 4:
		stop, at = true, 10*mostOps // a clean stop, or one that is cut
	}
	w.fs.StopAt(at)
	w.cfg.Trace("session %d: cut in operation %d", w.cuts, at)

	err := w.session(stop)
	w.fs.Stop()
	if err == nil {
		err = w.failed()
	}
	if err != nil {
		return fmt.Errorf("seed %d, cut %d: %w", w.cfg.Seed, w.cuts, err)
	}
	w.cuts++
	w.tally.Cuts++
	old := w.disk
	w.disk = filepath.Join(w.cfg.Dir, fmt.Sprintf("disk-%d", w.cuts))
	if err := w.fs.Cut(w.rng, w.disk); err != nil {
		return err
	}
	if err := w.fsck(); err != nil {
		return fmt.Errorf("seed %d, after cut %d: %w", w.cfg.Seed, w.cuts-1, err)
	}
	return os.RemoveAll(old)
}

// fsck looks at every few disks before anybody starts on them: what a power cut leaves is no damage.
func (w *World) fsck() error {
	if w.rng.IntN(checkEvery) != 0 {
		return nil
	}
	w.tally.Fscks++
	r, err := broker.Fsck(disk.OS{}, filepath.Join(w.disk, "data"), nil)
	if err != nil {
		return fmt.Errorf("fsck: %w", err)
	}
	for _, f := range r.Findings {
		if f.Damage {
			return fmt.Errorf("fsck: %s: %s", f.Path, f.Text)
		}
	}
	return nil
}

// session is one power-on, with a clean stop at its end if the power lasts so long. It returns when the power is cut or an invariant is broken.
func (w *World) session(stop bool) error {
	store, report, err := partition.Open(partition.Config{
		Dir: filepath.Join(w.disk, "data"), FS: w.fs, Known: w.known, Named: w.named, Now: w.clock,
		JournalBytesMax: 128 << 10, Handles: 12,
		OpenJournal: func(after journal.Mark) (partition.Journal, error) {
			j, err := journal.Open(journal.Options{
				Dir: filepath.Join(w.disk, "data", "journal"), FS: w.fs,
				SegmentBytes: walSegment, InlineMax: inlineMax, FrameMax: 64 << 10,
			}, after)
			if err != nil {
				return nil, err
			}
			return j, nil
		},
	})
	if err != nil {
		if w.stopped() {
			w.tally.InRecovery++
			return nil
		}
		return fmt.Errorf("does not start: %w", err)
	}
	w.store = store
	err = w.compare(report)
	for step := 0; err == nil && step < mostSteps && !w.stopped() && w.failed() == nil; step++ {
		err = w.step()
	}
	if err == nil && stop && !w.stopped() {
		if w.rng.IntN(2) == 0 {
			w.fs.StopAt(int64(1 + w.rng.IntN(60)))
		}
		w.tally.Stops++
		w.cfg.Trace("close")
		return w.end()
	}
	w.fs.Stop()
	return errors.Join(err, w.end())
}

// end closes the store and waits for every answer.
func (w *World) end() error {
	done := make(chan error, 1)
	go func() {
		err := w.store.Close()
		w.answered.Wait()
		done <- err
	}()
	timeout := time.NewTimer(answerWithin)
	defer timeout.Stop()
	select {
	case err := <-done:
		if err != nil && !w.stopped() && !w.faulted {
			return fmt.Errorf("close: %w", err)
		}
	case <-timeout.C:
		return errors.New("an append was never answered, or Close hangs")
	}
	for _, t := range w.model.order {
		for _, p := range t.parts {
			w.tally.Unanswered += len(p.pending)
		}
	}
	return nil
}

func (w *World) stopped() bool {
	select {
	case <-w.fs.Stopped():
		return true
	default:
		return false
	}
}

func (w *World) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failure
}

func (w *World) fail(err error) {
	if w.failure == nil {
		w.failure = err
	}
}

func (w *World) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *World) known(id catalog.TopicID) (partition.Topic, catalog.TopicConfig, bool) {
	t := w.model.topics[id]
	if t == nil {
		return partition.Topic{}, catalog.TopicConfig{}, false
	}
	return partition.Topic{ID: t.id, Name: t.name}, t.config, true
}

func (w *World) named(name string) (partition.Topic, catalog.TopicConfig, bool) {
	for _, t := range w.model.order {
		if t.name == name {
			return w.known(t.id)
		}
	}
	return partition.Topic{}, catalog.TopicConfig{}, false
}

// compare reads everything after a start and holds it against what was promised; then it goes on from there.
func (w *World) compare(report partition.Report) error {
	for _, loss := range report.Lost {
		if !strings.HasSuffix(loss, partition.ErrSlot.Error()) { // the cut came while it was written: the other one holds
			return fmt.Errorf("recovery tells of damage where there was none: %q", report.Lost)
		}
	}
	for p := range w.store.All() {
		if w.model.topics[p.TopicID()] == nil {
			return fmt.Errorf("%s-%d is back though its deletion was confirmed", p.Topic(), p.Index())
		}
	}
	ties, found := w.open(), make(map[*part][]seen)
	w.ties = nil
	for _, t := range append([]*topic(nil), w.model.order...) {
		for _, p := range t.parts {
			if err := w.comparePart(p, found); err != nil {
				return err
			}
			if w.stopped() { // the rest on the next disk
				return nil
			}
		}
		if t.deleting {
			if err := w.delete(t); err != nil && !w.stopped() {
				return err
			}
		}
	}
	return w.checkTies(ties, found)
}

func (w *World) comparePart(p *part, found map[*part][]seen) error {
	if w.store.Get(p.topic.id, p.index) == nil {
		if p.topic.deleting {
			return nil
		}
		if len(p.log) > 0 {
			return fmt.Errorf("%s is gone: LOST %d records", p, len(p.log))
		}
		// What the catalog knows and the disk does not was never appended to.
		p.settle(0, 0, nil)
		_, err := w.store.Create(partition.Topic{ID: p.topic.id, Name: p.topic.name}, p.index, p.topic.config)
		return w.surprise("create", err)
	}
	live := w.store.Get(p.topic.id, p.index)
	start, high := live.Start(), live.High()
	log, err := w.read(p, start, high)
	if err != nil {
		return w.surprise("read", err)
	}
	if err := p.check(start, high, log); err != nil {
		return err
	}
	w.tally.Survived += len(p.pending)
	found[p] = log
	p.settle(start, high, log)
	known := live.Producers()
	for _, r := range p.writers {
		if err := r.check(p, known); err != nil {
			return err
		}
	}
	return nil
}

// read fetches [from, to) and checks every byte of it.
func (w *World) read(p *part, from, to int64) ([]seen, error) {
	live := w.store.Get(p.topic.id, p.index)
	var log []seen
	for from < to {
		span, err := live.Read(from, 16<<10)
		if err != nil {
			return nil, fmt.Errorf("read %s at %d of %d: %w", p, from, to, err)
		}
		bytes, err := span.Append(nil)
		span.Release()
		if err != nil {
			return nil, fmt.Errorf("read %s at %d of %d: %w", p, from, to, err)
		}
		before := from
		for rest := bytes; len(rest) > 0; {
			var b record.Batch
			if b, rest, err = record.Next(rest); err != nil {
				return nil, fmt.Errorf("read %s at %d: %w", p, from, err)
			}
			for r, err := range b.Records(1 << 20) {
				if err != nil {
					return nil, fmt.Errorf("read %s at %d: %w", p, from, err)
				}
				if r.Offset < from || r.Offset >= to {
					continue // the batch begins earlier or goes on
				}
				id, err := identify(p, r)
				if err != nil {
					w.mu.Lock()
					w.fail(err) // whatever else goes wrong
					w.mu.Unlock()
					return nil, err
				}
				log = append(log, seen{r.Offset, id})
			}
			from = max(from, b.NextOffset())
		}
		if from == before {
			return nil, fmt.Errorf("read %s at %d of %d: nothing there", p, from, to)
		}
	}
	return log, nil
}

// topicID makes an id for the n-th topic of the world.
func topicID(seed, n uint64) (id catalog.TopicID) {
	binary.BigEndian.PutUint64(id[:], seed|1<<63)
	binary.BigEndian.PutUint64(id[8:], n|1<<63)
	return id
}
