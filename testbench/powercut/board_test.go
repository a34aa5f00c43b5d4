package powercut

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"millrace/broker"
	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/journal"
	"millrace/broker/partition"
	"millrace/broker/quorum"
	"millrace/broker/record"
)

// board is a broker without its doors: directory, catalog, journal and partitions, put together as broker.New does.
type board struct {
	meta   broker.Meta
	quorum *quorum.Quorum
	store  *partition.Store
	losses []string
}

// setting is what the workload changes of a topic.
const setting = "retention.ms"

// topicConfig makes everything happen soon.
func topicConfig() catalog.TopicConfig {
	c := catalog.DefaultTopicConfig()
	c.SegmentBytes, c.RetentionBytes, c.IndexIntervalBytes = logSegment, retainBytes, 512
	return c
}

// openBoard starts a board on what there is in dir. formatted is told before anything else is done.
func openBoard(fs disk.FS, dir string, now func() time.Time, formatted func(broker.Meta)) (b *board, err error) {
	b = &board{}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	switch b.meta, err = broker.ReadMeta(fs, dir); {
	case errors.Is(err, broker.ErrNotFormatted):
		if b.meta, err = broker.Format(fs, dir, "", 1); err != nil {
			return b, err
		}
	case err != nil:
		return b, err
	}
	formatted(b.meta)
	ctx := context.Background()
	if b.quorum, err = quorum.Open(quorum.Config{
		Dir: filepath.Join(dir, "quorum"), FS: fs, NodeID: 1, ClusterID: b.meta.ClusterID,
	}); err != nil {
		return b, err
	}
	if r := b.quorum.Report(); r.Lost || len(r.Damage) > 0 {
		b.losses = append(b.losses, fmt.Sprintf("catalog: %+v", r))
	}
	if _, err := b.quorum.Propose(ctx, catalog.RegisterBroker{
		ID: 1, Host: "localhost", Port: 9092, Incarnation: catalog.NewTopicID(),
	}); err != nil {
		return b, err
	}
	image := b.quorum.Image()
	store, report, err := openStore(fs, dir, now, image, nil)
	if err != nil {
		return b, err
	}
	b.store = store
	b.losses = append(b.losses, report.Lost...)
	for _, o := range report.Orphans {
		if image.Deleted(o.Topic.ID) {
			if err := store.DeleteTopic(o.Topic.ID); err != nil {
				return b, err
			}
		}
	}
	for t := range image.Topics() {
		for i := range int32(len(t.Partitions)) {
			_, err := store.Create(partition.Topic{ID: t.ID, Name: t.Name}, i, configOf(t.Name))
			if err != nil && !errors.Is(err, partition.ErrOffline) {
				return b, err
			}
		}
	}
	return b, nil
}

func (b *board) close() error {
	var errs []error
	if b.store != nil {
		errs = append(errs, b.store.Close())
	}
	if b.quorum != nil {
		errs = append(errs, b.quorum.Close())
	}
	return errors.Join(errs...)
}

// survey reads everything.
func (b *board) survey() (*survey, error) {
	s := &survey{Cluster: b.meta.ClusterID, Losses: b.losses}
	image := b.quorum.Image()
	for t := range image.Topics() {
		value := 0
		if text := t.Config[setting]; text != "" {
			var err error
			if value, err = strconv.Atoi(text); err != nil {
				return nil, err
			}
		}
		st := surveyedTopic{ID: t.ID, Name: t.Name, Value: value}
		for i := range int32(len(t.Partitions)) {
			p := b.store.Get(t.ID, i)
			if p == nil {
				st.Parts = append(st.Parts, surveyedPart{Offline: true})
				continue
			}
			sp := surveyedPart{Start: p.Start(), High: p.High()}
			log, err := readPartition(p, sp.Start, sp.High)
			if err != nil {
				return nil, err
			}
			for _, r := range log.records {
				sp.IDs, sp.Offsets = append(sp.IDs, r.id), append(sp.Offsets, r.offset)
			}
			st.Parts = append(st.Parts, sp)
			s.Losses = append(s.Losses, log.epochs(p)...)
		}
		s.Topics = append(s.Topics, st)
	}
	for p := range b.store.All() {
		if id := p.TopicID(); image.TopicByID(id) == nil && !slices.Contains(s.Strays, id) {
			s.Strays = append(s.Strays, id)
		}
	}
	slices.SortFunc(s.Strays, func(x, y catalog.TopicID) int { return cmp.Compare(string(x[:]), string(y[:])) })
	return s, nil
}

// partitionLog is what was read of a partition.
type partitionLog struct {
	records []seen
	batches []record.Batch // headers: base offset and leader epoch
}

// readPartition fetches [from, to) and checks every byte of it.
func readPartition(live *partition.Partition, from, to int64) (log partitionLog, err error) {
	p := &part{topic: &topic{name: live.Topic(), config: configOf(live.Topic())}, index: live.Index()}
	for from < to {
		span, err := live.Read(from, 64<<10)
		if err != nil {
			return log, fmt.Errorf("read %s at %d of %d: %w", p, from, to, err)
		}
		bytes, err := span.Append(nil)
		span.Release()
		if err != nil {
			return log, fmt.Errorf("read %s at %d of %d: %w", p, from, to, err)
		}
		before := from
		for rest := bytes; len(rest) > 0; {
			var b record.Batch
			if b, rest, err = record.Next(rest); err != nil {
				return log, fmt.Errorf("read %s at %d: %w", p, from, err)
			}
			log.batches = append(log.batches, b)
			for r, err := range b.Records(1 << 20) {
				if err != nil {
					return log, fmt.Errorf("read %s at %d: %w", p, from, err)
				}
				if r.Offset < from || r.Offset >= to {
					continue // the batch begins earlier or goes on
				}
				id, err := identify(p, r)
				if err != nil {
					return log, err
				}
				log.records = append(log.records, seen{r.Offset, id})
			}
			from = max(from, b.NextOffset())
		}
		if from == before {
			return log, fmt.Errorf("read %s at %d of %d: nothing there", p, from, to)
		}
	}
	return log, nil
}

// epochs holds what the partition knows of its leader epochs against its batches.
func (l partitionLog) epochs(p *partition.Partition) (wrong []string) {
	for i, b := range l.batches {
		end := p.High()
		if i+1 < len(l.batches) {
			if end = l.batches[i+1].BaseOffset(); l.batches[i+1].LeaderEpoch() == b.LeaderEpoch() {
				continue
			}
		}
		if epoch, at := p.EpochEnd(b.LeaderEpoch()); epoch != b.LeaderEpoch() || at != end {
			wrong = append(wrong, fmt.Sprintf("%s: leader epoch %d ends at %d, the partition says %d at %d", p, b.LeaderEpoch(), end, epoch, at))
		}
	}
	return wrong
}

// openStore starts the partitions and the journal of a directory, with segments so small that everything happens soon.
// used, which may be nil, is given the journal: a store that is abandoned does not close it.
func openStore(fs disk.FS, dir string, now func() time.Time, image *catalog.Image, used **journal.Journal) (*partition.Store, partition.Report, error) {
	known := func(t *catalog.Topic) (partition.Topic, catalog.TopicConfig, bool) {
		if t == nil {
			return partition.Topic{}, catalog.TopicConfig{}, false
		}
		return partition.Topic{ID: t.ID, Name: t.Name}, configOf(t.Name), true
	}
	return partition.Open(partition.Config{
		Dir: dir, FS: fs, Now: now, JournalBytesMax: 128 << 10, Handles: 12,
		Known: func(id catalog.TopicID) (partition.Topic, catalog.TopicConfig, bool) {
			return known(image.TopicByID(id))
		},
		Named: func(name string) (partition.Topic, catalog.TopicConfig, bool) { return known(image.Topic(name)) },
		OpenJournal: func(after journal.Mark) (partition.Journal, error) {
			j, err := openJournal(fs, dir, after)
			if err != nil {
				return nil, err
			}
			if used != nil {
				*used = j
			}
			return j, nil
		},
	})
}

func openJournal(fs disk.FS, dir string, after journal.Mark) (*journal.Journal, error) {
	return journal.Open(journalOptions(fs, dir), after)
}

func journalOptions(fs disk.FS, dir string) journal.Options {
	return journal.Options{
		Dir: filepath.Join(dir, journalName), FS: fs, SegmentBytes: walSegment, InlineMax: inlineMax, FrameMax: 64 << 10,
	}
}
