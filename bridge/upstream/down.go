package upstream

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"millrace/broker/record"
)

// Store is the board's topics as a down link writes them. Its methods are safe for concurrent use.
type Store interface {
	// Partitions are the partitions of a topic that can be used now, none where there is no such topic.
	Partitions(topic string) []Partition
	// Make makes sure that there is a topic, with at least so many partitions. settings, in Kafka's names, are for one that has
	// to be made; it takes those it knows what to do with.
	Make(ctx context.Context, topic string, partitions int32, settings map[string]string) error
	// Append appends to partitions, no two of them the same: all or nothing, whatever cut comes. Nil says that all is on flash.
	// ErrFull, ErrTooLarge, ErrUnwanted and ErrGone say that nothing is; with any other error nobody knows. It keeps nothing of parts.
	Append(parts []Part) error
}

// Part is what Append appends to one partition.
type Part struct {
	Partition Partition
	Records   []record.Record
}

// What a Store's errors are recognised by, beside ErrGone.
var (
	// ErrFull is returned while there is no room on the disk.
	ErrFull = errors.New("no room on the disk now")
	// ErrUnwanted is in an error about records that the local topic does not take.
	ErrUnwanted = errors.New("the local topic does not take the records")
)

const (
	// LandingTopic is the compacted local topic with the cursors of down links.
	LandingTopic = "__millrace_link_cursors"
	// LocalGapTopic is the local topic with the gaps of down links.
	LocalGapTopic = "__millrace_gaps"
)

// DownEnv is what a down link works with. Store, Clock and Source are required; the others are as in Env.
type DownEnv struct {
	Store     Store
	Clock     Clock
	Source    Source
	Scheduler Scheduler
	Backoff   Backoff
	Budget    Budget
	Logger    *slog.Logger
}

const (
	// lookEvery is how often a link looks for topics and partitions that are new upstream.
	lookEvery = 5 * time.Minute
	// lookSoon is waited at least before it looks again because something was not where it was.
	lookSoon = time.Second
	// pollWait is how long the peer may wait for records when there are none: the price of a link on which nothing happens.
	pollWait = 20 * time.Second
	// quietDown is the least wait for the contract that ends a connection.
	quietDown = time.Minute
)

// Down is one way from upstream to the board: it takes the records of chosen topics, each exactly once and in order. How far it
// has come is kept on the board, appended together with the records. Its methods are safe for concurrent use.
type Down struct {
	cfg Config
	env DownEnv
	log *slog.Logger
	// wake ends a wait of Run.
	wake chan struct{}

	mu        sync.Mutex
	sources   map[string]*inflow // by the name upstream
	order     []*inflow          // as they were found
	left      int                // partitions there was no room for
	cluster   string
	state     State
	reason    string
	since     time.Time
	paused    bool
	count     Counters
	last      time.Time // of the last records
	rate      float64
	decisions []*downDecision
	// interrupt ends what waits for the peer now.
	interrupt context.CancelFunc
	// known says that the cursors are those on flash.
	known   bool
	marks   map[markID]*landing // read from flash; those of partitions that are not there too
	closing bool
	fresh   bool // the connection has not got through yet
}

// markID is a partition upstream.
type markID struct {
	topic     string
	partition int32
}

// NewDown makes a link that does nothing until Run. Of cfg the name, the board, the alias, topics, Exclude, naming and the limits
// count; the alias is the link's name by default. It returns ErrConfig.
func NewDown(cfg Config, env DownEnv) (*Down, error) {
	cfg.Alias = or(cfg.Alias, cfg.Name)
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
	return &Down{
		cfg: cfg, env: env, log: env.Logger.With("link", cfg.Name), wake: make(chan struct{}, 1),
		sources: map[string]*inflow{}, state: StateStarting, since: env.Clock.Now(),
	}, nil
}

// Kick makes a link try again, look at the peer's topics, the time and the contract again, now.
func (d *Down) Kick() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kickLocked()
}

func (d *Down) kickLocked() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
	if d.interrupt != nil {
		d.interrupt()
	}
}

// Pause ends the connection. A link may be paused before Run.
func (d *Down) Pause() { d.hold(true) }

// Resume goes on after Pause.
func (d *Down) Resume() { d.hold(false) }

func (d *Down) hold(paused bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.paused = paused
	d.kickLocked()
}

func (d *Down) halted() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.paused
}

// Needed is that of a Link. What comes down is of no use to anybody but the board.
func (d *Down) Needed(string, [16]byte, int32) (from int64, priority int, needed bool) {
	return 0, 0, false
}

func (d *Down) set(s State, reason string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != s {
		d.since = d.env.Clock.Now()
	}
	d.state, d.reason = s, reason
}

// Run takes records until ctx ends, and returns when everything it began has ended. It is called once. What goes wrong is
// waited out, and in Status.
func (d *Down) Run(ctx context.Context) {
	defer d.end()
	for ctx.Err() == nil {
		if d.halted() {
			d.set(StatePaused, "")
			d.sleep(ctx, -1)
			continue
		}
		if wait := d.unwanted(); wait >= quietDown {
			d.set(StateWaiting, "")
			d.sleep(ctx, wait)
			continue
		}
		err := d.connect(ctx)
		if ctx.Err() != nil || errors.Is(err, errHalted) || errors.Is(err, errQuiet) {
			continue
		}
		wait := d.env.Backoff.Next()
		d.log.Warn("link is down", "error", err, "again", wait)
		state := StateConnecting
		if errors.Is(err, ErrVersion) || errors.Is(err, ErrCursor) || errors.Is(err, errUnfit) {
			state = StateRefused
		}
		d.set(state, err.Error())
		d.sleep(ctx, wait)
	}
}

// end notes that Run has ended.
func (d *Down) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state, d.reason, d.closing = StateStopped, "", true
	for _, w := range d.decisions {
		w.done <- errEnded
	}
	d.decisions = nil
}

// unwanted is how long the contract lets nothing through.
func (d *Down) unwanted() time.Duration {
	class, _, wait := d.env.Scheduler.Next(d.env.Clock.Now(), Live, d.ready())
	if class >= 0 {
		return 0
	}
	return max(wait, time.Millisecond)
}

// ready says that the first class has something: a down link has no others.
func (d *Down) ready() []bool {
	ready := make([]bool, d.env.Scheduler.Classes())
	ready[0] = true
	return ready
}

// sleep waits, for a kick where wait is negative.
func (d *Down) sleep(ctx context.Context, wait time.Duration) {
	var due <-chan time.Time
	if wait >= 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		due = t.C
	}
	select {
	case <-ctx.Done():
	case <-due:
	case <-d.wake:
	}
}

// errAgain ends taking because the peer has to be looked at again.
var errAgain = errors.New("the peer is to be looked at again")

// connect reads until something fails.
func (d *Down) connect(ctx context.Context) error {
	d.set(StateConnecting, reasonMemory)
	release, err := d.cfg.room(ctx, d.env.Budget, 1)
	if err != nil {
		return err
	}
	defer release()
	d.set(StateConnecting, "")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := d.readMarks(ctx); err != nil {
		return err
	}
	r, err := d.env.Source.Read(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	d.mu.Lock()
	d.fresh = true
	for _, s := range d.order {
		for _, in := range s.parts {
			in.heard = false
		}
	}
	d.mu.Unlock()
	for {
		// Within until, a kick ends what waits for the peer.
		until, stop := context.WithCancel(ctx)
		d.mu.Lock()
		d.interrupt = stop
		select { // it is for what follows
		case <-d.wake:
		default:
		}
		d.mu.Unlock()
		err := d.round(until, r)
		interrupted := until.Err() != nil
		stop()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case d.halted():
			return errHalted
		case err != nil && !errors.Is(err, errAgain) && !(interrupted && errors.Is(err, context.Canceled)):
			return err
		}
	}
}

// round looks at the peer, and takes records until it has to look again.
func (d *Down) round(ctx context.Context, r Reader) error {
	if d.halted() { // since before there was an interrupt
		return errHalted
	}
	began := time.Now()
	if err := d.look(ctx, r); err != nil {
		return err
	}
	if err := d.decide(ctx, r); err != nil {
		return err
	}
	if err := d.judge(ctx, r); err != nil {
		return err
	}
	err := d.pull(ctx, r, began.Add(lookEvery))
	if errors.Is(err, errAgain) && ctx.Err() == nil {
		d.sleep(ctx, max(time.Until(began.Add(lookSoon)), 0))
	}
	return err
}
