package powercut

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/journal"
	"millrace/broker/partition"
	"millrace/broker/record"
	"millrace/broker/segment"
)

// Some syncs wait for more than a power cut: for bit rot, a failed write or somebody's rm before it. Others are missed by
// a random workload only now and then. A scene sets up what it takes, and cuts the power then.

// sceneSeeds is how many worlds of a scene a missing sync may go unnoticed in.
const sceneSeeds = 4

// scene is one directory, watched from inside.
type scene struct {
	rng   *rand.Rand
	fs    *disktest.FS
	root  string
	data  string
	image *catalog.Image
	topic catalog.TopicID
	cuts  int
}

func newScene(root string, seed uint64, skip disk.Point) (*scene, error) {
	return newSceneOn(disk.OS{}, root, seed, skip)
}

func newSceneOn(base disk.FS, root string, seed uint64, skip disk.Point) (*scene, error) {
	s := &scene{
		rng: rand.New(rand.NewPCG(seed, 0x5ce9e)), fs: disktest.New(base), root: root,
		data: filepath.Join(root, "disk", dataName), image: &catalog.Image{}, topic: topicID(seed, 1),
	}
	if err := os.MkdirAll(s.data, 0o755); err != nil {
		return nil, err
	}
	if skip != "" {
		s.fs.Skip(skip)
	}
	if err := s.fs.Record(filepath.Dir(s.data)); err != nil {
		return nil, err
	}
	s.fs.WAL(filepath.Join(s.data, journalName))
	return s, nil
}

func (s *scene) now() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }

// cut makes some of the disks that the power may leave, and has each looked at.
func (s *scene) cut(look func(data string) error) error { return s.cutInto(8, look) }

// cutInto makes so many.
func (s *scene) cutInto(disks int, look func(data string) error) error {
	s.fs.Stop()
	for range disks {
		s.cuts++
		left := filepath.Join(s.root, fmt.Sprintf("left-%d", s.cuts))
		if err := s.fs.Cut(s.rng, left); err != nil {
			return err
		}
		if err := look(filepath.Join(left, dataName)); err != nil {
			return err
		}
	}
	return nil
}

// killed ends a store as kill -9 does.
func killed(store *partition.Store, j *journal.Journal) error {
	err := errors.Join(store.Abandon(), j.Close())
	if errors.Is(err, disktest.ErrCut) {
		return nil
	}
	return err
}

// sceneRecords is how many records there are in a scene.
const sceneRecords = 20

// work makes a topic and appends to it, with a checkpoint after the first record, so that the names are durable.
func (s *scene) work(name string) (_ *partition.Store, j *journal.Journal, err error) {
	if s.image, err = catalog.Apply(s.image, catalog.RegisterBroker{ID: 1, Host: "localhost", Port: 9092}); err != nil {
		return nil, nil, err
	}
	create, err := catalog.NewTopic(s.image, name, s.topic, 1, 1, nil)
	if err != nil {
		return nil, nil, err
	}
	if s.image, err = catalog.Apply(s.image, create); err != nil {
		return nil, nil, err
	}
	store, _, err := openStore(s.fs, s.data, s.now, s.image, &j)
	if err != nil {
		return nil, nil, err
	}
	p, err := store.Create(partition.Topic{ID: s.topic, Name: name}, 0, topicConfig())
	if err != nil {
		return nil, nil, err
	}
	for id := range uint64(sceneRecords) {
		if err := appended(p, id, 100); err != nil {
			return nil, nil, err
		}
		if id > 0 {
			continue
		}
		if err := store.Checkpoint(); err != nil {
			return nil, nil, err
		}
	}
	return store, j, nil
}

// atWork is a new scene whose topic has that name, and the store that works on it.
func atWork(dir string, seed uint64, skip disk.Point, name string) (*scene, *partition.Store, *journal.Journal, error) {
	s, err := newScene(dir, seed, skip)
	if err != nil {
		return nil, nil, nil, err
	}
	store, j, err := s.work(name)
	return s, store, j, err
}

// appended appends one record and waits for its answer.
func appended(p *partition.Partition, id uint64, size int) error {
	b, err := batch(record.NewBuilder(record.None), []record.Record{{Key: []byte(p.String()), Value: value(id, size)}}, event{})
	if err != nil {
		return err
	}
	answer := make(chan partition.AppendResult, 1)
	p.Append(b, partition.AppendOptions{Epoch: -1}, func(r partition.AppendResult) { answer <- r })
	return (<-answer).Err
}

// all says whether every record is there.
func (s *scene) all(store *partition.Store) error {
	p := store.Get(s.topic, 0)
	if p == nil {
		return errors.New("LOST: the partition")
	}
	log, err := readPartition(p, 0, p.High())
	if err == nil && len(log.records) < sceneRecords {
		err = fmt.Errorf("LOST: %d of %d records", sceneRecords-len(log.records), sceneRecords)
	}
	return err
}

// reopened says whether every record is there when a store starts on data, under a catalog.
func (s *scene) reopened(data string, image *catalog.Image) error {
	store, _, err := openStore(disk.OS{}, data, s.now, image, nil)
	if err != nil {
		return err
	}
	return errors.Join(s.all(store), store.Close())
}

// walked: the process was killed, and both checkpoint slots and the journal are gone. What the segments show is in the
// page cache only; it is served, so it must be there after a cut.
func walked(dir string, seed uint64, skip disk.Point) (cuts int, err error) {
	s, store, j, err := atWork(dir, seed, skip, "walked")
	if err != nil {
		return 0, err
	}
	if err := killed(store, j); err != nil {
		return 0, err
	}
	gone := []string{partition.SlotPath(s.data, 0), partition.SlotPath(s.data, 1)}
	files, err := s.fs.ReadDir(filepath.Join(s.data, journalName))
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		gone = append(gone, filepath.Join(s.data, journalName, f.Name()))
	}
	for _, name := range gone {
		if err := s.fs.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, err
		}
	}
	if store, _, err = openStore(s.fs, s.data, s.now, s.image, &j); err != nil {
		return 0, err
	}
	if err := s.all(store); err != nil {
		return 0, fmt.Errorf("before the cut: %w", err)
	}
	err = s.cut(func(data string) error { return s.reopened(data, s.image) })
	return s.cuts, errors.Join(err, killed(store, j))
}

// orphaned: a partition's directory has lost what ties it to its topic, a start that knows the name writes that again,
// the power is cut, and then the catalog is gone. What a partition's directory says of itself is all there is.
func orphaned(dir string, seed uint64, skip disk.Point) (cuts int, err error) {
	s, store, j, err := atWork(dir, seed, skip, "orphaned")
	if err != nil {
		return 0, err
	}
	if err := errors.Join(store.Checkpoint(), killed(store, j)); err != nil {
		return 0, err
	}
	of := filepath.Join(s.data, "topics", "orphaned-0")
	if err := errors.Join(s.fs.Remove(filepath.Join(of, segment.MetadataName)), s.fs.SyncDir(of, "scene")); err != nil {
		return 0, err
	}
	if store, _, err = openStore(s.fs, s.data, s.now, s.image, &j); err != nil { // adopts it by its name
		return 0, err
	}
	err = s.cut(func(data string) error { return s.reopened(data, &catalog.Image{}) })
	return s.cuts, errors.Join(err, killed(store, j))
}

// quarantined: the journal has an acknowledged record of a topic that nobody knows. The start sets it aside and lets the
// journal forget it, so it must be there after a cut.
func quarantined(dir string, seed uint64, skip disk.Point) (cuts int, err error) {
	s, err := newScene(dir, seed, skip)
	if err != nil {
		return 0, err
	}
	j, err := openJournal(s.fs, s.data, journal.Mark{})
	if err != nil {
		return 0, err
	}
	if _, err := j.Replay(func(journal.Frame) error { return nil }); err != nil {
		return 0, err
	}
	if err := j.Start(); err != nil {
		return 0, err
	}
	left := value(seed, 300)
	done := make(chan error, 1)
	j.Stage([]journal.Entry{{Kind: journal.Append, Topic: s.topic, Length: int32(len(left)), Bytes: left}}, func(err error) { done <- err })
	if err := errors.Join(<-done, j.Close()); err != nil {
		return 0, err
	}
	store, report, err := openStore(s.fs, s.data, s.now, s.image, &j)
	if err != nil {
		return 0, err
	}
	if report.Quarantined != 1 {
		return 0, fmt.Errorf("%d entries in quarantine, want 1", report.Quarantined)
	}
	err = s.cut(func(data string) error {
		store, _, err := openStore(disk.OS{}, data, s.now, s.image, nil)
		if err != nil {
			return err
		}
		kept, err := filepath.Glob(filepath.Join(data, "quarantine", "*"))
		for _, name := range kept {
			text, err := os.ReadFile(name)
			if err != nil {
				return errors.Join(err, store.Close())
			}
			if bytes.Contains(text, left) {
				return store.Close()
			}
		}
		return errors.Join(err, store.Close(), errors.New("LOST: the record of the unknown topic is neither in the journal nor in quarantine"))
	})
	return s.cuts, errors.Join(err, killed(store, j))
}

// offline: a partition cannot be opened, because its files fail. The board goes on without it, and a checkpoint lets the
// journal forget what it has of it, so that must be somewhere else after a cut.
func offline(dir string, seed uint64, skip disk.Point) (cuts int, err error) {
	s, store, j, err := atWork(dir, seed, skip, "offline")
	if err != nil {
		return 0, err
	}
	if err := killed(store, j); err != nil {
		return 0, err
	}
	failing := &disktest.Failing{FS: s.fs, Fault: func(op, name string) error {
		if strings.Contains(name, "offline-0") {
			return fmt.Errorf("%s %s: %w", op, filepath.Base(name), syscall.EIO)
		}
		return nil
	}}
	if store, _, err = openStore(failing, s.data, s.now, s.image, &j); err != nil {
		return 0, err
	}
	if err := store.Offline(s.topic, 0); err == nil {
		return 0, errors.New("the partition is not offline")
	}
	if err := errors.Join(store.Checkpoint(), store.Checkpoint()); err != nil { // both slots
		return 0, err
	}
	err = s.cut(func(data string) error { return s.reopened(data, s.image) })
	return s.cuts, errors.Join(err, killed(store, j))
}

// scenes are all of them, by name.
var scenes = map[string]func(dir string, seed uint64, skip disk.Point) (cuts int, err error){
	"checkpointed": checkpointed, "compacted": compacted, "formatted": formatted, "led": led, "mended": mended, "metered": metered, "offline": offline,
	"orphaned": orphaned, "quarantined": quarantined, "relearned": relearned, "reset": reset, "restored": restored, "snapshotted": snapshotted,
	"timed": timed, "walked": walked,
}

// With every sync in its place no scene loses anything.
func TestScenes(t *testing.T) {
	for name, play := range scenes {
		t.Run(name, func(t *testing.T) {
			cuts := 0
			for seed := range uint64(5) {
				n, err := play(scratch(t), seed+1, "")
				if err != nil {
					t.Errorf("seed %d: %v", seed+1, err)
				}
				cuts += n
			}
			t.Logf("%d cuts", cuts)
		})
	}
}
