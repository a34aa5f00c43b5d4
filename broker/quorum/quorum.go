// Package quorum keeps the catalog: catalog commands in a replicated log (hashicorp/raft) with stores of our own. One
// board is a quorum of one voter; a cluster uses the same code with more.
//
// On the disk:
//
//	<dir>/log/NNNNNNNNNNNNNNNNNNNN   the raft log: tidwall/wal files of entries with a CRC each
//	<dir>/vote                       term, vote and cluster id, in two slots
//	<dir>/NNN-NNN.snapshot           the two newest images, by index and term
//
// A lone voter sleeps: its timeouts are ten seconds, and at its start, or when a failed write cost it its office, it is
// told to hold an election at once. Snapshots are taken by bytes applied, not by a clock.
package quorum

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"millrace/broker/catalog"
	"millrace/broker/disk"
)

// Config is what a Quorum is opened with.
type Config struct {
	// Dir is the quorum's directory; it is made when it does not exist, its parent is there.
	Dir string
	// FS is the disk; nil means disk.OS.
	FS disk.FS
	// NodeID is this board's number, and its voter's.
	NodeID int32
	// ClusterID is checked against what the directory was made with; empty skips the check.
	ClusterID string
	// Logger is told about damage, elections and snapshots; nil discards.
	Logger *slog.Logger
}

var (
	// ErrClosed is returned by everything after Close.
	ErrClosed = errors.New("quorum closed")
	// ErrForeign is returned by Open for a directory of another node or cluster.
	ErrForeign = errors.New("catalog of another board")
	// ErrUnavailable is returned by Propose when the command could not be made durable: the disk refused it, or no
	// leader was found, or the context ended before it was taken.
	ErrUnavailable = errors.New("catalog cannot be changed now")
)

// Report says what Open found.
type Report struct {
	// Fresh: the directory held nothing, a new catalog began.
	Fresh bool
	// Lost: the directory had held a catalog and nothing of it could be read; it begins empty.
	Lost bool
	// Torn is the number of bytes cut off behind the last whole entry: a write no proposal was confirmed for.
	Torn int64
	// Damage lists what was found damaged and what was done about it, one sentence each.
	Damage []string
}

const (
	// patience is raft's timeouts for a lone voter. They only matter when an election fails for want of a disk: raft
	// then tries again after one to two of them. A leader wakes once per patience to look at its lease.
	patience = 10 * time.Second
	// trailing is how many entries behind a snapshot raft leaves in the log for slow followers.
	trailing = 64
)

// Quorum is the catalog's replicated log. Safe for concurrent use.
type Quorum struct {
	logger  *slog.Logger
	stores  *stores
	machine *machine
	raft    *raft.Raft
	trans   transport
	report  Report

	// turn is held by the proposal under way, and from Close on by nobody else. One at a time, so that a command is judged
	// by the very image it will be applied to: what each of two could have, a limit or a setting, both may not have together.
	turn chan struct{}
	stop chan struct{}
	once sync.Once
	err  error // of Close
	wg   sync.WaitGroup
}

// Open recovers the catalog from its directory (see Report), elects the lone voter and returns when the image is up to
// date. It fails for a disk that cannot be read or written, for ErrForeign and for catalog.ErrNewer, not for damage.
func Open(cfg Config) (_ *Quorum, err error) {
	if cfg.FS == nil {
		cfg.FS = disk.OS{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	st, err := recoverStores(&cfg)
	if err != nil {
		return nil, fmt.Errorf("catalog in %s: %w", cfg.Dir, err)
	}
	q := &Quorum{
		logger: cfg.Logger, stores: st, report: st.report,
		machine: newMachine(st.image, st.goal),
		trans:   newLoopback(serverAddress(cfg.NodeID)),
		turn:    make(chan struct{}, 1),
		stop:    make(chan struct{}),
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("catalog in %s: %w", cfg.Dir, errors.Join(err, q.Close()))
		}
	}()
	q.tell()
	if err := st.bootstrap(cfg.NodeID); err != nil {
		return nil, err
	}
	conf := raft.DefaultConfig()
	conf.LocalID = serverID(cfg.NodeID)
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = patience, patience, patience
	conf.CommitTimeout = 50 * time.Millisecond
	conf.SnapshotInterval = 24 * time.Hour // never by the clock: see machine.due
	conf.SnapshotThreshold = 1 << 62
	conf.TrailingLogs = trailing
	conf.NoLegacyTelemetry = true
	conf.Logger = &raftLogger{to: cfg.Logger}
	if q.raft, err = raft.NewRaft(conf, q.machine, st.log, st.votes, st.snapshots, q.trans); err != nil {
		return nil, err
	}
	servers := q.raft.GetConfiguration().Configuration().Servers
	if len(servers) != 1 || servers[0].ID != conf.LocalID {
		return nil, fmt.Errorf("%w: its voters are %v, this is node %d", ErrForeign, servers, cfg.NodeID)
	}
	if err := q.lead(context.Background()); err != nil {
		return nil, err
	}
	select {
	case <-q.machine.reached:
	case err := <-st.failures:
		return nil, err
	case <-time.After(patience):
		return nil, fmt.Errorf("the log was not applied within %v", patience)
	}
	q.wg.Go(q.snapshots)
	return q, nil
}

// tell logs the report, loudly where something was lost.
func (q *Quorum) tell() {
	for _, d := range q.report.Damage {
		q.logger.Error("catalog damaged", "what", d)
	}
	if q.report.Torn > 0 {
		q.logger.Warn("catalog log had an unfinished write at its end", "bytes", q.report.Torn)
	}
	if q.report.Lost {
		q.logger.Error("catalog lost: it begins empty; topics are adopted from their directories, their settings are gone")
	}
}

// Report is what Open found.
func (q *Quorum) Report() Report { return q.report }

// Image is the catalog as of the last applied command.
func (q *Quorum) Image() *catalog.Image { return q.machine.image.Load() }

// Propose validates a command, makes it durable and applies it. It returns the image as it was right after this command;
// every later Image contains it. The catalog's errors come back as they are and change nothing. ctx ends the wait for
// other proposals and for an election, and then the command was not taken; once it is on its way to the disk its answer is
// waited for. After an error of the disk (ErrUnavailable) it is not in the image, and the next start may still find it.
func (q *Quorum) Propose(ctx context.Context, c catalog.Command) (*catalog.Image, error) {
	select {
	case q.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	case <-q.stop:
		return nil, ErrClosed
	}
	defer func() { <-q.turn }()
	select {
	case <-q.stop: // the turn was free as well
		return nil, ErrClosed
	default:
	}
	// What the present image refuses is refused without a write.
	now := q.Image()
	if err := catalog.Validate(now, c); err != nil {
		return nil, err
	}
	if _, err := catalog.Apply(now, c); err != nil {
		return nil, err
	}
	b, err := catalog.Encode(c)
	if err != nil {
		return nil, err
	}
	a := q.propose(ctx, b)
	return a.image, a.err
}

// propose runs one command through raft. A lone voter that is not the leader lost its office to a failed write; the
// command was not taken then, so it may be tried again after an election.
func (q *Quorum) propose(ctx context.Context, b []byte) applied {
	for try := 0; ; try++ {
		f := q.raft.Apply(b, 0)
		err := f.Error()
		switch {
		case err == nil:
			return f.Response().(applied)
		case errors.Is(err, raft.ErrRaftShutdown):
			return applied{err: ErrClosed}
		case !errors.Is(err, raft.ErrNotLeader) || try == 3:
			return applied{err: fmt.Errorf("%w: %w", ErrUnavailable, err)}
		}
		if err := q.lead(ctx); err != nil {
			return applied{err: err}
		}
	}
}

// lead makes the lone voter the leader, if it is not. Only Open and whoever has the turn call it.
func (q *Quorum) lead(ctx context.Context) error {
	if q.raft.State() == raft.Leader {
		return nil
	}
	select {
	case <-q.stores.failures: // an old one
	default:
	}
	if err := q.trans.stand(q.stop); err != nil {
		return err
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		select {
		case leads := <-q.raft.LeaderCh():
			if leads {
				return nil
			}
		case err := <-q.stores.failures:
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		case <-late.C:
			return fmt.Errorf("%w: no election within %v", ErrUnavailable, patience)
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		case <-q.stop:
			return ErrClosed
		}
	}
}

// snapshots takes a snapshot whenever enough was applied.
func (q *Quorum) snapshots() {
	for {
		select {
		case <-q.machine.due:
		case <-q.stop:
			return
		}
		if !q.machine.full() {
			continue // asked while the last one was written
		}
		err := q.raft.Snapshot().Error()
		if err != nil && !errors.Is(err, raft.ErrRaftShutdown) && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
			q.machine.since.Add(-snapshotAgain) // the log keeps growing until one succeeds
			q.logger.Error("catalog snapshot failed", "error", err)
		}
	}
}

// Close stops the quorum and waits for all it started. The proposal under way gets its answer, those that wait for it
// ErrClosed.
func (q *Quorum) Close() error {
	q.once.Do(func() {
		close(q.stop)
		q.turn <- struct{}{} // a shutdown may leave what raft has committed and not yet applied without an answer for ever
		if q.raft != nil {
			q.err = q.raft.Shutdown().Error()
		}
		q.wg.Wait()
		q.err = errors.Join(q.err, q.stores.close())
	})
	return q.err
}
