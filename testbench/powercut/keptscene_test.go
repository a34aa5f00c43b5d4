package powercut

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"millrace/broker"
	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/partition"
	"millrace/broker/quorum"
	"millrace/broker/segment"
)

// formatted: a directory was formatted, and the cluster's id was told.
func formatted(dir string, seed uint64, skip disk.Point) (cuts int, err error) {
	s, err := newScene(dir, seed, skip)
	if err != nil {
		return 0, err
	}
	m, err := broker.Format(s.fs, s.data, "", 1)
	if err != nil {
		return 0, err
	}
	err = s.cut(func(data string) error {
		switch found, err := broker.ReadMeta(disk.OS{}, data); {
		case err != nil:
			return fmt.Errorf("LOST: the cluster id: %w", err)
		case found != m:
			return fmt.Errorf("LOST: the directory is %+v, it was formatted as %+v", found, m)
		}
		return nil
	})
	return s.cuts, err
}

// snapshotted: the catalog took two snapshots, and its log let go of what the older one covers. Then a cut may keep
// neither the log nor a snapshot whose bytes or name were not durable.
func snapshotted(dir string, seed uint64, skip disk.Point) (cuts int, err error) {
	s, err := newScene(dir, seed, skip)
	if err != nil {
		return 0, err
	}
	config := quorum.Config{Dir: filepath.Join(s.data, "quorum"), FS: s.fs, NodeID: 1}
	q, err := quorum.Open(config)
	if err != nil {
		return 0, err
	}
	err = s.fill(q, config.Dir)
	want := q.Image()
	if err == nil {
		config.FS = disk.OS{}
		err = s.cut(func(data string) error {
			config.Dir = filepath.Join(data, "quorum")
			q, err := quorum.Open(config)
			if err != nil {
				return err
			}
			if r := q.Report(); r.Lost || len(r.Damage) > 0 || !q.Image().Equal(want) {
				err = fmt.Errorf("LOST: the catalog is at version %d, confirmed was %d: %+v", q.Image().Version(), want.Version(), r)
			}
			return errors.Join(err, q.Close())
		})
	}
	if closed := q.Close(); !errors.Is(closed, disktest.ErrCut) {
		err = errors.Join(err, closed)
	}
	return s.cuts, err
}

// fill changes the catalog until its log has let its front go, and has made that durable by going on in another file.
func (s *scene) fill(q *quorum.Quorum, dir string) error {
	ctx := context.Background()
	if _, err := q.Propose(ctx, catalog.RegisterBroker{ID: 1, Host: "localhost", Port: 9092, Incarnation: catalog.NewTopicID()}); err != nil {
		return err
	}
	create, err := catalog.NewTopic(q.Image(), "snapshotted", s.topic, 1, 1, nil)
	if err != nil {
		return err
	}
	if _, err := q.Propose(ctx, create); err != nil {
		return err
	}
	first, gone := "", "" // the oldest file of the log, and the newest when it went
	for i := range 500 {
		_, err := q.Propose(ctx, catalog.AlterTopicConfig{
			Topic: s.topic, Ops: []catalog.ConfigOp{
				{Name: setting, Value: fmt.Sprint(i)}, {Name: strings.Repeat("x", 6000), Op: catalog.OpDelete}, // a large command
			},
		})
		if err != nil {
			return err
		}
		files, err := s.fs.ReadDir(filepath.Join(dir, "log"))
		if err != nil {
			return err
		}
		oldest, newest := files[0].Name(), files[len(files)-1].Name()
		switch {
		case first == "":
			first = oldest
		case gone == "" && oldest != first:
			gone = newest
		case gone != "" && newest != gone:
			return nil
		}
	}
	return errors.New("the catalog's log never lets its front go")
}

// led: a partition had several leaders, and a checkpoint said so. Recovery reads the epochs from the log anew where the
// file is no good, but Kafka, whose file it is, does not.
func led(dir string, seed uint64, skip disk.Point) (cuts int, err error) {
	s, store, j, err := atWork(dir, seed, skip, "led")
	if err != nil {
		return 0, err
	}
	want := []segment.EpochStart{{Epoch: 0, Start: 0}}
	for epoch := int32(1); epoch < 4 && err == nil; epoch++ {
		want = append(want, segment.EpochStart{Epoch: epoch, Start: store.Get(s.topic, 0).End()})
		err = s.lead(store, epoch)
	}
	if err == nil {
		err = s.cut(func(data string) error {
			known, err := segment.ReadEpochs(disk.OS{}, filepath.Join(data, "topics", "led-0"))
			if err != nil || !slices.Equal(known, want) {
				return fmt.Errorf("LOST: leader epochs %v, confirmed were %v: %w", known, want, err)
			}
			return s.reopened(data, s.image)
		})
	}
	return s.cuts, errors.Join(err, killed(store, j))
}

// lead has the partition begin a leader epoch with a record, and a checkpoint note it.
func (s *scene) lead(store *partition.Store, epoch int32) error {
	p := store.Get(s.topic, 0)
	if err := p.SetLeader(epoch, true); err != nil {
		return err
	}
	if err := appended(p, uint64(sceneRecords+epoch), 100); err != nil {
		return err
	}
	return store.Checkpoint()
}

// checkpointed: records were deleted, and the journal has let go of the frame that says so: the checkpoint does. Why they
// went is in the partition's directory then.
func checkpointed(dir string, seed uint64, skip disk.Point) (cuts int, err error) {
	s, store, j, err := atWork(dir, seed, skip, "checkpointed")
	if err != nil {
		return 0, err
	}
	const more = 3 * walSegment / inlineMax // records that fill files of the journal
	p, deleted := store.Get(s.topic, 0), make(chan error, 1)
	p.DeleteRecords(7, func(_ int64, err error) { deleted <- err })
	err = <-deleted
	for id := uint64(sceneRecords); err == nil && id < sceneRecords+more; id++ {
		err = appended(p, id, inlineMax-500)
	}
	if err = errors.Join(err, store.Checkpoint(), store.Checkpoint()); err == nil {
		err = s.cut(func(data string) error {
			store, _, err := openStore(disk.OS{}, data, s.now, s.image, nil)
			if err != nil {
				return err
			}
			p := store.Get(s.topic, 0)
			log, err := readPartition(p, p.Start(), p.High())
			if want := sceneRecords + more - 7; err == nil && (p.Start() != 7 || len(log.records) != want) {
				err = fmt.Errorf("LOST: the log begins at %d with %d records, want 7 and %d", p.Start(), len(log.records), want)
			}
			if why := p.StartCause(); err == nil && why != segment.ByClient {
				err = fmt.Errorf("LOST: it begins there for %s, want %s", why, segment.ByClient)
			}
			return errors.Join(err, store.Close())
		})
	}
	return s.cuts, errors.Join(err, killed(store, j))
}

// relearned: the first segment went, and the log begins inside the next, so that the epochs' file does not fit it to the
// letter and they are read from the log. A leader begins behind the checkpoint, in records that only the journal has, and
// goes on in a segment of its own.
func relearned(dir string, seed uint64, skip disk.Point) (cuts int, err error) {
	s, store, j, err := atWork(dir, seed, skip, "relearned")
	if err != nil {
		return 0, err
	}
	p, ids := store.Get(s.topic, 0), uint64(sceneRecords)
	more := func(n, size int) {
		for ; err == nil && n > 0; n-- {
			err = appended(p, ids, size)
			ids++
		}
	}
	more(2, logSegment/2) // the second rolls
	more(2, 100)
	start := p.End() - 1
	deleted := make(chan error, 1)
	p.DeleteRecords(start, func(_ int64, err error) { deleted <- err })
	err = errors.Join(err, <-deleted)
	if err == nil {
		_, err = p.Retain(s.now().UnixMilli())
	}
	err = errors.Join(err, store.Checkpoint(), p.SetLeader(1, true))
	more(2, inlineMax-500) // only in the journal
	more(1, logSegment/2)  // pointed to: synced with its commit
	if err == nil {
		err = s.cut(func(data string) error {
			store, _, err := openStore(disk.OS{}, data, s.now, s.image, nil)
			if err != nil {
				return err
			}
			p := store.Get(s.topic, 0)
			log, err := readPartition(p, p.Start(), p.High())
			if want := int64(ids) - start; err == nil && (p.Start() != start || int64(len(log.records)) != want) {
				err = fmt.Errorf("LOST: the log begins at %d and shows %d records, want %d and %d", p.Start(), len(log.records), start, want)
			}
			return errors.Join(err, store.Close())
		})
	}
	return s.cuts, errors.Join(err, killed(store, j))
}
