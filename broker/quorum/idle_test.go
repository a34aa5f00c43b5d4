package quorum_test

import (
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/quorum"
)

// TestTheLoneVoterLeadsAtOnceAndStaysInOffice runs an hour in a second: the election takes no timeout, and no lease or
// heartbeat of the hour after costs a write.
func TestTheLoneVoterLeadsAtOnceAndStaysInOffice(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		fs := disktest.New(disk.OS{})
		began := time.Now()
		q, err := quorum.Open(quorum.Config{Dir: dir, FS: fs, NodeID: 1})
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("ready after %v of waiting", took)
		}
		propose(t, q, register())
		before := fs.Synced()["quorum.log"]
		time.Sleep(time.Hour)
		if after := fs.Synced()["quorum.log"]; after != before {
			t.Errorf("%d syncs in an idle hour", after-before)
		}
		propose(t, q, topic(1))
		shut(t, q)
	})
}

// TestAFailedSyncIsRefusedAndRepaired: what could not be synced is not confirmed, is not in the image, and the next
// command works.
func TestAFailedSyncIsRefusedAndRepaired(t *testing.T) {
	dir := t.TempDir()
	fs := disktest.New(disk.OS{})
	q, err := quorum.Open(quorum.Config{Dir: dir, FS: fs, NodeID: 1})
	if err != nil {
		t.Fatal(err)
	}
	propose(t, q, register())
	want := q.Image().Version()
	for i := range 5 {
		fs.FailSync("quorum.log", syscall.EIO, 1)
		if _, err := q.Propose(t.Context(), topic(100+i)); !errors.Is(err, quorum.ErrUnavailable) || !errors.Is(err, syscall.EIO) {
			t.Fatalf("propose with a failing sync: %v", err)
		}
		if q.Image().Topic(topic(100+i).Name) != nil {
			t.Error("a topic that was not synced is in the image")
		}
		propose(t, q, topic(i))
		want++
	}
	live := q.Image()
	if live.Version() != want {
		t.Errorf("version %d, want %d", live.Version(), want)
	}
	shut(t, q)
	q = open(t, quorum.Config{Dir: dir})
	if !q.Image().Equal(live) {
		t.Errorf("after a restart version %d, want %d", q.Image().Version(), live.Version())
	}
}

// TestAVoteThatCannotBeSavedCostsNoCrash: raft itself would panic.
func TestAVoteThatCannotBeSavedCostsNoCrash(t *testing.T) {
	dir := t.TempDir()
	q := open(t, quorum.Config{Dir: dir})
	propose(t, q, register())
	shut(t, q)
	fs := disktest.New(disk.OS{})
	fs.FailSync("quorum.vote", syscall.EIO, -1)
	if _, err := quorum.Open(quorum.Config{Dir: dir, FS: fs, NodeID: 1}); !errors.Is(err, syscall.EIO) {
		t.Errorf("open without a vote: %v", err)
	}
	q = open(t, quorum.Config{Dir: dir})
	if len(q.Image().Brokers()) != 1 {
		t.Error("the catalog is gone")
	}
	propose(t, q, catalog.AllocateProducerIDs{Broker: 1, Epoch: -1})
}
