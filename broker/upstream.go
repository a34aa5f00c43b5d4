package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/contract"
	"millrace/broker/catalog"
	"millrace/platform/config"
)

const (
	// linksDir holds what links keep on this board, in the data directory: small files, each with its checksum.
	linksDir = "upstream"
	// heldFile names the links that a person has paused.
	heldFile = "paused.json"
	// heldMax bounds what is read of it, in bytes.
	heldMax = 64 << 10
)

// links are the ways upstream of a board. Its methods are safe for concurrent use.
type links struct {
	b   *Broker
	log *slog.Logger

	// all are the links in the order of the configuration. The slice is replaced, never changed.
	all atomic.Pointer[[]*link]
	// image is the catalog at the last compare.
	image atomic.Pointer[catalog.Image]

	// changing is held while links are begun, ended, paused or resumed.
	changing sync.Mutex
	alias    string          // as the links have it
	lanes    int             // of all links
	marked   bool            // what they send says which board it is of
	held     map[string]bool // paused by a person, and written down
	running  bool            // links that are made now run
	reads    int             // links that are being read back
}

// link is one of them. What is not atomic is set before it is in links.all.
type link struct {
	settings config.Upstream
	link     carrier // nil where it could not be made
	err      error   // why
	held     atomic.Bool
	*line

	stop    context.CancelFunc // nil before it runs
	running sync.WaitGroup
	reading context.CancelFunc // ends what reads it back, nil for nothing; links.changing guards it
	due     chan struct{}      // has room for one: it is to look at its contract
}

// ErrNoLink is returned for a link that the configuration does not have.
var ErrNoLink = errors.New("there is no such link")

// openLinks makes the links, which carry nothing yet: from here on the log keeps what they need.
func (b *Broker) openLinks(context.Context) error {
	b.links = &links{b: b, log: b.log.With("component", "upstream")}
	b.links.all.Store(&[]*link{})
	b.links.held = b.links.readHeld()
	b.links.apply(b.config.Settings)
	b.store.SetNeeds(b.links)
	b.owns(b.links.close)
	return nil
}

// runLinks lets them carry. Nothing waits for what is at their other ends.
func (b *Broker) runLinks(context.Context) error {
	l := b.links
	l.changing.Lock()
	defer l.changing.Unlock()
	l.running = true
	for _, k := range *l.all.Load() {
		k.run()
	}
	b.every(tick, func() {
		l.compare(b.Image())
		l.step()
	})
	return nil
}

// compare tells the links when the catalog is another one than the last time: settings of topics may be others.
func (l *links) compare(image *catalog.Image) {
	if l.image.Swap(image) == image {
		return
	}
	for _, k := range *l.all.Load() {
		if up, is := k.link.(*upstream.Link); is {
			up.Changed()
		}
	}
}

// step has the links look what they may do now, and what they have done. The pulse does not wait for them: what a link has used
// of its day goes to the disk, and that takes as long as it takes.
func (l *links) step() {
	for _, k := range *l.all.Load() {
		select {
		case k.due <- struct{}{}:
		default:
		}
	}
}

// watch looks when it is due.
func (k *link) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.due:
		}
		if is := k.link.Status(); k.line.step(&is) {
			k.link.Kick() // it need not wait out its last failure
		}
	}
}

// apply makes the links those of s: what has not changed goes on, what has ends and begins anew.
func (l *links) apply(s *config.Config) {
	l.changing.Lock()
	defer l.changing.Unlock()
	old := *l.all.Load()
	marked, lanes := comesDown(s), lanesOf(s)
	// They share memory: one that has more than its part would have the others wait.
	same := l.alias == s.Broker.ClusterAlias && l.marked == marked && l.b.memory.transactionBytes(l.lanes) == l.b.memory.transactionBytes(lanes)
	next := make([]*link, len(s.Upstreams))
	kept := map[*link]bool{}
	for i := range s.Upstreams {
		u := &s.Upstreams[i]
		at := slices.IndexFunc(old, func(k *link) bool { return k.settings.Name == u.Name })
		if at >= 0 && same && old[at].settings.Same(u) {
			next[i] = old[at]
			kept[old[at]] = true
			if old[at].link != nil { // the files it names may have changed where their names have not
				old[at].link.Kick()
			}
		}
	}
	for _, k := range old {
		if !kept[k] {
			k.end(l.log)
			l.log.Info("a link has ended", "link", k.settings.Name)
		}
	}
	l.alias, l.lanes, l.marked = s.Broker.ClusterAlias, lanes, marked
	for i, k := range next {
		if k != nil {
			continue
		}
		k = l.make(&s.Upstreams[i])
		if next[i] = k; l.running {
			k.run()
		}
	}
	l.all.Store(&next)
}

// lanesOf is how many streams of transactions the links of a configuration have.
func lanesOf(s *config.Config) (n int) {
	for i := range s.Upstreams {
		n++
		if s.Upstreams[i].Order == config.LiveFirst {
			n++
		}
	}
	return n
}

// make makes one. What is wrong with it is told by its status too: it is no reason not to serve.
func (l *links) make(u *config.Upstream) *link {
	k := &link{settings: *u, due: make(chan struct{}, 1)}
	k.line, k.err = l.newLine(&k.settings)
	if k.err == nil {
		k.link, k.err = l.carrier(k)
	}
	if k.err != nil {
		l.log.Error("a link cannot be", "link", u.Name, "err", k.err)
		return k
	}
	l.warn(u)
	if l.held[u.Name] {
		k.held.Store(true)
		k.link.Pause()
		l.log.Warn("a link is paused, and stays so until `millrace upstream resume`", "link", u.Name)
	}
	return k
}

// warn says loudly what a link does not protect.
func (l *links) warn(u *config.Upstream) {
	switch {
	case u.Local():
	case !u.TLS() && u.SASL():
		l.log.Warn("this link does not encrypt: records can be seen on the network, and with PLAIN and OAUTHBEARER the password too; SASL_SSL does",
			"link", u.Name, "security.protocol", u.Protocol)
	case !u.TLS():
		l.log.Warn("this link does not encrypt, and nobody at its other end is asked who they are; SSL does, and SASL_SSL", "link", u.Name, "security.protocol", u.Protocol)
	}
	for _, name := range u.Secrets() {
		if readable(name) {
			l.log.Warn("others than the owner can read a secret: chmod 600", "link", u.Name, "file", name)
		}
	}
}

// config is a link as the engine has it.
func (l *links) config(u *config.Upstream) upstream.Config {
	c := upstream.Config{
		Name: u.Name, Board: l.b.meta.ClusterID, Alias: l.alias, Topics: u.Topics, Naming: u.Naming,
		Provenance: u.Provenance, Mark: l.marked, CursorTopic: u.CursorTopic, GapTopic: u.GapTopic,
		TransactionTimeout: contract.TransactionTimeout(u.RateSecond, batchMax),
		TransactionBytes:   l.b.memory.transactionBytes(l.lanes), UpstreamPartitions: u.Partitions,
		Groups: u.Groups, GroupsExclude: u.NoGroups, GroupsInterval: u.GroupsEvery,
		Linger: cmp.Or(u.Linger, -1), Heartbeats: u.Heartbeats, FollowSettings: u.SyncConfigs, ExcludeSettings: u.ConfigsExclude,
	}
	if u.Delivery == config.AtLeastOnce {
		c.Delivery = upstream.AtLeastOnce
	}
	if u.Order == config.LiveFirst {
		c.Order = upstream.LiveFirst
	}
	return c
}

func (l *links) env(k *link) upstream.Env {
	return upstream.Env{
		Log: linkLog{l.b}, Clock: linkClock{l.b}, Remote: k.line, Scheduler: k.line, Backoff: k.backoff,
		Budget: l.b.memory.upstream, Logger: l.log, Groups: linkGroups{l.b},
		Memory: l.memory(&k.settings),
		Hint:   LinkMemory(l.b.config.FS, filepath.Join(l.b.dir(), linksDir, k.settings.Name+cursorsFile)), // it says itself of which cluster
	}
}

// run begins to carry.
func (k *link) run() {
	if k.link == nil || k.stop != nil {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	k.stop = stop
	k.running.Go(func() { k.link.Run(ctx) })
	k.running.Go(func() { k.watch(ctx) })
}

// end ends it, and returns when it has.
func (k *link) end(log *slog.Logger) {
	if k.stop != nil {
		k.stop()
	}
	if k.reading != nil {
		k.reading()
	}
	k.running.Wait()
	if k.line == nil {
		return
	}
	if err := k.line.close(); err != nil {
		log.Error("what a link has used of its day is not saved to the byte: the next start takes a hundredth of it for used", "link", k.settings.Name, "err", err)
	}
}

func (l *links) close() error {
	l.changing.Lock()
	defer l.changing.Unlock()
	for _, k := range *l.all.Load() { // together: each may have an answer to wait for
		if k.stop != nil {
			k.stop()
		}
	}
	for _, k := range *l.all.Load() {
		k.end(l.log)
	}
	l.all.Store(&[]*link{})
	return nil
}

// find is a link by its name, nil where there is none.
func (l *links) find(name string) *link {
	all := *l.all.Load()
	if at := slices.IndexFunc(all, func(k *link) bool { return k.settings.Name == name }); at >= 0 {
		return all[at]
	}
	return nil
}

// Needed is the lowest offset of a partition that a link still has to send, and the priority of its class: what several
// links need, the one that needs most. Of a link that could not be made all is needed that it would carry.
func (l *links) Needed(topic string, id [16]byte, partition int32) (from int64, priority int, needed bool) {
	from, priority = math.MaxInt64, math.MaxInt
	for _, k := range *l.all.Load() {
		at, p, is := int64(0), 0, false
		switch {
		case k.settings.Direction == config.Down: // what it needs is at the other end
		case k.link != nil:
			if at, p, is = k.link.Needed(topic, id, partition); is {
				break
			}
			// It has not seen the topic yet, or has no room for it.
			at, p = 0, k.Priority(k.Class(topic))
			is = catalog.Chosen(k.settings.Topics, topic)
		default:
			is = catalog.Chosen(k.settings.Topics, topic)
		}
		if is {
			from, priority, needed = min(from, at), min(priority, p), true
		}
	}
	return from, priority, needed
}

// Pause holds a link up until Resume, over restarts of the board too. It returns ErrNoLink; after another error it is
// paused, and goes on with the next start.
func (l *links) Pause(name string) error { return l.hold(name, true) }

// Resume lets it go on, also where another process had taken over. It returns ErrNoLink; after another error it goes on,
// and is paused again with the next start.
func (l *links) Resume(name string) error { return l.hold(name, false) }

func (l *links) hold(name string, held bool) error {
	l.changing.Lock()
	defer l.changing.Unlock()
	k := l.find(name)
	if k == nil {
		return fmt.Errorf("%s: %w", name, ErrNoLink)
	}
	was := l.held[name]
	if held {
		l.held[name] = true
	} else {
		delete(l.held, name)
	}
	var err error
	if was != held {
		err = l.writeHeld()
	}
	k.held.Store(held)
	if k.link == nil {
		return err
	}
	if held {
		k.link.Pause()
	} else {
		k.link.Resume()
	}
	if was != held {
		l.log.Info("a person has decided about a link", "link", name, "paused", held)
	}
	return err
}

// readHeld is who is paused. What cannot be read pauses nobody: a link that sends is what a board is for.
func (l *links) readHeld() map[string]bool {
	held := map[string]bool{}
	name := filepath.Join(l.b.dir(), linksDir, heldFile)
	text, err := readChecked(l.b.config.FS, name, heldMax)
	if errors.Is(err, fs.ErrNotExist) {
		return held
	}
	var names []string
	if err == nil {
		err = json.Unmarshal(text, &names)
	}
	if err != nil {
		l.log.Error("which links were paused is not known any more: none is", "file", name, "err", err)
	}
	for _, n := range names {
		held[n] = true
	}
	return held
}

// writeHeld makes it durable. Links that the configuration has no more are forgotten.
func (l *links) writeHeld() error {
	names := []string{}
	for name := range l.held {
		if l.find(name) != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	text, err := json.Marshal(names)
	if err != nil {
		return err
	}
	dir := filepath.Join(l.b.dir(), linksDir)
	if err := l.b.config.FS.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if err := writeWhole(l.b.config.FS, filepath.Join(dir, heldFile), appendChecksum(append(text, '\n')), 0o640); err != nil {
		return err
	}
	return errors.Join(l.b.config.FS.SyncDir(dir, pointMetaDir), l.b.config.FS.SyncDir(l.b.dir(), pointMetaDir))
}
