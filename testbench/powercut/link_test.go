package powercut

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
	"millrace/broker"
	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/journal"
	"millrace/broker/partition"
	"millrace/broker/record"
)

// What follows has links between a board whose disk is watched and a Kafka in memory, which lives through every cut.

// Topics of the board, and how many partitions they have. Those upstream are the same.
var linkTopics = []struct {
	name       string
	partitions int
}{{"down.a", 2}, {"down.b", 1}, {upstream.LandingTopic, 1}, {upstream.LocalGapTopic, 1}, {"up.a", 2}}

// linkDisks is how many disks are looked at of each cut.
const linkDisks = 2

// ashore is a board with its links.
type ashore struct {
	*scene
	kafka *upstreamtest.Kafka
	apart bool // a defect: the cursor of what came down is appended by itself
	n     int  // records written
	// gaps are what upstream let go before it was taken.
	gaps map[string]upstream.Range
	left left
}

// left says what the disks held that the cuts have left: of records that came down, gaps, and files of the link that goes up.
type left struct{ none, some, all, gaps, files int }

// harbour is one life of the board: a store, and links while they run.
type harbour struct {
	*ashore
	fs    disk.FS
	data  string
	store *partition.Store
	j     *journal.Journal
	list  map[string][]upstream.Partition
	down  *upstream.Down
	up    *upstream.Link
	tell  func(topic string, id [16]byte, partition int32)
	end   func()
}

// quick is a back-off that has much happen in a short time.
type quick struct{}

func (quick) Next() time.Duration { return 10 * time.Millisecond }
func (quick) Reset()              {}

func newAshore(dir string, seed uint64) (*ashore, error) {
	s, err := newSceneOn(unsynced(), dir, seed, "")
	if err != nil {
		return nil, err
	}
	a := &ashore{scene: s, kafka: upstreamtest.NewKafka(rand.New(rand.NewPCG(seed, 5))), gaps: map[string]upstream.Range{}}
	a.image, err = catalog.Apply(a.image, catalog.RegisterBroker{ID: 1, Host: "localhost", Port: 9092})
	for i, t := range linkTopics {
		if t.name[0] != '_' {
			a.kafka.Create(t.name, t.partitions, false)
		}
		var create catalog.CreateTopic
		if err == nil {
			create, err = catalog.NewTopic(a.image, t.name, topicID(seed, 10+uint64(i)), t.partitions, 1, nil)
		}
		if err == nil {
			a.image, err = catalog.Apply(a.image, create)
		}
	}
	return a, err
}

// begin begins a life on a directory.
func (a *ashore) begin(fsys disk.FS, data string) (h *harbour, err error) {
	h = &harbour{ashore: a, fs: fsys, data: data, list: map[string][]upstream.Partition{}}
	if h.store, _, err = openStore(fsys, data, a.now, a.image, &h.j); err != nil {
		return h, err
	}
	for _, t := range linkTopics {
		id := a.image.Topic(t.name).ID
		for i := range int32(t.partitions) {
			p, err := h.store.Create(partition.Topic{ID: id, Name: t.name}, i, topicConfig())
			if err != nil {
				return h, err
			}
			h.list[t.name] = append(h.list[t.name], broker.PartitionOfLink(p))
		}
	}
	return h, nil
}

// Partitions implements upstream.Store and upstream.Log.
func (h *harbour) Partitions(topic string) []upstream.Partition { return h.list[topic] }

// Make implements upstream.Store.
func (h *harbour) Make(_ context.Context, topic string, _ int32, _ map[string]string) error {
	return fmt.Errorf("topic %s is missing", topic)
}

// Append implements upstream.Store.
func (h *harbour) Append(parts []upstream.Part) error {
	i := slices.IndexFunc(parts, func(p upstream.Part) bool { return p.Partition.Topic() == upstream.LandingTopic })
	if !h.apart || i == 0 {
		return broker.AppendParts(parts)
	}
	if err := broker.AppendParts(parts[:i]); err != nil {
		return err
	}
	return broker.AppendParts(parts[i:])
}

// sail has the link that goes down run.
func (h *harbour) sail() error {
	var err error
	h.down, err = upstream.NewDown(upstream.Config{Name: "hq", Board: "board", Topics: []string{"down.*"}, TransactionBytes: 4000}, upstream.DownEnv{
		Store: h, Clock: upstreamtest.Clock{}, Source: h.kafka.Client(), Backoff: quick{}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	h.run(h.down.Run)
	return nil
}

// run runs a link until end.
func (h *harbour) run(link func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		link(ctx)
	}()
	h.end = func() {
		cancel()
		<-ended
	}
}

// idle waits until a link has nothing to do, or the power goes.
func (h *harbour) idle(status func() upstream.Status) error {
	var is upstream.Status
	for range 10_000 {
		time.Sleep(10 * time.Millisecond) // of the bubble
		synctest.Wait()
		if is = status(); is.State == upstream.StateIdle && is.Records == 0 {
			return nil
		}
		if h.data == h.scene.data && h.over() {
			return nil
		}
	}
	return fmt.Errorf("the link is not idle after 100 s: %+v", is)
}

// close ends a life in an orderly way.
func (h *harbour) close() error {
	if h.end != nil {
		h.end()
	}
	if h.store == nil {
		return nil
	}
	return h.store.Close()
}

// post writes some records upstream.
func (a *ashore) post() {
	recs := make([]upstream.Record, 1+a.rng.IntN(4))
	for i := range recs {
		a.n++
		t := linkTopics[a.rng.IntN(2)]
		size := a.rng.IntN(300)
		if a.rng.IntN(8) == 0 {
			size = inlineMax + a.rng.IntN(2000)
		}
		recs[i] = upstream.Record{
			Topic: t.name, Partition: int32(a.rng.IntN(t.partitions)), Timestamp: 1_700_000_000_000 + int64(a.n),
			Key: fmt.Append(nil, "key ", a.rng.IntN(10)), Value: value(uint64(a.n), size),
		}
		if a.rng.IntN(3) == 0 {
			recs[i].Headers = []record.Header{{Key: "h", Value: []byte("v")}}
		}
	}
	switch a.rng.IntN(4) {
	case 0:
		a.kafka.Write(recs...)
	case 1:
		a.kafka.Transact(recs...)(false)
	default:
		a.kafka.Transact(recs...)(true)
	}
}

// play has a first life act until it is done, or the power goes in the at-th operation on the disk; 0: it stays.
func (a *ashore) play(at int64, act func(h *harbour) error) (ops int64, err error) {
	h, err := a.begin(a.fs, a.data)
	if err == nil {
		err = h.store.Checkpoint()
	}
	before := a.fs.Ops()
	if at > 0 {
		a.fs.StopAt(at)
	}
	if err == nil {
		err = act(h)
	}
	if h.end != nil {
		h.end()
	}
	ops = a.fs.Ops() - before
	if errors.Is(err, disktest.ErrCut) {
		err = nil
	}
	a.fs.Stop()
	if h.store != nil {
		err = errors.Join(err, killed(h.store, h.j))
	}
	return ops, err
}

// over says that the power is gone.
func (a *ashore) over() bool {
	select {
	case <-a.scene.fs.Stopped():
		return true
	default:
		return false
	}
}

// taken has records come down, with a checkpoint and a gap between.
func (h *harbour) taken() error {
	err := h.sail()
	for i := 0; i < 6 && err == nil && !h.over(); i++ {
		if i == 3 {
			h.end()
			h.lose()
			err = errors.Join(h.store.Checkpoint(), h.sail())
		}
		for range 1 + h.rng.IntN(4) {
			h.post()
		}
		h.down.Kick()
		err = errors.Join(err, h.idle(h.down.Status))
	}
	return err
}

// lose writes something upstream, of which upstream lets some go.
func (a *ashore) lose() {
	each := func(fn func(topic string, partition int, at string)) {
		for _, t := range linkTopics[:2] {
			for p := range t.partitions {
				fn(t.name, p, fmt.Sprint(t.name, p))
			}
		}
	}
	from := map[string]int64{}
	each(func(topic string, partition int, at string) { from[at] = a.kafka.End(topic, partition) })
	for range 6 {
		a.post()
	}
	each(func(topic string, partition int, at string) {
		a.kafka.Retain(topic, partition, 2)
		if start := a.kafka.Start(topic, partition); start > from[at] {
			a.gaps[at] = upstream.Range{First: from[at], End: start}
		}
	})
}

// look has the next life take what is missing, and compares both ends: each committed record once, in order, and each gap.
// The checkpoints are whole: without them recovery takes from segments what no group of the journal vouches for.
func (a *ashore) look(data string) (err error) {
	h, err := a.begin(unsynced(), data)
	defer func() { err = errors.Join(err, h.close()) }()
	if err != nil {
		return err
	}
	before, err := a.held(h)
	if err == nil {
		err = h.sail()
	}
	if err == nil {
		err = h.idle(h.down.Status)
	}
	if err != nil {
		return err
	}
	held, err := a.held(h)
	if err != nil {
		return fmt.Errorf("%w; the link: %+v", err, h.down.Status())
	}
	switch {
	case before.records == 0:
		a.left.none++
	case before.records < held.records:
		a.left.some++
	default:
		a.left.all++
	}
	a.left.gaps += before.gaps
	return nil
}

// tally is how much of what came down the board has.
type tally struct{ records, gaps int }

// held holds what the board has against what is upstream: as far as it goes it is the same.
func (a *ashore) held(h *harbour) (n tally, err error) {
	whole := h.down != nil // all has to be there
	for _, t := range linkTopics[:2] {
		for i := range t.partitions {
			at := fmt.Sprint(t.name, i)
			var want []upstreamtest.Placed
			for _, r := range a.kafka.Everything(t.name, i, 0) {
				if g, some := a.gaps[at]; !some || r.Offset < g.First || r.Offset >= g.End {
					want = append(want, r)
				}
			}
			got, err := recordsOf(h.list[t.name][i])
			if err != nil {
				return n, err
			}
			for k, r := range got {
				if k >= len(want) {
					return n, fmt.Errorf("TWICE: %s has %d records, and %d came", at, len(got), len(want))
				}
				w := &want[k]
				last := len(r.Headers) - 1
				if last < 0 || r.Headers[last].Key != upstream.HeaderCluster || !bytes.Equal(r.Value, w.Value) || !bytes.Equal(r.Key, w.Key) ||
					r.Timestamp != w.Timestamp || last != len(w.Headers) {
					return n, fmt.Errorf("TWICE, LOST or changed: record %d of %s is %s of %d, want %s of %d", k, at, r.Key, r.Timestamp, w.Key, w.Timestamp)
				}
			}
			if whole && len(got) < len(want) {
				return n, fmt.Errorf("LOST: %s has %d of %d records", at, len(got), len(want))
			}
			n.records += len(got)
		}
	}
	told, err := recordsOf(h.list[upstream.LocalGapTopic][0])
	if err != nil {
		return n, err
	}
	seen := map[string]bool{}
	for _, r := range told {
		var g struct {
			Topic              string
			Partition          int
			First, Last, Count int64
		}
		if err := json.Unmarshal(r.Value, &g); err != nil {
			return n, err
		}
		at := fmt.Sprint(g.Topic, g.Partition)
		want, came := a.gaps[at], 0
		for _, r := range a.kafka.Everything(g.Topic, g.Partition, g.First) { // nobody's offsets may be told beside
			if r.Offset < want.First {
				came++
			}
		}
		if seen[at] || g.First > want.First || came > 0 || g.Last != want.End-1 {
			return n, fmt.Errorf("gap %s is told, want %v once", r.Value, want)
		}
		seen[at] = true
	}
	n.gaps = len(told)
	if whole && n.gaps != len(a.gaps) {
		return n, fmt.Errorf("LOST: %d of %d gaps are told", n.gaps, len(a.gaps))
	}
	return n, nil
}

// recordsOf are the records of a partition.
func recordsOf(p upstream.Partition) (list []record.Record, err error) {
	var raw []byte
	for next := p.Start(); next < p.High(); {
		if raw, err = p.ReadBatches(nil, next, 64<<10); err != nil || len(raw) == 0 {
			return nil, fmt.Errorf("LOST: %s-%d at %d of %d: %w", p.Topic(), p.Index(), next, p.High(), err)
		}
		for len(raw) > 0 {
			var b record.Batch
			if b, raw, err = record.Next(raw); err != nil {
				return nil, err
			}
			next = b.NextOffset()
			for r, err := range b.Records(1 << 20) {
				if err != nil {
					return nil, err
				}
				r.Headers = slices.Clone(r.Headers)
				list = append(list, r)
			}
		}
	}
	return list, nil
}

// landingCut is one world: a cut in the at-th operation on the disk, 0: after all of them. ops is how many there were.
func landingCut(t *testing.T, seed uint64, at int64, apart bool) (ops int64, left left, err error) {
	dir := filepath.Join(scratch(t), fmt.Sprint(at))
	synctest.Test(t, func(*testing.T) {
		var a *ashore
		if a, err = newAshore(dir, seed); err != nil {
			return
		}
		a.apart = apart
		if ops, err = a.play(at, (*harbour).taken); err == nil {
			err = a.cutInto(linkDisks, a.look)
		}
		left = a.left
	})
	if err != nil {
		err = fmt.Errorf("cut in operation %d: %w", at, err)
	}
	return ops, left, errors.Join(err, os.RemoveAll(dir))
}

// What came down and the cursor that says so are one group of the journal: whatever cut comes in whatever operation on the
// disk, the next life has each record once.
func TestCutAtEveryOperationOfALinkThatGoesDown(t *testing.T) {
	begin := uint64(time.Now().UnixNano())
	if *seed != 0 {
		begin = *seed
	}
	ops, _, err := landingCut(t, begin, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d operations, seed %d", ops, begin)
	var sum left
	for at := int64(1); at <= ops; at++ {
		_, left, err := landingCut(t, begin, at, false)
		if err != nil {
			t.Errorf("%v\nagain: go test ./testbench/powercut -run %s -seed %d", err, t.Name(), begin)
		}
		sum.none, sum.some, sum.all, sum.gaps = sum.none+left.none, sum.some+left.some, sum.all+left.all, sum.gaps+left.gaps
	}
	t.Logf("disks that had of what came down: %+v", sum)
	if ops < 40 || sum.some == 0 || sum.gaps == 0 {
		t.Error("too little has happened to prove anything")
	}
}

// A cursor that is appended by itself, after the records, is found out.
func TestACursorThatIsAppendedApartIsFound(t *testing.T) {
	ops, _, err := landingCut(t, 1, 0, true)
	if err != nil {
		t.Fatal(err) // nothing was cut inside
	}
	for at := int64(1); at <= ops; at++ {
		if _, _, err := landingCut(t, 1, at, true); err != nil {
			t.Logf("found: %v", err)
			return
		}
	}
	t.Errorf("not found in %d cuts", ops)
}
