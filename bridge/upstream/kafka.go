package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"millrace/broker/record"
)

// KafkaConfig is how a cluster is reached.
type KafkaConfig struct {
	// Brokers are addresses to begin with, host:port. Required.
	Brokers []string
	// TLS is nil for plain text. The host name is filled in.
	TLS *tls.Config
	// SASL is the zero value for none.
	SASL SASL
	// Dial makes connections, under TLS: what is metered is what is on the wire. Nil is a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// TransactionTimeout is that of the link, 60 s by default.
	TransactionTimeout time.Duration
	// BatchBytes is the most a batch of several records holds before compression, 1,000,012 by default. A record that is
	// larger goes alone: what it may be is the peer's to say.
	BatchBytes int
	// Compression is Kafka's compression.type, "zstd" by default.
	Compression string
	// Replication is the replication factor of topics that are made; 0 is -1, what the peer has by default.
	Replication int16
	// Options come last.
	Options []kgo.Opt
}

// SASL is how a client says who it is. Files are read at each login, so that secrets can be changed.
type SASL struct {
	// Mechanism is PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER.
	Mechanism string
	Username  string
	// Password, or else the contents of PasswordFile without the end of the line.
	Password, PasswordFile string
	// Token gives the token of OAUTHBEARER, or else TokenFile has it.
	Token     func(context.Context) (string, error)
	TokenFile string
}

const (
	defaultBatchBytes = 1_000_012
	// recordMost is the largest record that is sent, in bytes, with what is around it.
	recordMost = record.DefaultMaxBytes + 1<<20
	// openTimeout is how long taking over may take, in all, and adminTimeout looking at topics and making them; both are
	// longer where transactions are.
	openTimeout  = time.Minute
	adminTimeout = time.Minute
	// requestLeast and requestMost bound how long a request may take each way.
	requestLeast, requestMost = 10 * time.Second, 5 * time.Minute
	// idleTimeout keeps connections: on a thin link a new one costs more than it. Brokers close them after 10 minutes.
	idleTimeout = 9 * time.Minute
	// metadataAge is how often who leads what is asked without need.
	metadataAge = 10 * time.Minute
	// metadataLeast is how often it is asked at most by a session that sends: the client sends what was refused, be it for the end of
	// the last transaction alone, only when it has asked. Its own 5 s would be a transaction's whole time.
	metadataLeast = 250 * time.Millisecond
	// unknownRetries is how often a topic may be unknown before that is believed.
	unknownRetries = 5
	// fileMax is how large a file with a secret may be, in bytes.
	fileMax = 64 << 10
)

// Kafka is the way to a cluster. It holds nothing: sessions do.
type Kafka struct {
	cfg  KafkaConfig
	opts []kgo.Opt
	// patience is the transaction timeout of sessions to come.
	patience atomic.Int64
}

// NewKafka makes a way to a cluster, without talking to it. It returns ErrConfig.
func NewKafka(cfg KafkaConfig) (*Kafka, error) {
	if len(cfg.Brokers) == 0 {
		return nil, fmt.Errorf("%w: no brokers", ErrConfig)
	}
	cfg.TransactionTimeout = or(cfg.TransactionTimeout, defaultTransactionTimeout)
	cfg.BatchBytes = or(cfg.BatchBytes, defaultBatchBytes)
	cfg.Replication = or(cfg.Replication, -1)
	codec, err := record.ParseCodec(or(cfg.Compression, record.Zstd.String()))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: 30 * time.Second}).DialContext
	}
	k := &Kafka{cfg: cfg}
	k.Patience(cfg.TransactionTimeout)
	k.opts = []kgo.Opt{
		kgo.SeedBrokers(cfg.Brokers...),
		kgo.ClientID("millrace"),
		kgo.SoftwareNameAndVersion("millrace", "1"),
		kgo.DisableClientMetrics(),
		kgo.ConnIdleTimeout(idleTimeout),
		kgo.MetadataMaxAge(metadataAge),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.ZstdCompression()),
		kgo.WithCompressor(compressor{codec}),
		kgo.ProducerBatchMaxBytes(recordMost), // Send divides
		kgo.MaxBufferedRecords(recordsMax + 3*draftsMax + 1),
		kgo.ManualFlushing(),
		kgo.UnknownTopicRetries(unknownRetries),
		kgo.RetryBackoffFn(retryWait),
	}
	if cfg.SASL.Mechanism != "" {
		m, err := cfg.SASL.mechanism()
		if err != nil {
			return nil, err
		}
		k.opts = append(k.opts, kgo.SASL(m))
	}
	k.opts = append(k.opts, cfg.Options...)
	return k, kgo.ValidateOpts(k.opts...)
}

func (s SASL) mechanism() (sasl.Mechanism, error) {
	switch s.Mechanism {
	case "PLAIN":
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			password, err := secret(s.Password, s.PasswordFile)
			return plain.Auth{User: s.Username, Pass: password}, err
		}), nil
	case "SCRAM-SHA-256", "SCRAM-SHA-512":
		auth := func(context.Context) (scram.Auth, error) {
			password, err := secret(s.Password, s.PasswordFile)
			return scram.Auth{User: s.Username, Pass: password}, err
		}
		if s.Mechanism == "SCRAM-SHA-256" {
			return scram.Sha256(auth), nil
		}
		return scram.Sha512(auth), nil
	case "OAUTHBEARER":
		if s.Token == nil {
			s.Token = func(context.Context) (string, error) { return secret("", s.TokenFile) }
		}
		return oauth.Oauth(func(ctx context.Context) (oauth.Auth, error) {
			token, err := s.Token(ctx)
			return oauth.Auth{Token: token}, err
		}), nil
	}
	return nil, fmt.Errorf("%w: SASL mechanism %q", ErrConfig, s.Mechanism)
}

// retryWait is how long the client waits within a session. The peer refuses the first records of a transaction for as long
// as it writes the end of the last one, which is mostly over in milliseconds.
func retryWait(failures int) time.Duration {
	wait := min(20*time.Millisecond<<min(max(failures-1, 0), 8), 5*time.Second)
	return wait/2 + rand.N(wait/2)
}

// secret is a secret, or what a file has.
func secret(text, file string) (string, error) {
	if text != "" || file == "" {
		return text, nil
	}
	info, err := os.Stat(file)
	if err == nil && info.Size() > fileMax {
		err = fmt.Errorf("%d bytes are no secret", info.Size())
	}
	if err != nil {
		return "", fmt.Errorf("secret: %w", err)
	}
	p, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("secret: %w", err)
	}
	return strings.TrimRight(string(p), "\r\n"), nil
}

// frameMost is about what a codec adds to a batch that cannot be compressed.
const frameMost = 128

// compressor compresses with the board's own encoders, so that there is one pool of them.
type compressor struct{ codec record.Codec }

func (c compressor) Compress(dst *bytes.Buffer, src []byte, flags ...kgo.CompressFlag) ([]byte, kgo.CompressionCodecType) {
	if c.codec == record.None {
		return src, kgo.CodecNone
	}
	for _, f := range flags {
		if f == kgo.CompressDisableZstd && c.codec == record.Zstd {
			return src, kgo.CodecNone
		}
	}
	dst.Reset()
	dst.Grow(len(src) + frameMost) // where it did not fit, each batch would leave one that nobody uses again
	out, err := c.codec.Compress(dst.AvailableBuffer(), src)
	if err != nil || len(out) >= len(src) {
		return src, kgo.CodecNone
	}
	return out, kgo.CompressionCodecType(c.codec) // both have Kafka's numbers
}

// Patience implements Patient.
func (k *Kafka) Patience(d time.Duration) { k.patience.Store(int64(d)) }

// client is a client with connections of its own.
func (k *Kafka) client(opts ...kgo.Opt) (*kgo.Client, *lines, error) {
	lines := &lines{cfg: &k.cfg, open: map[*line]struct{}{}}
	cl, err := kgo.NewClient(append(append(k.opts[:len(k.opts):len(k.opts)], kgo.Dialer(lines.dial)), opts...)...)
	return cl, lines, err
}

// timeouts is how long requests of a session may take: a quarter of a transaction each way. The client's own 10 s begin when the
// kernel has a request, which a thin link carries in minutes: there patience grows until it is enough. More at once would have a
// dead connection waited for as long: nothing else shows it.
func (k *Kafka) timeouts() []kgo.Opt {
	d := min(max(time.Duration(k.patience.Load())/4, requestLeast), requestMost)
	return []kgo.Opt{kgo.RequestTimeoutOverhead(d), kgo.ProduceRequestTimeout(d)}
}

// Open implements Remote.
func (k *Kafka) Open(ctx context.Context, transactionalID string) (Session, error) {
	patience := time.Duration(k.patience.Load())
	opts := k.timeouts()
	if transactionalID != "" {
		opts = append(opts, kgo.TransactionalID(transactionalID), kgo.TransactionTimeout(patience))
	}
	s := &kafkaSession{
		transactional: transactionalID != "", replication: k.cfg.Replication, patience: patience,
		batchBytes: k.cfg.BatchBytes, portion: fetchLeast,
	}
	var err error
	if s.cl, s.lines, err = k.client(append(opts, kgo.RetryBackoffFn(s.wait), kgo.MetadataMinAge(metadataLeast), kgo.WithHooks(&s.refused))...); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, max(openTimeout, patience))
	defer cancel()
	if err := s.takeOver(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// kafkaSession is a Session: one kgo client.
type kafkaSession struct {
	cl            *kgo.Client
	lines         *lines
	transactional bool
	replication   int16 // of topics that are made
	cluster       string
	patience      time.Duration
	batchBytes    int // the most a batch of several records holds
	portion       int // of the cursor topic that is asked for at once, in bytes

	refused refusals // of the Send that is under way
	scouts  int      // how many transactions to come send a record ahead
	pace    pace
	slab    []kgo.Record
	headers []kgo.RecordHeader
	outcome outcome
}

// transactionKeys are what a peer has to offer that has transactions.
var transactionKeys = []int16{kmsg.InitProducerID.Int16(), kmsg.EndTxn.Int16()}

func (s *kafkaSession) takeOver(ctx context.Context) error {
	if s.transactional {
		resp, err := kmsg.NewPtrApiVersionsRequest().RequestWith(ctx, s.cl)
		if err != nil {
			return err
		}
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			return err
		}
		for _, key := range transactionKeys {
			offered := false
			for _, k := range resp.ApiKeys {
				offered = offered || k.ApiKey == key
			}
			if !offered {
				return fmt.Errorf("%w: it does not know %s", ErrNoTransactions, kmsg.NameForKey(key))
			}
		}
	}
	id, _, err := s.cl.ProducerID(ctx)
	switch {
	case errors.Is(err, kerr.UnsupportedVersion), err == nil && id < 0 && s.transactional:
		return fmt.Errorf("%w: it gives no producer ids", ErrNoTransactions)
	case errors.Is(err, kerr.InvalidTransactionTimeout):
		return fmt.Errorf("%w: %w", ErrImpatient, err)
	}
	return classify(err)
}

// Cluster implements Session.
func (s *kafkaSession) Cluster() string { return s.cluster }

// Close implements Session.
func (s *kafkaSession) Close() {
	s.lines.close()
	s.cl.Close()
}

// outcome gathers what became of the records of a transaction.
type outcome struct {
	mu    sync.Mutex
	err   error
	topic string
	part  int32
}

func (o *outcome) promise(r *kgo.Record, err error) {
	if err == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil || errors.Is(o.err, kgo.ErrAborting) {
		o.err, o.topic, o.part = err, r.Topic, r.Partition
	}
}

// result is the first error, as a Session says it.
func (o *outcome) result() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return refusal(o.err, o.topic, o.part)
}

// refusal tells apart what a peer refuses for good, and what nobody knows.
func refusal(err error, topic string, partition int32) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return &RefusedError{Topic: topic, Partition: partition, Err: fmt.Errorf("%w: %w", ErrTooLarge, err)}
	case errors.Is(err, kerr.InvalidTimestamp):
		err = fmt.Errorf("%w: the topic's message.timestamp.after.max.ms or before.max.ms is less than the board's", err)
		return &RefusedError{Topic: topic, Partition: partition, Err: err}
	case errors.Is(err, kerr.InvalidRecord), errors.Is(err, kerr.CorruptMessage),
		errors.Is(err, kerr.PolicyViolation):
		return &RefusedError{Topic: topic, Partition: partition, Err: err}
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.InvalidTopicException),
		errors.Is(err, kerr.UnsupportedCompressionType), errors.Is(err, kerr.UnsupportedForMessageFormat):
		return &RefusedError{Topic: topic, Partition: partition, Whole: true, Err: err}
	}
	return classify(fmt.Errorf("%s-%d: %w", topic, partition, err))
}

// classify puts the engine's own sentinel before the peer's error.
func classify(err error) error {
	if errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerEpoch) {
		return fmt.Errorf("%w: %w", ErrFenced, err)
	}
	return err
}
