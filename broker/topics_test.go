package broker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/partition"
	"millrace/broker/record"
	"millrace/platform/config"
)

// board opens a whole broker on loopback with its data in dir; it is closed with the test.
func board(t testing.TB, dir string, change func(*config.Config)) *Broker {
	t.Helper()
	return boardOn(t, nil, dir, change)
}

// revealed are the secrets that boards have shown, by data directory.
var revealed sync.Map

// boardOn is board on a disk, nil for the machine's.
func boardOn(t testing.TB, fs disk.FS, dir string, change func(*config.Config)) *Broker {
	t.Helper()
	s := config.Default()
	s.Broker.LogDirs = dir
	s.Broker.ClusterAlias = "test"
	s.Broker.Listeners = []string{"PLAINTEXT://127.0.0.1:0"}
	s.MQTT.Listeners = []string{"tcp://127.0.0.1:0"}
	s.HTTP.Listener = ""
	if change != nil {
		change(s)
	}
	b, err := Open(t.Context(), Config{Settings: s, FS: fs, Reveal: func(_, secret string) error {
		revealed.Store(dir, secret)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// appendOne puts one record into partition 0 of a topic and waits until it is durable.
func appendOne(t *testing.T, b *Broker, topic, value string) {
	t.Helper()
	list, err := b.Ensure(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	list[0].AppendRecords([]record.Record{{Value: []byte(value)}}, partition.AppendOptions{Epoch: -1},
		func(r partition.AppendResult) { done <- r.Err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestManyWhoUseANewTopicAtOnceAllFindIt(t *testing.T) {
	b := board(t, t.TempDir(), nil)
	for round := range 20 {
		name := fmt.Sprintf("new-%d", round)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if list, err := b.Ensure(t.Context(), name); err != nil || len(list) != 1 || list[0] == nil {
					t.Errorf("Ensure(%s) = %v, %v", name, list, err)
				}
			})
		}
		wg.Wait()
	}
	if n := len(b.Names()); n < 20 {
		t.Errorf("%d topics, want 20 and the board's own", n)
	}
}

func TestTheBoardsOwnTopicsAreMadeWhateverTheConfigurationSays(t *testing.T) {
	b := board(t, t.TempDir(), func(s *config.Config) {
		s.Broker.AutoCreateTopics, s.Broker.NumPartitions = false, 4
	})
	if _, err := b.Ensure(t.Context(), "asked-for"); !errors.Is(err, catalog.ErrUnknownTopic) {
		t.Errorf("a client's topic: %v, want %v", err, catalog.ErrUnknownTopic)
	}
	list, err := b.Ensure(t.Context(), "__mqtt_sessions")
	if err != nil || len(list) != 1 {
		t.Fatalf("Ensure = %v, %v, want one partition", list, err)
	}
	if c := list[0].Config(); !c.CleanupCompact || c.CleanupDelete {
		t.Error("sessions are not compacted, so retention will delete them")
	}
}

func TestATopicDeletedJustBeforeThePowerWentStaysDeleted(t *testing.T) {
	dir := t.TempDir()
	b := board(t, dir, nil)
	appendOne(t, b, "deleted", "value")
	// The catalog deletes it, and the store never hears of that.
	id := b.Image().Topic("deleted").ID
	if _, err := b.quorum.Propose(t.Context(), catalog.DeleteTopic{Topic: id}); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = board(t, dir, nil)
	if _, ok := b.Topic("deleted"); ok || b.Image().Topic("deleted") != nil || b.store.Get(id, 0) != nil {
		t.Error("a deleted topic is back")
	}
}

func TestATopicTheCatalogHasLostIsAdoptedWithItsRecords(t *testing.T) {
	dir := t.TempDir()
	b := board(t, dir, nil)
	appendOne(t, b, "kept", "value")
	id := b.Image().Topic("kept").ID
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "quorum")); err != nil {
		t.Fatal(err)
	}
	b = board(t, dir, nil)
	list, ok := b.Topic("kept")
	if !ok || list[0].TopicID() != id || list[0].High() != 1 {
		t.Fatalf("adopted %v, want topic %v with one record", list, id)
	}
	appendOne(t, b, "kept", "another")
}
