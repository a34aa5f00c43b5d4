package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"millrace/bridge/upstream"
	"millrace/platform/config"
)

// linkDial bounds how long one connection may take to be made.
const linkDial = 30 * time.Second

// line is what a link reaches its other end by, and what it may send there when.
type line struct {
	remote    upstream.Remote
	scheduler upstream.Scheduler
	backoff   upstream.Backoff
}

// errDown is why a link cannot be that goes down.
var errDown = errors.New(`direction = "down" is not in this version`)

// newLine makes that of a link.
func (l *links) newLine(u *config.Upstream) (*line, error) {
	if u.Direction != config.Up {
		return nil, errDown
	}
	k := &line{}
	if k.remote = (&reach{u: u, dial: (&net.Dialer{Timeout: linkDial}).DialContext, now: l.b.clock.Now}); l.b.config.remote != nil {
		k.remote = l.b.config.remote(u)
	}
	return k, nil
}

// close gives back what the line holds. Nothing uses it any more.
func (*line) close() {}

// reach is the way to an Apache Kafka. What the settings name is read with each session, so that files can be replaced.
type reach struct {
	u    *config.Upstream
	dial dialer
	now  func() time.Time
}

// Open implements upstream.Remote.
func (r *reach) Open(ctx context.Context, transactionalID string) (upstream.Session, error) {
	k, err := r.kafka()
	if err != nil {
		return nil, err
	}
	return k.Open(ctx, transactionalID)
}

func (r *reach) kafka() (*upstream.Kafka, error) {
	secure, err := secured(r.u, r.now)
	if err != nil {
		return nil, err
	}
	k := upstream.KafkaConfig{Brokers: r.u.Servers, TLS: secure, Dial: r.dial, Compression: r.u.Compression, Replication: r.u.Replication}
	if r.u.SASL() {
		k.SASL = upstream.SASL{Mechanism: r.u.Mechanism, Username: r.u.Username}
		if r.u.PasswordFile != "" {
			if k.SASL.Password, err = secretOf(r.u.PasswordFile); err != nil {
				return nil, fmt.Errorf("sasl.password.file: %w", err)
			}
		}
		k.SASL.Token = func(ctx context.Context) (string, error) { return tokenOf(ctx, r.u, r.dial, r.now) }
	}
	return upstream.NewKafka(k)
}

// readable says whether others than its owner, and its owner's group, can read a file.
func readable(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().Perm()&0o004 != 0
}

// secretOf is the first line of a file. Its errors hold nothing of what is in it.
func secretOf(name string) (string, error) {
	raw, err := readFile(name)
	if err != nil {
		return "", err
	}
	first, _, _ := strings.Cut(string(raw), "\n")
	if first = strings.TrimRight(first, "\r"); first == "" {
		return "", fmt.Errorf("%s: its first line is empty", name)
	}
	return first, nil
}
