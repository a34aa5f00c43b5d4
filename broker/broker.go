// Package broker builds everything below it into one running board and owns it: the catalog, the journal, the
// partitions, the doors and the bridges. Nothing else knows both sides of an interface.
package broker

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"millrace/bridge/feed"
	"millrace/bridge/mqtt"
	"millrace/bridge/upstream"
	"millrace/broker/api"
	"millrace/broker/auth"
	"millrace/broker/boot"
	"millrace/broker/catalog"
	"millrace/broker/cleaner"
	"millrace/broker/disk"
	"millrace/broker/group"
	"millrace/broker/journal"
	"millrace/broker/partition"
	"millrace/broker/poll"
	"millrace/broker/purgatory"
	"millrace/broker/quorum"
	"millrace/broker/rest"
	"millrace/broker/server"
	"millrace/hw/bus"
	"millrace/hw/clock"
	"millrace/platform/config"
	"millrace/platform/health"
	"millrace/platform/identity"
	"millrace/platform/pulse"
)

// Config is what a board is opened with.
type Config struct {
	// Settings is the checked configuration; Settings.Broker.LogDirs is the data directory.
	Settings *config.Config
	// FS is the disk; nil means disk.OS.
	FS disk.FS
	// Sim adds a simulated bus with one climate sensor.
	Sim bool
	// Buses knows simulated buses beside the kernel's; nil means none.
	Buses *bus.Registry
	// ForgetFront starts without what is in an FRAM that is missing, or that is another board's.
	ForgetFront bool
	// Version of the program, for who asks the board; empty means unknown.
	Version string
	// Now tells the time, with a monotonic part that says how much of it passed; nil means time.Now.
	Now func() time.Time
	// Wall is the system's clock, where it is not Now: that of a test, which is set. nil means Now.
	Wall func() time.Time
	// Disciplined says whether Wall is right; nil means that the kernel is asked.
	Disciplined func() bool
	// Boot names this run of the kernel, and Reset what its watchdog device says of the machine's last reset; "" for what is
	// not known. They tell how the last life ended.
	Boot, Reset string
	// Sockets are listeners that are open already: the one of a listener's address is used in its place. The board closes them
	// with its doors; one that no listener has the address of is an error of Open.
	Sockets []net.Listener
	// Watchdogs are fed from the beginning of the start to the end of Close, while the start, the running board and the stop
	// go on. They stay the caller's.
	Watchdogs []health.Watchdog
	// Logger is told what happens; nil discards.
	Logger *slog.Logger
	// Logs has the last lines of Logger, for who asks the board; nil: there are none.
	Logs interface {
		Recent() []byte
		Troubles() []string
	}
	// Reveal shows somebody the secret of the user that a board begins with, once, before it counts: nothing keeps it. After an
	// error, and where it is nil, there is no such user.
	Reveal func(user, secret string) error
	// remote is what links reach, for tests; nil: Kafka.
	remote  func(*config.Upstream) upstream.Remote
	still   time.Duration         // in place of stillMax, for tests
	sys     string                // in place of storage.Sys, for tests
	setWall func(time.Time) error // in place of clock.SetSystem, for tests
}

// Broker is one running board. Its methods are safe for concurrent use.
type Broker struct {
	*topics
	config   Config
	log      *slog.Logger
	meta     Meta
	memory   *memory
	clock    *boot.Clock
	keeper   *keeper
	space    *disk.Space
	buses    *bus.Registry
	memories memories
	vitals   vitals
	sockets  sockets
	since    time.Time // of the start; with the monotonic clock
	control  control
	identity *identity.Identity // as it was at the start
	// resetting: this start began with what a factory reset has left.
	resetting bool

	end         End                   // of the last life
	why         atomic.Pointer[error] // what stands still now; nil, or to nil: nothing does
	writingLife sync.Mutex
	life        lifeState // as it is written down; under writingLife
	doom        error     // why this life is about to be ended, whatever goes on until then; under writingLife

	// What follows is closed in the opposite order; closers holds how.
	journal  *journal.Journal
	flash    *flash
	lifetime *lifetime
	start    start
	pulse    *pulse.Pulse
	poller   *poll.Poller // where silent clients wait
	cleaner  *cleaner.Cleaner
	waits    *purgatory.Purgatory[api.Key]
	groups   *group.Coordinator
	kafka    *server.Server
	mqtt     *mqtt.Server
	http     *rest.Server // nil where there is no listener
	damper   *auth.Damper // of every door where users log in
	feed     *feed.Feed
	links    *links
	closers  []func() error
	doors    []*door
	// certificates is nil without a listener that has TLS.
	certificates *certificates
	serving      sync.WaitGroup

	addresses Addresses

	settingsMu sync.Mutex
	settings   *config.Config // as in force now
}

// Addresses are where a board listens, "host:port", in the order of the configuration.
type Addresses struct {
	Kafka, MQTT, HTTP []string
}

// tick is how often what has no deadline of its own is looked after: checkpoints by age, producers that fell silent.
const tick = 10 * time.Second

// headroom is how far above the reserve a full disk is cleared where a topic's policy is drop-oldest, in bytes.
const headroom = 16 << 20

// Open brings a board up: it formats an empty directory, recovers what the last stop left, and serves. ctx bounds the
// start only. The error names what is in the way and the flag or setting that moves it.
func Open(ctx context.Context, cfg Config) (_ *Broker, err error) {
	b := unopened(cfg)
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	began := b.config.Now()
	if err := b.steps(ctx, b.openVitals, b.openDirectory, b.openControl, b.openClock, b.openEnd, b.openIdentity, b.openCatalog, b.openPulse,
		b.openFront, b.openStore, b.beginClock, b.endReset, b.openLinks, b.openUpkeep, b.openGroups, b.openAdmin, b.openDoors, b.openSockets, b.openFeed,
		b.runLinks, b.openEvents, b.openCanary, b.openGates); err != nil {
		return nil, err
	}
	b.start.took = b.config.Now().Sub(began)
	b.control.turn(Serving)
	if err := forgetStart(); err != nil {
		b.log.Debug("what the start took is kept", "err", err) // no more than that
	}
	return b, nil
}

// unopened is a board of which nothing is open yet.
func unopened(cfg Config) *Broker {
	if cfg.FS == nil {
		cfg.FS = disk.OS{}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.setWall == nil {
		cfg.setWall = clock.SetSystem
	}
	return &Broker{topics: &topics{
		log: cfg.Logger.With("component", "catalog"), offsetPartitions: int(cfg.Settings.Broker.OffsetsPartitions),
	}, config: cfg, log: cfg.Logger, settings: cfg.Settings, buses: registry(cfg.Buses), since: time.Now(), sockets: sockets{left: cfg.Sockets}}
}

// steps opens one thing after the other.
func (b *Broker) steps(ctx context.Context, all ...func(context.Context) error) error {
	for _, step := range all {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Close stops the doors, then what they need, and writes what makes the next start quick. Nothing acknowledged depends
// on it.
func (b *Broker) Close() error {
	defer b.closing()()
	b.control.turn(Stopping)
	for _, d := range b.doors {
		d.begin()
	}
	var errs []error
	for i := len(b.closers) - 1; i >= 0; i-- {
		errs = append(errs, b.closers[i]())
	}
	b.closers = nil
	b.serving.Wait()
	_, err := b.sockets.close()
	return errors.Join(append(errs, err)...)
}

// Addresses tells where the board listens.
func (b *Broker) Addresses() Addresses { return b.addresses }

// Meta tells which cluster and node this is.
func (b *Broker) Meta() Meta { return b.meta }

func (b *Broker) owns(closer func() error) { b.closers = append(b.closers, closer) }

func (b *Broker) dir() string { return b.config.Settings.Broker.LogDirs }

// openDirectory takes the data directory for this process, formats it when it is new, and divides the memory.
func (b *Broker) openDirectory(context.Context) error {
	s := b.config.Settings
	if err := b.config.FS.MkdirAll(b.dir(), 0o750); err != nil {
		return fmt.Errorf("data directory (--data, or log.dirs in [broker]): %w", err)
	}
	if pending, _, err := resetting(b.config.FS, b.dir()); err != nil {
		return err
	} else if _, err := ReadMeta(b.config.FS, b.dir()); !pending && errors.Is(err, ErrNotFormatted) {
		if err := vacant(b.config.FS, b.dir(), false); err != nil { // before anything is left there
			return err
		}
	}
	l, err := lockDir(b.dir())
	if err != nil {
		return err
	}
	b.owns(l.release)
	if err := b.goOnWithReset(); err != nil {
		return fmt.Errorf("go on with the factory reset: %w", err)
	}
	switch b.meta, err = ReadMeta(b.config.FS, b.dir()); {
	case errors.Is(err, ErrNotFormatted):
		if b.meta, err = format(b.config.FS, b.dir(), s.Broker.ClusterID, s.Broker.NodeID, false); err != nil {
			return err
		}
		b.log.Info("formatted a new data directory", "dir", b.dir(), "cluster.id", b.meta.ClusterID)
	case err != nil:
		return err
	}
	if b.meta.NodeID != s.Broker.NodeID {
		return fmt.Errorf("%s belongs to node %d, and node.id in [broker] is %d; set it to %d, or name another directory with --data",
			b.dir(), b.meta.NodeID, s.Broker.NodeID, b.meta.NodeID)
	}
	if id := s.Broker.ClusterID; id != "" && b.meta.ClusterID != id {
		return fmt.Errorf("%s belongs to cluster %s, and cluster.id in [broker] is %s; set it to the former, or name another directory with --data",
			b.dir(), b.meta.ClusterID, id)
	}
	if b.memory, err = shareOut(s.Memory.Limit, lanesOf(s)); err != nil {
		return err
	}
	if was := b.meta.Format; was < FormatVersion {
		if b.meta, err = bringForward(b.config.FS, b.dir(), b.meta); err != nil {
			return err
		}
		b.log.Info("the data directory is of this version now; an older millrace will refuse it", "from", was, "to", FormatVersion)
	}
	b.space, err = disk.NewSpace(disk.SpaceConfig{
		FS: b.config.FS, Path: b.dir(), Reserve: s.Flash.ReserveBytes, Floor: s.Journal.BytesMax,
	})
	return err
}

// openCatalog brings the catalog up and makes this board known in it.
func (b *Broker) openCatalog(ctx context.Context) error {
	s := b.config.Settings
	if err := b.configure(s); err != nil {
		return err
	}
	b.topics.byName.Store(&map[string][]*partition.Partition{})
	var err error
	if b.quorum, err = quorum.Open(quorum.Config{
		Dir: filepath.Join(b.dir(), "quorum"), FS: b.config.FS, NodeID: b.meta.NodeID, ClusterID: b.meta.ClusterID,
		Logger: b.log.With("component", "quorum"),
	}); err != nil {
		return err
	}
	b.owns(b.quorum.Close)
	host, port, err := net.SplitHostPort(listenAddress(s.Broker.Listeners[0]))
	if err != nil {
		return fmt.Errorf("listeners in [broker]: %w", err)
	}
	number, err := net.LookupPort("tcp", port)
	if err != nil {
		return fmt.Errorf("listeners in [broker]: port %q: %w", port, err)
	}
	_, err = b.quorum.Propose(ctx, catalog.RegisterBroker{
		ID: b.meta.NodeID, Host: host, Port: int32(max(number, 1)), Incarnation: catalog.NewTopicID(),
	})
	return err
}

// openStore recovers the partitions, adopts topics the catalog has lost, and makes what it has and the store lacks.
func (b *Broker) openStore(ctx context.Context) error {
	s := b.config.Settings
	known := func(t *catalog.Topic) (partition.Topic, catalog.TopicConfig, bool) {
		if t == nil {
			return partition.Topic{}, catalog.TopicConfig{}, false
		}
		settings, err := b.topics.defaults.Load().Resolve(t.Name, t.Config)
		if err != nil {
			b.log.Error("a topic's settings are not valid; the valid ones hold", "topic", t.Name, "err", err)
		}
		return partition.Topic{ID: t.ID, Name: t.Name}, settings, true
	}
	image := b.quorum.Image()
	began := b.config.Now()
	store, report, err := partition.Open(partition.Config{
		Dir: b.dir(), FS: b.config.FS, Slots: b.memories.slots,
		OpenJournal: func(after journal.Mark) (partition.Journal, error) {
			j, err := journal.Open(journal.Options{
				Dir: filepath.Join(b.dir(), "journal"), FS: b.config.FS, CommitInterval: s.Journal.CommitInterval,
				Front: b.memories.front, FrontError: b.memories.err, ForgetFront: b.config.ForgetFront || b.resetting,
				Now: b.config.Now, Logger: b.log.With("component", "journal"),
			}, after)
			if err != nil {
				return nil, refused(err) // not a nil *Journal in an interface
			}
			b.journal = j
			return j, nil
		},
		Known: func(id catalog.TopicID) (partition.Topic, catalog.TopicConfig, bool) {
			return known(image.TopicByID(id))
		},
		Named: func(name string) (partition.Topic, catalog.TopicConfig, bool) { return known(image.Topic(name)) },
		Space: b.space, Recompressed: b.memory.gathering, Clock: b.clock, OnCheckpoint: b.checkpointed, Logger: b.log.With("component", "partition"),
		OnAdvance: b.advanced, OnDiskFull: b.cleaner.Sweep, OnOnline: b.online,
		JournalBytesMax: s.Journal.BytesMax, ProducerExpireMS: s.Broker.ProducerExpiration.Milliseconds(),
	})
	if err != nil {
		return err
	}
	b.store = store
	b.owns(store.Close)
	b.start.recovered(report, b.config.Now().Sub(began))
	for _, o := range report.Orphans {
		if err := b.adopt(ctx, image, o); err != nil {
			// Its data stays where it is; a topic of the same name may have taken its place.
			b.log.Error("a topic on the disk is not in the catalog and cannot be adopted", "topic", o.Topic.Name, "id", o.Topic.ID, "err", err)
		}
	}
	if err := b.reserveProducerIDs(ctx); err != nil {
		return err
	}
	if err := b.reconcile(); err != nil {
		b.log.Error("the disk does not hold all the catalog says; tried again with the next change", "err", err)
	}
	return nil
}

// adopt puts a topic that lies on the disk back into the catalog, which was damaged, or deletes it where the catalog
// remembers that it was deleted.
func (b *Broker) adopt(ctx context.Context, image *catalog.Image, o partition.Orphan) error {
	if image.Deleted(o.Topic.ID) {
		return b.store.DeleteTopic(o.Topic.ID)
	}
	// A catalog that lost its newest commands may name a topic that was deleted since, and made again as this one.
	if old := b.quorum.Image().Topic(o.Topic.Name); old != nil && !b.stored(old) {
		b.log.Warn("the catalog names a topic that has nothing on the disk in place of one that has: the latter counts",
			"topic", old.Name, "id", old.ID, "counts", o.Topic.ID)
		if _, err := b.quorum.Propose(ctx, catalog.DeleteTopic{Topic: old.ID}); err != nil {
			return err
		}
	}
	create, err := catalog.NewTopic(b.quorum.Image(), o.Topic.Name, o.Topic.ID, int(o.Partitions), 1, nil)
	if err != nil {
		return err
	}
	for i := range create.Partitions {
		if p := b.store.Get(o.Topic.ID, int32(i)); p != nil {
			create.Partitions[i].LeaderEpoch = p.Epoch()
		}
	}
	if _, err := b.quorum.Propose(ctx, create); err != nil {
		return err
	}
	b.log.Warn("a topic on the disk was not in the catalog: adopted, its settings are the defaults",
		"topic", o.Topic.Name, "id", o.Topic.ID, "partitions", o.Partitions)
	return nil
}

// stored reports whether anything of a topic of the catalog is on the disk.
func (b *Broker) stored(t *catalog.Topic) bool {
	for i := range t.Partitions {
		if b.store.Get(t.ID, int32(i)) != nil || b.store.Offline(t.ID, int32(i)) != nil {
			return true
		}
	}
	return false
}

// reserveProducerIDs lets no producer id be given out that a partition remembers: a catalog that lost its newest
// commands would, and two producers with one id take each other's batches for duplicates.
func (b *Broker) reserveProducerIDs(ctx context.Context) error {
	used := int64(-1)
	for p := range b.store.All() {
		used = max(used, p.LastProducerID())
	}
	next := b.quorum.Image().ProducerIDNext()
	if used < next {
		return nil
	}
	b.log.Warn("producer ids are in use that the catalog has not given out", "highest", used, "next", next)
	_, err := b.quorum.Propose(ctx, catalog.AllocateProducerIDs{Broker: b.meta.NodeID, Epoch: -1, AtLeast: used + 1})
	return err
}

// openPulse starts the process's one timer; everything after is told the time by it.
func (b *Broker) openPulse(context.Context) error {
	b.pulse = pulse.New(b.config.Now)
	b.owns(func() error { b.pulse.Close(); return nil })
	b.cleaner = cleaner.New(cleaner.Config{
		Partitions: func() iter.Seq[cleaner.Partition] {
			return func(yield func(cleaner.Partition) bool) {
				for p := range b.store.All() {
					if !yield(p) {
						return
					}
				}
			}
		},
		Space: b.space, Now: func() time.Time { return time.UnixMilli(b.clock.AgeMS()) },
		Date:    func(age time.Time) time.Time { return b.clock.Date(age.UnixMilli()) },
		Elapsed: func() time.Duration { return time.Duration(b.pulse.Now()) * time.Millisecond },
		Logger:  b.log.With("component", "cleaner"), Headroom: headroom,
		Checkpoint: func() error { return b.store.Checkpoint() },
		Save:       func() error { return b.store.SaveCleaned() },
	})
	return nil
}

// openUpkeep starts what happens by the clock: retention, checkpoints by age, and the end of what waits too long.
func (b *Broker) openUpkeep(context.Context) error {
	b.waits = purgatory.New[api.Key](purgatory.Config{
		Ops: 4096, Keys: 64 << 10, Cost: b.memory.waiting.Size(), NowMS: b.pulse.Now, Wake: b.pulse.Wake,
	})
	b.pulse.Register(b.waits)
	b.owns(func() error { b.waits.Close(); return nil })
	b.openFlash()
	b.every(tick, func() {
		b.store.Tick(b.clock.AgeMS())
		b.flash.step(b.pulse.Now())
		b.lifetime.step(b.pulse.Now())
	})
	b.every(b.config.Settings.Broker.RetentionCheck, b.cleaner.Sweep)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.cleaner.Run(ctx)
	}()
	b.owns(func() error {
		stop()
		<-ended
		return nil
	})
	return nil
}

// every has fn called again and again, d apart, until the board closes. fn must not block.
func (b *Broker) every(d time.Duration, fn func()) {
	var t *pulse.Timer
	t = b.pulse.NewTimer(func() {
		fn()
		t.Reset(d)
	})
	t.Reset(d)
	b.owns(func() error { t.Close(); return nil })
}

// listenAddress is the host:port of a listener written as a URL.
func listenAddress(listener string) string {
	if _, address, ok := strings.Cut(listener, "://"); ok {
		return address
	}
	return listener
}
