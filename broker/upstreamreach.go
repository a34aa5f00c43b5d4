package broker

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/contract"
	"millrace/platform/config"
)

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
	k := upstream.KafkaConfig{
		Brokers: r.u.Servers, TLS: secure, Dial: r.dial, Compression: r.u.Compression, Replication: r.u.Replication,
		TransactionTimeout: contract.TransactionTimeout(r.u.RateSecond, batchMax),
	}
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
