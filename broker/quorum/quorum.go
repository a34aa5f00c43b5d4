// Package quorum keeps the catalog: catalog commands in a replicated log (hashicorp/raft) with stores of our own. One
// board is a quorum of one voter; a cluster uses the same code with more.
package quorum

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"millrace/broker/catalog"
	"millrace/broker/disk"
)

// Config is what a Quorum is opened with.
type Config struct {
	// Dir is the quorum's directory; it is made when it does not exist.
	Dir string
	// FS is the disk; nil means disk.OS.
	FS disk.FS
	// NodeID is this board's number, and its voter's.
	NodeID int32
	// ClusterID is checked against what the directory was made with; empty skips the check.
	ClusterID string
	// Now tells the time for reports; nil means time.Now.
	Now func() time.Time
	// Logger is told about damage, elections and snapshots; nil discards.
	Logger *slog.Logger
}

// Quorum is the catalog's replicated log. Safe for concurrent use.
type Quorum struct{}

// ErrClosed is returned by everything after Close.
var ErrClosed = errors.New("quorum closed")

// Report says what Open found.
type Report struct {
	// Fresh: the directory held nothing, a new catalog began.
	Fresh bool
	// Lost: the directory had held a catalog and nothing of it could be read; it begins empty.
	Lost bool
	// Torn is the number of bytes cut off the log's end: a write no proposal was confirmed for.
	Torn int64
	// Damage lists what was found damaged and what was done about it, one sentence each.
	Damage []string
}

// Open recovers the catalog from its directory, elects the lone voter and returns when the image is up to date.
func Open(cfg Config) (*Quorum, error) { return nil, ErrClosed }

// Report is what Open found.
func (q *Quorum) Report() Report { return Report{} }

// Image is the catalog as of the last applied command.
func (q *Quorum) Image() *catalog.Image { return nil }

// Propose validates a command, makes it durable and applies it. It returns the image as it was right after this command;
// every later Image contains it. The catalog's errors come back as they are and change nothing. With any other error the
// outcome is unknown: the command may or may not have been made durable.
func (q *Quorum) Propose(ctx context.Context, c catalog.Command) (*catalog.Image, error) {
	return nil, ErrClosed
}

// Watch calls fn after every applied command, in order, with the image before and after, and before Propose returns.
// fn must be quick and must not call Propose. cancel returns when fn is not running and will not be called again.
func (q *Quorum) Watch(fn func(old, new *catalog.Image)) (cancel func()) { return func() {} }

// Close stops the quorum. What was confirmed is durable already.
func (q *Quorum) Close() error { return nil }
