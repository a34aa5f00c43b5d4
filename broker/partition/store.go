package partition

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/broker/budget"
	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/journal"
	"millrace/broker/segment"
)

// Config says where the store lives and what it is given. Zero values mean the default in brackets.
type Config struct {
	Dir string  // the data directory: checkpoint.0 and .1, topics/, quarantine/
	FS  disk.FS // [disk.OS]
	// OpenJournal opens the journal behind the checkpoint's mark, which only the store knows. The store closes it.
	OpenJournal func(after journal.Mark) (Journal, error)
	// Slots has the checkpoint's slots in place of the files checkpoint.0 and .1. [none]
	Slots CheckpointStore
	// Known tells what the catalog knows of a topic id. [nothing: every topic found is an orphan]
	Known func(catalog.TopicID) (Topic, catalog.TopicConfig, bool)
	// Named does the same for a name: for a directory whose partition.metadata is lost.
	Named func(name string) (Topic, catalog.TopicConfig, bool)
	// Defaults are the settings of orphans until they are adopted. [catalog.DefaultTopicConfig]
	Defaults *catalog.TopicConfig
	// Recompressed is where batches that are compressed anew are held until they are durable. [2 MiB]
	Recompressed *budget.Share
	// Space keeps the reserve. [no limit]
	Space  *disk.Space
	Now    func() time.Time // [time.Now]
	Clock  Clock            // [one that believes Now]
	Logger *slog.Logger     // [discard]
	// OnCheckpoint is called after each checkpoint: something was written just now.
	OnCheckpoint func()
	// OnAdvance is called from the journal's committer after a high watermark moved. It must be quick and not block.
	OnAdvance func(*Partition)
	// OnOnline is called after a partition has come back that was offline when Open returned. No checkpoint is made
	// before it returns.
	OnOnline func(*Partition)
	// OnDiskFull is called when an append was refused for want of space: time to drop the oldest. It must not block.
	OnDiskFull func()

	JournalBytesMax      int64 // bytes committed since the last checkpoint that call for the next [32 MiB]
	CheckpointIntervalMS int64 // by Tick, when anything was committed since [300,000]
	Handles              int   // open files of all segments, and an eighth of the logs that may wait for a sync [96]
	ProducerMax          int   // producers remembered, all partitions together [4,096]
	ProducerExpireMS     int64 // producer.id.expiration.ms [86,400,000]
}

// Store holds the partitions of one data directory. All methods are safe for concurrent use.
type Store struct {
	cfg     Config
	log     *slog.Logger
	topics  string
	journal Journal
	handles *segment.Handles

	creating   sync.Mutex // one Create at a time; taken before mu
	mu         sync.RWMutex
	partitions map[key]*Partition
	offline    map[key]*offline // changed under creating too
	closed     bool

	producers atomic.Int64          // remembered in all partitions
	queued    atomic.Int64          // bytes that wait for the journal
	groups    atomic.Int64          // appends that wait for the journal
	written   atomic.Int64          // bytes of batches that became durable in topics that are not the board's own
	touched   atomic.Bool           // something was committed since the last checkpoint
	needs     atomic.Pointer[Needs] // what links still need, nil for nothing

	deleting  sync.RWMutex // held shared from a deletion's entry until its directories are renamed for good
	names     sync.Mutex
	newTopics atomic.Bool // a name in topics/ is not known to be durable

	checkpointing  sync.Mutex // one at a time; guards slots
	slots          slots
	nextCheckpoint atomic.Int64  // ms: not by itself before
	kick           chan struct{} // a checkpoint is asked for
	due            chan int64    // at this time a partition that is offline is to be tried again
	stop           chan struct{}
	stopped        chan struct{}
	abandoned      chan struct{} // closed by Abandon: nothing waits for the journal any more
	deletes        atomic.Uint64 // makes the names of deleted directories differ
}

// key names a partition for good.
type key struct {
	topic catalog.TopicID
	index int32
}

func (c *Config) fill() error {
	if c.Dir == "" || c.OpenJournal == nil {
		return errors.New("partition store: Dir and OpenJournal must be set")
	}
	if c.FS == nil {
		c.FS = disk.OS{}
	}
	if c.Known == nil {
		c.Known = func(catalog.TopicID) (Topic, catalog.TopicConfig, bool) { return Topic{}, catalog.TopicConfig{}, false }
	}
	if c.Named == nil {
		c.Named = func(string) (Topic, catalog.TopicConfig, bool) { return Topic{}, catalog.TopicConfig{}, false }
	}
	if c.Defaults == nil {
		d := catalog.DefaultTopicConfig()
		c.Defaults = &d
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Clock == nil {
		c.Clock = believer{c.Now}
	}
	if c.OnCheckpoint == nil {
		c.OnCheckpoint = func() {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.OnAdvance == nil {
		c.OnAdvance = func(*Partition) {}
	}
	if c.OnOnline == nil {
		c.OnOnline = func(*Partition) {}
	}
	if c.OnDiskFull == nil {
		c.OnDiskFull = func() {}
	}
	if c.Recompressed == nil {
		const size = 2 << 20
		room, err := budget.New(size).Share("recompressed", size)
		if err != nil {
			return err
		}
		c.Recompressed = room
	}
	orDefault(&c.JournalBytesMax, 32<<20)
	orDefault(&c.CheckpointIntervalMS, 300_000)
	orDefault(&c.Handles, 96)
	orDefault(&c.ProducerMax, 4096)
	orDefault(&c.ProducerExpireMS, 86_400_000)
	return nil
}

func orDefault[T int | int64](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// Open brings the store back from whatever the last stop left (README.md: Recovery) and starts the journal. It fails
// only where the directory itself or the journal cannot be used; damage is survived and told in the Report.
func Open(cfg Config) (*Store, Report, error) {
	if err := cfg.fill(); err != nil {
		return nil, Report{}, err
	}
	s := &Store{
		cfg: cfg, log: cfg.Logger, topics: filepath.Join(cfg.Dir, "topics"),
		handles:    segment.NewHandles(cfg.FS, cfg.Handles),
		partitions: make(map[key]*Partition),
		offline:    make(map[key]*offline),
		due:        make(chan int64, 1),
		kick:       make(chan struct{}, 1),
		stop:       make(chan struct{}),
		stopped:    make(chan struct{}),
		abandoned:  make(chan struct{}),
	}
	r := newRecovery(s)
	if err := r.run(); err != nil {
		var closed error
		if s.journal != nil {
			closed = s.journal.Close()
		}
		return nil, r.report, errors.Join(fmt.Errorf("open %s: %w", cfg.Dir, err), closed, s.closePartitions())
	}
	go s.run()
	return s, r.report, nil
}

// run makes the checkpoints that committed bytes and Tick ask for, and tries partitions again that are offline.
func (s *Store) run() {
	defer close(s.stopped)
	for {
		select {
		case <-s.stop:
			return
		case nowMS := <-s.due:
			for _, p := range s.bringBack(nowMS) {
				s.cfg.OnOnline(p)
			}
		case <-s.kick:
			if err := s.Checkpoint(); err != nil {
				s.log.Error("checkpoint failed; the journal keeps its front", "err", err)
				continue
			}
			// Every commit that came meanwhile has asked for the checkpoint that is done. Where another is due already the
			// next commit asks again.
			select {
			case <-s.kick:
			default:
			}
		}
	}
}

func (s *Store) wake() {
	select {
	case s.kick <- struct{}{}:
	default: // one is asked for already
	}
}

// Tick is the slow timer, told the time as Clock.AgeMS has it: it asks for a checkpoint when the last one is long past and something was committed since,
// has partitions tried again that are offline, and forgets silent producers. It does not block on the disk.
func (s *Store) Tick(nowMS int64) {
	if s.anyDue(nowMS) {
		select {
		case s.due <- nowMS:
		default: // it is asked for already
		}
	}
	if s.touched.Load() && nowMS >= s.nextCheckpoint.Load() {
		s.wake()
	}
	for p := range s.All() {
		p.mu.Lock()
		s.producers.Add(-int64(p.producers.expire(nowMS, s.cfg.ProducerExpireMS)))
		p.mu.Unlock()
	}
}

// committed is told of every commit, by the committer.
func (s *Store) committed() {
	s.touched.Store(true)
	if inline, pointed := s.journal.Bytes(); inline+pointed >= s.cfg.JournalBytesMax {
		s.wake()
	}
}

func (s *Store) advanced(p *Partition) { s.cfg.OnAdvance(p) }

// Written is how many bytes of batches became durable since Open in topics that are not the board's own: what clients,
// sensors and bridges wrote, as it is stored.
func (s *Store) Written() int64 { return s.written.Load() }

// Create makes partition index of topic t, or finds it and gives it cfg. It is not synced yet: the first commit that
// needs it carries it in the journal. One that is offline is ErrOffline until it has come back by itself.
func (s *Store) Create(t Topic, index int32, cfg catalog.TopicConfig) (*Partition, error) {
	s.creating.Lock() // not mu: it syncs, and every fetch and produce looks its partition up
	defer s.creating.Unlock()
	if p := s.Get(t.ID, index); p != nil {
		p.SetConfig(cfg)
		return p, nil
	}
	s.mu.RLock()
	closed := s.closed
	s.mu.RUnlock()
	if closed {
		return nil, ErrDeleted
	}
	if err := s.Offline(t.ID, index); err != nil {
		return nil, err
	}
	p, err := s.create(t, index, cfg, 0)
	if err != nil {
		return nil, fmt.Errorf("create %s-%d: %w", t.Name, index, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.Join(ErrDeleted, closePieces(p.pieces))
	}
	s.partitions[key{t.ID, index}] = p
	return p, nil
}

// create makes the directory and an empty log that starts at offset start.
func (s *Store) create(t Topic, index int32, cfg catalog.TopicConfig, start int64) (*Partition, error) {
	if err := catalog.ValidTopicName(t.Name); err != nil || index < 0 {
		return nil, fmt.Errorf("%w: partition %d", err, index)
	}
	p := s.blank(t, index, cfg)
	if err := s.nameTaken(p); err != nil {
		return nil, err
	}
	if err := s.setAside(p.dir); err != nil {
		return nil, err
	}
	err := s.cfg.FS.MkdirAll(p.dir, 0o755)
	s.newTopics.Store(true)
	if err == nil {
		err = p.begin(start)
	}
	if err == nil {
		return p, nil
	}
	// DeleteTopic would not know of what is there by now, and the next start would take it for a partition.
	if left := s.discard([]string{p.dir}); left != nil {
		s.log.Warn("a partition that could not be made is left", "directory", p.dir, "err", left)
	}
	return nil, err
}

// nameTaken is ErrNameTaken where a partition of another topic id has the directory: a topic of that name whose deletion
// failed, and which must be deleted first.
func (s *Store) nameTaken(p *Partition) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	taken := func(t Topic, index int32) bool {
		return index == p.index && t.Name == p.topic.Name && t.ID != p.topic.ID
	}
	for _, other := range s.partitions {
		if taken(other.topic, other.index) {
			return fmt.Errorf("%w: it has the id %s", ErrNameTaken, other.topic.ID)
		}
	}
	for k, o := range s.offline {
		if taken(o.topic, k.index) {
			return fmt.Errorf("%w: it has the id %s", ErrNameTaken, o.topic.ID)
		}
	}
	return nil
}

// begin makes an empty log in the partition's empty directory.
func (p *Partition) begin(start int64) error {
	if err := segment.WriteMetadata(p.store.cfg.FS, p.dir, p.topic.ID); err != nil {
		return err
	}
	first, err := segment.Create(p.store.cfg.FS, p.dir, start, p.segmentConfig())
	if err != nil {
		return err
	}
	p.pieces = []*piece{{Segment: first}}
	p.durablePiece = p.pieces[0]
	p.start, p.high, p.durable = start, start, start
	p.end.Store(start)
	return nil
}

// blank is a partition without a log.
func (s *Store) blank(t Topic, index int32, cfg catalog.TopicConfig) *Partition {
	p := &Partition{store: s, topic: t, index: index, leading: true, followers: noFollowers, snapshot: -1, places: [2]int64{-1, -1}}
	p.dir = filepath.Join(s.topics, p.String())
	p.damagedAt.Store(-1)
	p.config.Store(&cfg)
	return p
}

// setAside moves a directory that is in the way, and that no partition owns, to Kafka's name for strays. Nothing is
// ever deleted that the journal does not say is deleted.
func (s *Store) setAside(dir string) error {
	if _, err := s.cfg.FS.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	to := s.unusedName(dir, straySuffix)
	s.log.Warn("a directory that belongs to no topic is set aside", "directory", dir, "to", to)
	err := s.cfg.FS.Rename(dir, to)
	s.newTopics.Store(true) // after it: a sync under way may have missed it
	return err
}

// Get is one partition, nil where there is none.
func (s *Store) Get(topic catalog.TopicID, index int32) *Partition {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.partitions[key{topic, index}]
}

// All yields the partitions there are when it is called, in no order.
func (s *Store) All() iter.Seq[*Partition] {
	s.mu.RLock()
	all := slices.Collect(maps.Values(s.partitions))
	s.mu.RUnlock()
	return slices.Values(all)
}

// Check asks every partition whether its invariants hold: for tests and for fsck. It is nil when all do.
func (s *Store) Check() error {
	var errs []error
	for p := range s.All() {
		errs = append(errs, p.check())
	}
	return errors.Join(errs...)
}

// Close commits what is staged, makes a checkpoint and closes everything. Appends are refused from the moment it is
// called; the callers of those staged before are answered.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	for p := range s.All() {
		p.mu.Lock()
		failed := p.sealLocked()
		p.gone.Store(true)
		p.mu.Unlock()
		failed.refuse()
	}
	close(s.stop)
	<-s.stopped
	var errs []error
	if s.touched.Load() || s.queued.Load() > 0 {
		errs = append(errs, s.Checkpoint())
	}
	s.checkpointing.Lock()
	errs = append(errs, s.slots.settle())
	s.checkpointing.Unlock()
	errs = append(errs, s.journal.Close())
	for p := range s.All() {
		p.active().EndTopics()
	}
	return errors.Join(append(errs, s.closePartitions())...)
}

// Abandon closes the files and ends the store's goroutine without a commit, a checkpoint or a word to the journal: the
// next Open finds what kill -9 would have left.
func (s *Store) Abandon() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	for p := range s.All() {
		p.gone.Store(true)
	}
	close(s.abandoned)
	close(s.stop)
	<-s.stopped
	return s.closePartitions()
}

func (s *Store) closePartitions() error {
	var errs []error
	for p := range s.All() {
		p.state.Lock()
		errs = append(errs, closePieces(p.pieces))
		p.state.Unlock()
	}
	return errors.Join(append(errs, s.handles.Close())...)
}
