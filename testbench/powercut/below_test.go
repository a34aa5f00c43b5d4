// go-fuse does not build for 32-bit ARM.
//go:build !arm

package powercut

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/broker"
	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/partition"
	"millrace/broker/record"
	"millrace/testbench/lane"
)

var fuseCuts = flag.Int("fusecuts", -1, "power cuts that learn from below the process what is synced; default a quarter of -cuts, 100 without it")

const (
	belowSessions = 4  // of a world, each a process
	belowCuts     = 25 // of a session
)

// TestBelowTheProcess cuts the power of a board that runs in a process of its own on a filesystem of ours: what is
// durable is known from the system calls that arrived there, whoever made them.
func TestBelowTheProcess(t *testing.T) {
	needFUSE(t)
	n := *fuseCuts
	if n < 0 {
		n = *cuts / 4
		if *cuts == 0 || testing.Short() {
			n = 100
		}
	}
	first := *seed
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	t.Logf("%d cuts from seed %d", n, first)
	var next atomic.Int64
	var mu sync.Mutex
	var sum belowTally
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for !t.Failed() {
				i := int(next.Add(1) - 1)
				left := n - i*belowSessions*belowCuts
				if left <= 0 {
					return
				}
				world := first + uint64(i)
				tally, err := liveBelow(scratch(t), world, "", world%2 == 0, min(left, belowSessions*belowCuts))
				if err != nil {
					t.Errorf("%v\nagain: go test ./testbench/powercut -run %s -seed %d -fusecuts %d -v",
						err, t.Name(), world, belowSessions*belowCuts)
				}
				mu.Lock()
				sum.add(tally)
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	t.Logf("%+v", sum)
	if n >= 500 && !t.Failed() {
		for what, n := range map[string]int{
			"acknowledged": sum.Acked, "refused": sum.Refused, "served": sum.Served, "unanswered that survived": sum.Survived,
			"start moves": sum.Starts, "truncations": sum.Truncations, "creations": sum.Creates, "deletions": sum.Deletes,
			"checkpoints": sum.Checkpoints, "sessions with a failing disk": sum.Faults, "cuts before the start was over": sum.InRecovery,
			"syncs": sum.syncs, "failed syncs": sum.failedSyncs, "renames": sum.renames, "compactions": sum.Compactions, "repeated batches": sum.repeated,
		} {
			if n == 0 {
				t.Errorf("%s: none in %d cuts", what, sum.Cuts)
			}
		}
	}
}

func needFUSE(t *testing.T) {
	t.Helper()
	lane.Need(t, "/dev/fuse")
	if os.Geteuid() != 0 {
		if lane.Required() {
			t.Fatal("this lane mounts a filesystem and must run as root")
		}
		t.Skip("LANE SKIPPED: only root may mount a filesystem")
	}
}

type belowTally struct {
	Tally
	ops, syncs, failedSyncs, renames, repeated int
}

func (t *belowTally) add(o belowTally) {
	t.Tally.add(o.Tally)
	t.ops += o.ops
	t.syncs += o.syncs
	t.failedSyncs += o.failedSyncs
	t.renames += o.renames
	t.repeated += o.repeated
}

// below is one board, watched from below.
type below struct {
	dir     string
	seed    uint64
	skip    disk.Point // this sync is not done
	failing bool       // the disk fails often, and in every session
	rng     *rand.Rand
	session int
	volume  *volume // what the disk holds before the next session
	oracle  *oracle // and what was promised about it
	tally   belowTally
}

// liveBelow takes one board through sessions that each begin on a disk a cut of the last one left.
func liveBelow(dir string, seed uint64, skip disk.Point, failing bool, cuts int) (belowTally, error) {
	b := &below{
		dir: dir, seed: seed, skip: skip, failing: failing, rng: rand.New(rand.NewPCG(seed, 0xf05e)), volume: newVolume(), oracle: newOracle(),
	}
	// Whoever makes the data directory makes its name durable; the board begins inside.
	b.volume.root.entries[dataName] = b.volume.node(2, true)
	b.volume.root.kept[dataName] = b.volume.root.entries[dataName]
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return b.tally, err
	}
	for cuts > 0 {
		n := min(cuts, belowCuts)
		if err := b.run(n); err != nil {
			return b.tally, fmt.Errorf("seed %d, session %d: %w", seed, b.session, err)
		}
		cuts -= n
		b.session++
	}
	return b.tally, os.RemoveAll(dir)
}

// run lets a process work on the disk, and then cuts its power at n instants.
func (b *below) run(n int) error {
	log, err := b.record()
	if *steps {
		for i, o := range log {
			fmt.Fprintf(os.Stderr, "session %d op %d: %s\n", b.session, i, o)
		}
	}
	b.tally.ops += len(log)
	for _, o := range log {
		switch {
		case o.kind == opRename:
			b.tally.renames++
		case o.failed:
			b.tally.failedSyncs++
		case o.kind == opSync || o.kind == opSyncDir:
			b.tally.syncs++
		}
	}
	at := b.instants(log, n)
	stay := b.rng.IntN(n) // the cut after which life goes on
	v, promises := b.volume, b.oracle
	var next *volume
	var promised *oracle
	started := false
	done := 0
	for i := 0; ; i++ {
		for done < n && at[done] == i {
			left := v.cut(b.rng)
			if err := b.inspect(left, promises, fmt.Sprintf("cut-%d-%d", b.session, done)); err != nil {
				return fmt.Errorf("cut %d, after operation %d of %d: %w", done, i, len(log), err)
			}
			if !started {
				b.tally.InRecovery++
			}
			if done == stay {
				next, promised = left.clone(), promises.clone()
			}
			b.tally.Cuts++
			done++
		}
		if i == len(log) {
			break
		}
		v.apply(log[i])
		if log[i].kind == opMark {
			e, err := decode(log[i].data)
			if err != nil {
				return err
			}
			started = started || e.Kind == evFound
			if e.Mended {
				v.mended()
			}
			if err := promises.hear(e); err != nil {
				return fmt.Errorf("while it ran, operation %d: %w", i, err)
			}
		}
	}
	if err != nil { // what the cuts have to say comes first
		return err
	}
	b.tally.Tally.add(promises.tally)
	b.volume, b.oracle = next, promised
	return nil
}

// record runs the board and returns what its disk was told.
func (b *below) record() (log []op, err error) {
	dir := filepath.Join(b.dir, fmt.Sprintf("mount-%d", b.session))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	cfg := childConfig{
		Mount: dir, Seed: b.seed, Session: b.session, Skip: b.skip, Steps: 60 + b.rng.IntN(120),
		Faults: b.failing, FaultsEarly: b.failing && b.rng.IntN(4) == 0,
	}
	m, err := newMount(dir, b.volume.clone(), rand.New(rand.NewPCG(b.seed, uint64(b.session)+1000)), faulty)
	if err != nil {
		return nil, err
	}
	if b.failing {
		m.syncsPerFault = 12
	}
	defer func() {
		if unmounted := m.unmount(); unmounted != nil {
			err = errors.Join(err, unmounted)
			return
		}
		err = errors.Join(err, os.Remove(dir))
		log = m.log
	}()
	text, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("the board under test: %w: %s", err, stderr.Bytes())
	}
	return nil, nil
}

// instants chooses where in the log to cut: half of them right after a word to a client, since that is when what is
// missing would be missed.
func (b *below) instants(log []op, n int) []int {
	marks := make(map[eventKind][]int)
	for i, o := range log {
		if o.kind == opMark {
			if e, err := decode(o.data); err == nil { // run tells the error
				marks[e.Kind] = append(marks[e.Kind], i+1)
			}
		}
	}
	kinds := slices.Sorted(maps.Keys(marks))
	at := make([]int, n)
	for i := range at {
		if len(kinds) > 0 && b.rng.IntN(2) == 0 { // the seldom kinds as often as the others
			of := marks[kinds[b.rng.IntN(len(kinds))]]
			at[i] = of[b.rng.IntN(len(of))]
		} else {
			at[i] = b.rng.IntN(len(log) + 1)
		}
	}
	slices.Sort(at)
	return at
}

// inspect starts a board on a disk as a cut left it, and holds what it finds against what was promised.
func (b *below) inspect(left *volume, o *oracle, name string) error {
	dir := filepath.Join(b.dir, name)
	if err := left.save(dir); err != nil {
		return err
	}
	data := filepath.Join(dir, dataName)
	fs := disktest.New(disk.OS{})
	for _, p := range disk.Points() {
		fs.Skip(p) // nothing is cut any more
	}
	now := time.Date(2026, 11, 22, 13+b.session, 0, 0, 0, time.UTC)
	live, err := openBoard(fs, data, func() time.Time { return now }, func(broker.Meta) {})
	if err != nil {
		return fmt.Errorf("does not start: %w", err)
	}
	found, err := live.survey()
	if err == nil {
		err = o.check(found)
	}
	if err == nil {
		err = found.online()
	}
	if err == nil {
		err = live.store.Check()
	}
	if err == nil {
		err = b.repeat(live, o, found)
	}
	if err := errors.Join(err, live.close()); err != nil {
		return err
	}
	report, err := broker.Fsck(disk.OS{}, data, nil)
	if err != nil {
		return fmt.Errorf("fsck: %w", err)
	}
	if report.Damaged() { // an index nobody has asked yet may still lie; it is rebuilt when somebody does
		return fmt.Errorf("fsck after a start and a stop: %+v", report.Findings)
	}
	return os.RemoveAll(dir)
}

// repeat sends the last acknowledged batch of every idempotent producer again: its answer must be the first one's.
func (b *below) repeat(live *board, o *oracle, found *survey) error {
	for _, st := range found.Topics {
		for _, index := range slices.Sorted(maps.Keys(o.more[st.ID].batches)) {
			p, part := live.store.Get(st.ID, index), o.m.topics[st.ID].parts[index]
			batches := o.more[st.ID].batches[index]
			for _, id := range slices.Sorted(maps.Keys(batches)) {
				was := batches[id]
				if was.base < p.Start() || was.base+int64(was.n) > min(part.end, part.cutTo) {
					continue // deleted, or being truncated
				}
				if err := again(p, id, was); err != nil {
					return err
				}
				b.tally.repeated++
			}
		}
	}
	return nil
}

func again(p *partition.Partition, id int64, was producerBatch) error {
	var recs []record.Record
	for i := range was.n {
		recs = append(recs, record.Record{Key: keyOf(p, was.first+uint64(i)), Value: value(was.first+uint64(i), valueHead)})
	}
	same, err := batch(record.NewBuilder(record.None), recs, event{Producer: id, Sequence: was.sequence})
	if err != nil {
		return err
	}
	answer := make(chan partition.AppendResult, 1)
	p.Append(same, partition.AppendOptions{Epoch: -1}, func(r partition.AppendResult) { answer <- r })
	if r := <-answer; r.Err != nil || r.Base != was.base {
		return fmt.Errorf("%s: producer %d repeats the batch at offset %d and is answered %d, %v", p, id, was.base, r.Base, r.Err)
	}
	return nil
}
