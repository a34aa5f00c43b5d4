package quorum_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"millrace/broker/catalog"
	"millrace/broker/quorum"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open opens a quorum and closes it with the test, if the test did not.
func open(t testing.TB, cfg quorum.Config) *quorum.Quorum {
	t.Helper()
	if cfg.NodeID == 0 {
		cfg.NodeID = 1
	}
	q, err := quorum.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	return q
}

func shut(t testing.TB, q *quorum.Quorum) {
	t.Helper()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
}

func propose(t testing.TB, q *quorum.Quorum, c catalog.Command) *catalog.Image {
	t.Helper()
	img, err := q.Propose(t.Context(), c)
	if err != nil {
		t.Fatalf("propose %T: %v", c, err)
	}
	return img
}

func register() catalog.Command { return catalog.RegisterBroker{ID: 1, Host: "localhost", Port: 9092} }

// topic is the command that creates the i-th topic.
func topic(i int) catalog.CreateTopic {
	return catalog.CreateTopic{
		Name: fmt.Sprintf("topic-%d", i), ID: catalog.TopicID{byte(i >> 8), byte(i), 1},
		Partitions: []catalog.PartitionState{{Leader: 1, Replicas: []int32{1}, ISR: []int32{1}}},
		Config:     map[string]string{"retention.ms": fmt.Sprint(i)},
	}
}

// bulk is a command of about size bytes on a topic.
func bulk(id catalog.TopicID, size int) catalog.Command {
	change := catalog.PartitionChange{Topic: id, Epoch: -1, Leader: 1, ISR: []int32{1}, Raise: true}
	return catalog.ChangePartitions{Changes: slices.Repeat([]catalog.PartitionChange{change}, size/24+1)}
}

func TestConfirmedCommandsSurviveARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "quorum")
	q := open(t, quorum.Config{Dir: dir, ClusterID: "c"})
	if r := q.Report(); !r.Fresh || r.Lost || len(r.Damage) > 0 {
		t.Errorf("first start reports %+v", r)
	}
	propose(t, q, register())
	for i := range 20 {
		propose(t, q, topic(i))
	}
	live := q.Image()
	for range 3 {
		shut(t, q)
		q = open(t, quorum.Config{Dir: dir, ClusterID: "c"})
		if got := q.Image(); !got.Equal(live) {
			t.Fatalf("after a restart: version %d with %d topics, want %d with %d", got.Version(), got.Len(), live.Version(), live.Len())
		}
		if r := q.Report(); r.Fresh || r.Lost || r.Torn > 0 || len(r.Damage) > 0 {
			t.Errorf("restart reports %+v", r)
		}
	}
}

func TestProposeReturnsTheImageOfItsOwnCommand(t *testing.T) {
	q := open(t, quorum.Config{Dir: t.TempDir()})
	propose(t, q, register())
	var (
		mu    sync.Mutex
		seen  = make(map[int64]bool)
		group sync.WaitGroup
	)
	for range 8 {
		group.Go(func() {
			for range 10 {
				img, err := q.Propose(t.Context(), catalog.AllocateProducerIDs{Broker: 1, Epoch: -1})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[img.ProducerIDNext()] {
					t.Errorf("block up to %d was given twice", img.ProducerIDNext())
				}
				seen[img.ProducerIDNext()] = true
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if got := q.Image().ProducerIDNext(); got != 80*catalog.ProducerIDBlock || len(seen) != 80 {
		t.Errorf("next producer id %d after %d blocks", got, len(seen))
	}
}

func TestCatalogErrorsComeBackAndWriteNothing(t *testing.T) {
	dir := t.TempDir()
	q := open(t, quorum.Config{Dir: dir})
	propose(t, q, register())
	propose(t, q, topic(1))
	before := logSize(t, dir)
	for want, c := range map[error]catalog.Command{
		catalog.ErrTopicExists:   topic(1),
		catalog.ErrUnknownTopic:  catalog.DeleteTopic{Topic: catalog.TopicID{9}},
		catalog.ErrInvalidTopic:  catalog.CreateTopic{Name: "a/b", ID: catalog.TopicID{3}},
		catalog.ErrInvalidConfig: catalog.AlterTopicConfig{Topic: topic(1).ID, Ops: []catalog.ConfigOp{{Name: "retention.ms", Value: "soon"}}},
	} {
		if _, err := q.Propose(t.Context(), c); !errors.Is(err, want) {
			t.Errorf("propose %T: %v, want %v", c, err, want)
		}
	}
	if after := logSize(t, dir); after != before {
		t.Errorf("refused commands grew the log from %d to %d bytes", before, after)
	}
}

func logSize(t *testing.T, dir string) (size int64) {
	t.Helper()
	files, err := os.ReadDir(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		st, err := f.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // a snapshot has made it superfluous meanwhile
		}
		if err != nil {
			t.Fatal(err)
		}
		size += st.Size()
	}
	return size
}

func TestSnapshotsBoundTheLog(t *testing.T) {
	dir := t.TempDir()
	q := open(t, quorum.Config{Dir: dir})
	propose(t, q, register())
	propose(t, q, topic(0))
	ops := make([]catalog.ConfigOp, 1)
	for i := range 3000 {
		ops[0] = catalog.ConfigOp{Name: "retention.ms", Value: fmt.Sprintf("%0128d", i)}
		propose(t, q, catalog.AlterTopicConfig{Topic: topic(0).ID, Ops: ops})
	}
	live := q.Image()
	shut(t, q)
	if size := logSize(t, dir); size > 500<<10 {
		t.Errorf("600 KB of commands left a log of %d bytes", size)
	}
	snapshots, err := filepath.Glob(filepath.Join(dir, "*.snapshot"))
	if err != nil || len(snapshots) != 2 {
		t.Fatalf("snapshots %v, %v; want two", snapshots, err)
	}
	q = open(t, quorum.Config{Dir: dir})
	if !q.Image().Equal(live) {
		t.Error("snapshot and log give another image")
	}
	shut(t, q)

	// A damaged newest snapshot loses nothing: the log reaches back to the older one.
	b, err := os.ReadFile(snapshots[1])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 4
	if err := os.WriteFile(snapshots[1], b, 0o600); err != nil {
		t.Fatal(err)
	}
	q = open(t, quorum.Config{Dir: dir})
	if !q.Image().Equal(live) {
		t.Errorf("older snapshot and log: version %d, want %d", q.Image().Version(), live.Version())
	}
	if r := q.Report(); len(r.Damage) != 1 || r.Lost {
		t.Errorf("report %+v, want one damaged snapshot", r)
	}
}

func TestForeignDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	q := open(t, quorum.Config{Dir: dir, ClusterID: "mine"})
	shut(t, q)
	if _, err := quorum.Open(quorum.Config{Dir: dir, NodeID: 1, ClusterID: "other"}); !errors.Is(err, quorum.ErrForeign) {
		t.Errorf("other cluster: %v", err)
	}
	if _, err := quorum.Open(quorum.Config{Dir: dir, NodeID: 2, ClusterID: "mine"}); !errors.Is(err, quorum.ErrForeign) {
		t.Errorf("other node: %v", err)
	}
}

func TestClosedQuorumSaysSo(t *testing.T) {
	q := open(t, quorum.Config{Dir: t.TempDir()})
	shut(t, q)
	if _, err := q.Propose(t.Context(), register()); !errors.Is(err, quorum.ErrClosed) {
		t.Errorf("propose after close: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if ctx.Err() != nil || q.Image() == nil {
		t.Error("the last image is gone")
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, topics := range []int{0, 500} {
		b.Run(fmt.Sprintf("topics=%d", topics), func(b *testing.B) {
			dir := b.TempDir()
			q := open(b, quorum.Config{Dir: dir})
			propose(b, q, register())
			for i := range topics {
				propose(b, q, topic(i))
			}
			shut(b, q)
			for b.Loop() {
				q, err := quorum.Open(quorum.Config{Dir: dir, NodeID: 1})
				if err != nil {
					b.Fatal(err)
				}
				shut(b, q)
			}
		})
	}
}

func BenchmarkPropose(b *testing.B) {
	q := open(b, quorum.Config{Dir: b.TempDir()})
	propose(b, q, register())
	for b.Loop() {
		propose(b, q, catalog.AllocateProducerIDs{Broker: 1, Epoch: -1})
	}
}
