package upstream

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"
)

// Link is one way upstream. Its methods are safe for concurrent use.
type Link struct {
	cfg Config
	env Env
	log *slog.Logger
	// by is this life of the link, in its cursors.
	by string
	// wake wakes the lanes and Run, which look then at everything there may be; the last tells Run of news, where it waits
	// for nothing else.
	wake [lanes + 2]chan struct{}

	news news

	// mu guards what follows. The log is asked with it held, so nobody who holds a lock of the log takes it: see news.
	mu    sync.Mutex
	table table
	// state and what follows are what Status says.
	state       State
	reason      string
	since       time.Time
	count       Counters
	lastSuccess time.Time
	rate        float64 // bytes a second while sending

	// size is how large the transactions of a lane are to be, in bytes, and patience how long one may take. Both are kept
	// over connections: they are of the link.
	size     [lanes]int
	patience [lanes]time.Duration
	// allowed is the most patience the peer has.
	allowed time.Duration

	paused, fenced bool
	// interrupt ends a connection that is being made, see interruptBy.
	interrupt func()
	// fences counts in a row how often another process took over without a commit of ours in between.
	fences int
	// cursorTopic is the id of the cursor topic, read how far it was read: -1 before the first time in this life. known says
	// that a connection was made with what was read: then only this life writes cursors.
	cursorTopic [16]byte
	read        int64
	known       bool
	// guessed says that read is of a hint, and not proven yet; hint is what was kept on the board, until it is used.
	guessed bool
	hint    *hint
	cluster string // the peer's id
	// seen is an offset of the cursor topic after the last cursor that was committed in this connection, flight what is
	// under way.
	seen int64
	// told is the same for each lane.
	told   [lanes]int64
	flight [lanes]flight
	// stops are partitions that were stopped for what the log was then. hintNews says that they are to be written down at once,
	// madeNews that what is known of the topics that the link has made is to be, soon.
	stops    map[cursorID]stop
	hintNews bool
	madeNews bool
	beats    heartbeats
	follows  following
	// hinted is when the hint was last written, at how many transactions, and what was written of cursors since, in bytes.
	hinted struct {
		at    time.Time
		count int64
		bytes int
	}
	// gapPartitions is how many partitions the gap topic has.
	gapPartitions int32
	decisions     []*decision
	groups        groupTable
	// kept is when Memory was last written, keptAt the count of transactions then.
	kept      time.Time
	keptAt    int64
	shares    shares
	nextRetry time.Time
	// What follows is of who connects, and touched, where a lane has written since nothing of it was open, of the lane while it runs: no
	// lock is needed. ids are who this life was, current who it is; settled says that what all lives write to was looked at; readBefore is
	// how far the cursors were read when the connection before began; left is what hangs in the cursor partition, strangers where
	// nothing is open there but what others have.
	// backfilled says that the backfill lane was taken over in this life, and may have a transaction under way.
	backfilled bool
	ids        []Identity
	current    [lanes]int64
	touched    [lanes]map[where]struct{}
	settled    bool
	readBefore int64
	left       leftover
	strangers  span
	lookedAt   time.Time // when jumps were last considered
}

// New makes a link that does nothing until Run. It returns ErrConfig.
func New(cfg Config, env Env) (*Link, error) {
	cfg, err := cfg.whole()
	if err != nil {
		return nil, err
	}
	if env.Scheduler == nil {
		env.Scheduler = oneClass{}
	}
	if env.Backoff == nil {
		env.Backoff = new(doubling)
	}
	if env.Budget == nil {
		env.Budget = unlimited{}
	}
	if env.Logger == nil {
		env.Logger = slog.Default()
	}
	l := &Link{
		cfg: cfg, env: env, log: env.Logger.With("link", cfg.Name), by: strconv.FormatUint(rand.Uint64(), 16),
		table: newTable(env.Scheduler.Classes()), state: StateStarting, since: env.Clock.Now(), read: -1,
		allowed: max(patienceMax, cfg.TransactionTimeout), stops: map[cursorID]stop{},
		follows: following{made: map[string]madeTopic{}},
	}
	for i := range l.size {
		l.touched[i] = map[where]struct{}{}
		l.patience[i] = cfg.TransactionTimeout
		l.size[i] = min(firstTransaction, cfg.TransactionBytes)
	}
	l.news.cfg, l.news.ignored = &l.cfg, map[string]struct{}{}
	for i := range l.wake {
		l.wake[i] = make(chan struct{}, 1)
	}
	l.shares = shares{weight: [lanes]float64{Live: cfg.LiveShare, Backfill: 1 - cfg.LiveShare}}
	l.remember()
	l.recall()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lookLocked() // so that Needed knows, before Run and before there is a connection
	for _, p := range l.table.all {
		if p.behind(Live) {
			l.table.enqueue(Live, p)
		}
	}
	return l, nil
}

// the indexes of Run's own channels in Link.wake.
const (
	runner = int(lanes)
	heard  = runner + 1
)

func (l *Link) kick(which int) {
	select {
	case l.wake[which] <- struct{}{}:
	default:
	}
}

// Kick makes a link try again, or look at the time and the contract again, now.
func (l *Link) Kick() {
	for i := range l.wake {
		l.kick(i)
	}
}

// Pause stops sending after the transaction that is under way, and taking over at once. A link may be paused before Run.
func (l *Link) Pause() {
	l.mu.Lock()
	l.paused = true
	if l.interrupt != nil {
		l.interrupt()
	}
	l.mu.Unlock()
	l.Kick()
}

// interruptBy says what ends a connection that is being made, which may wait for minutes; nil where lanes hear of Pause themselves.
func (l *Link) interruptBy(cancel func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.interrupt = cancel
	if cancel != nil && l.paused {
		cancel()
	}
}

// Resume goes on after Pause, and after the link was fenced: then it takes over again, from where the cursors are.
func (l *Link) Resume() {
	l.mu.Lock()
	l.paused = false
	if l.fenced {
		l.fenced, l.fences, l.known = false, 0, false
	}
	l.mu.Unlock()
	l.Kick()
}

func (l *Link) halted() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.paused || l.fenced
}

// setLocked is set, with the lock held.
func (l *Link) setLocked(s State, reason string) {
	if l.state != s {
		l.since = l.env.Clock.Now()
	}
	l.state, l.reason = s, reason
}

func (l *Link) set(s State, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.setLocked(s, reason)
}

var (
	// errHalted ends a connection that is not wanted now.
	errHalted = errors.New("link is paused or fenced")
	// errQuiet ends a connection that would be of no use for a while.
	errQuiet = errors.New("nothing may be sent for a while")
	// errEnded is what decisions get that nobody will carry out.
	errEnded = errors.New("the link has ended")
	// errOverTime is why a transaction is over that took longer than the peer waits: it has ended it, and that looks like a fence.
	errOverTime = errors.New("the transaction took longer than the peer waits")
	// errForeign says that another process wrote a cursor in this life.
	errForeign = errors.New("another process with this board's identity has sent in the meantime")
)

const (
	// quietLeast is how long nothing may be sent that a link is without a connection meanwhile: a new one costs some KiB.
	quietLeast = 5 * time.Minute
	// fencesMax is how often in a row a link takes over again after it was fenced by somebody who wrote nothing. A request
	// of our own that a bad link held back looks like another process, and no person should have to come for it.
	fencesMax = 5
	// gatherLook is how often a link without a connection that gathers records looks whether there are some that wait less.
	gatherLook = time.Second
	// fencedWait is waited at least before, so that who took over has time to say so.
	fencedWait = 5 * time.Second
)

// Run sends until ctx ends, and returns when everything it began has ended. It is called once. What goes wrong is waited
// out, and in Status; there is no error that ends it.
func (l *Link) Run(ctx context.Context) {
	cancel := l.env.Log.OnAdvance(func(topic string, id [16]byte, partition int32) {
		if l.news.advanced(topic, id, partition) {
			l.kick(int(Live))
			l.kick(heard)
		}
	})
	defer cancel()
	defer l.end()
	held, gathers := false, time.Time{} // since when
	for ctx.Err() == nil {
		if l.halted() {
			l.idle()
			l.sleep(ctx, -1)
			continue
		}
		if wait := l.unwanted(); wait > 0 {
			l.set(StateWaiting, "")
			l.quiet(ctx, wait)
			held, gathers = true, time.Time{}
			continue
		}
		if held { // a connection for each record that may go while others wait would cost more than it
			if gathers.IsZero() {
				gathers = time.Now()
			}
			if left := l.gatherFor(gathers); left > 0 {
				l.set(StateWaiting, reasonGather)
				l.sleep(ctx, left)
				continue
			}
		}
		held, gathers = false, time.Time{}
		err := l.connect(ctx)
		if ctx.Err() != nil {
			l.keep(0)
			l.keepHint(0)
			return
		}
		l.keep(memoryWhenDown)
		l.keepHint(memoryWhenDown)
		if held = errors.Is(err, errQuiet); held || errors.Is(err, errHalted) || errors.Is(err, context.Canceled) && l.halted() {
			continue
		}
		l.sleep(ctx, l.failed(err))
	}
}

// unwanted is how long nothing may be sent of all there is to send: then there is no connection either, which would cost
// bytes all the time. 0 means that there is something to do, or that there may be.
func (l *Link) unwanted() (wait time.Duration) {
	l.mu.Lock()
	stale := l.news.drain(l.table.heard)
	if stale {
		l.lookLocked()
		for _, p := range l.table.all { // what is new there is in no line yet
			if p.behind(Live) {
				l.table.enqueue(Live, p)
			}
		}
	}
	ready := [lanes][]bool{}
	some := [lanes]bool{}
	for lane := range lanes {
		ready[lane] = make([]bool, l.env.Scheduler.Classes())
		some[lane] = l.table.ready(lane, ready[lane])
	}
	l.mu.Unlock()
	for lane := range lanes {
		if !some[lane] {
			continue
		}
		class, _, later := l.env.Scheduler.Next(l.env.Clock.Now(), lane, ready[lane])
		if class >= 0 || later < quietLeast {
			return 0
		}
		if wait == 0 || later < wait {
			wait = later
		}
	}
	return wait
}

// gatherFor is how long a link without a connection waits at most before it looks again whether it has gathered records for
// long enough since then, 0 when it has.
func (l *Link) gatherFor(since time.Time) time.Duration {
	l.mu.Lock()
	ready := make([]bool, l.env.Scheduler.Classes())
	l.table.ready(Live, ready)
	l.mu.Unlock()
	linger := l.linger(ready)
	if linger <= lingerLook {
		return 0
	}
	return min(max(0, time.Until(since.Add(linger))), gatherLook)
}

// quiet waits for the contract to allow something, or for something to come that it may allow.
func (l *Link) quiet(ctx context.Context, wait time.Duration) {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-l.wake[runner]:
	case <-l.wake[heard]:
	}
}

// end notes that Run has ended.
func (l *Link) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.setLocked(StateStopped, "")
	for _, w := range l.decisions {
		w.done <- errEnded
	}
	l.decisions = nil
}

// idle says why nothing is done.
func (l *Link) idle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.fenced:
		l.setLocked(StateFenced, l.reason)
	case l.paused:
		l.setLocked(StatePaused, "")
	}
}

// failed notes why a connection ended, and says how long to wait before the next.
func (l *Link) failed(err error) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	wait = l.env.Backoff.Next()
	l.log.Warn("link is down", "error", err, "again", wait)
	var refused *RefusedError
	switch {
	case errors.Is(err, errForeign):
		l.fenced = true
		l.setLocked(StateFenced, err.Error())
	case errors.Is(err, ErrFenced):
		if l.fences++; l.fences >= fencesMax {
			l.fenced = true
			l.setLocked(StateFenced, "another process with this board's identity takes over again and again")
			return wait
		}
		l.setLocked(StateConnecting, err.Error())
		return max(wait, fencedWait)
	case errors.Is(err, ErrNoTransactions):
		l.setLocked(StateRefused, "exactly-once needs an upstream with transactions: "+err.Error())
	case errors.Is(err, ErrVersion), errors.Is(err, errUnfit),
		errors.As(err, &refused) && (refused.Topic == l.cfg.CursorTopic || refused.Topic == l.cfg.GapTopic):
		l.setLocked(StateRefused, err.Error())
	default:
		l.setLocked(StateConnecting, err.Error())
	}
	return wait
}

// sleep waits, for a kick where wait is negative. What the log gets in the meantime is looked at: Needed and Status tell of it
// though there is no connection.
func (l *Link) sleep(ctx context.Context, wait time.Duration) {
	var due <-chan time.Time
	if wait >= 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		due = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-due:
			return
		case <-l.wake[runner]:
			return
		case <-l.wake[heard]:
			l.mu.Lock()
			l.lookLocked()
			l.mu.Unlock()
		}
	}
}

// Needed is the lowest offset of a partition that the link has not delivered, perhaps the end of it, and the priority of its
// class: 0 is the highest. needed is false for what the link does not carry; a topic with another id is not carried. Of a
// stopped partition everything that is not known to be delivered is needed, and of every one everything, as long as the
// link has not read its cursors. It asks nothing of the log, and may be called with locks of the log held.
func (l *Link) Needed(topic string, id [16]byte, partition int32) (from int64, priority int, needed bool) {
	p := l.news.find(topic, partition)
	if p == nil {
		return 0, 0, false
	}
	s := p.shown.Load()
	return s.from, l.env.Scheduler.Priority(p.class), s.id == id
}
