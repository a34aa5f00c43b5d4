package broker

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
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
	// patience is what the link wants of sessions to come, 0 for what its rate needs: each has a Kafka of its own.
	patience atomic.Int64
}

var _ upstream.Patient = (*reach)(nil)

// Patience implements upstream.Patient.
func (r *reach) Patience(d time.Duration) { r.patience.Store(int64(d)) }

// Open implements upstream.Remote.
func (r *reach) Open(ctx context.Context, transactionalID string) (upstream.Session, error) {
	k, err := r.kafka()
	if err != nil {
		return nil, err
	}
	return k.Open(ctx, transactionalID)
}

func (r *reach) kafka() (*upstream.Kafka, error) {
	c, err := r.config()
	if err != nil {
		return nil, err
	}
	return upstream.NewKafka(c)
}

// config is how the cluster is reached now.
func (r *reach) config() (upstream.KafkaConfig, error) {
	secure, err := secured(r.u, r.now)
	if err != nil {
		return upstream.KafkaConfig{}, err
	}
	patience := time.Duration(r.patience.Load())
	if patience <= 0 {
		patience = contract.TransactionTimeout(r.u.RateSecond, batchMax)
	}
	k := upstream.KafkaConfig{
		Brokers: r.u.Servers, TLS: secure, Dial: r.dial, Compression: r.u.Compression, Replication: r.u.Replication,
		TransactionTimeout: patience,
	}
	if r.u.SASL() {
		k.SASL = upstream.SASL{Mechanism: r.u.Mechanism, Username: r.u.Username}
		if r.u.PasswordFile != "" {
			if k.SASL.Password, err = secretOf(r.u.PasswordFile); err != nil {
				return k, fmt.Errorf("sasl.password.file: %w", err)
			}
		}
		k.SASL.Token = func(ctx context.Context) (string, error) { return tokenOf(ctx, r.u, r.dial, r.now) }
	}
	return k, nil
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
