// Package catalog is what a cluster knows about itself: brokers, topics, partitions, configurations, users,
// access control entries and producer id blocks. It is pure: an Image never changes, a Command says what shall change, and Apply makes the next Image from the
// two. Nothing here reads a clock, a file or a random number (NewTopicID excepted), so that every board that applies the
// same commands holds the same image.
//
// Two functions judge a command. Validate holds it against the rules of this version (names, configuration values,
// limits) and is asked once, before the command is proposed. Apply judges only what depends on the image. So a later
// version may be stricter and still replays an old log to the very image the old version had.
package catalog

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
)

// Limits of a catalog. A board of 64 MiB pays about 1 KiB for an idle partition.
const (
	// MaxTopics is the number of topics a catalog holds at most.
	MaxTopics = 10_000
	// MaxPartitions is the number of partitions of all topics together.
	MaxPartitions = 20_000
	// MaxPartitionsPerTopic is the number of partitions of one topic.
	MaxPartitionsPerTopic = 4_096
	// MaxBrokers is the number of brokers a catalog knows.
	MaxBrokers = 64
	// MaxConfigEntries is the number of settings one topic or broker overrides.
	MaxConfigEntries = 128
	// MaxConfigValue is the length of one configuration value in bytes: the longest with a meaning has 20, and every topic
	// may have every setting.
	MaxConfigValue = 128
	// ProducerIDBlock is how many producer ids a broker takes at a time, as Apache Kafka does (KIP-730).
	ProducerIDBlock = 1000
)

var (
	// ErrTopicExists is returned by Apply for CreateTopic when the name, or the id, is taken.
	ErrTopicExists = errors.New("topic already exists")
	// ErrUnknownTopic is returned by Apply when a command names a topic id that is not in the image.
	ErrUnknownTopic = errors.New("unknown topic")
	// ErrUnknownPartition is returned by Apply when a command names a partition its topic does not have.
	ErrUnknownPartition = errors.New("unknown partition")
	// ErrInvalidTopic is returned by ValidTopicName, and by Apply when a name collides with another (`a.b` and `a_b`).
	ErrInvalidTopic = errors.New("invalid topic")
	// ErrInvalidConfig is returned by Validate and ParseTopicConfig for an unknown setting or a value out of its range.
	ErrInvalidConfig = errors.New("invalid configuration")
	// ErrInvalidPartitions is returned for a partition count that is not positive, or not above the present one.
	ErrInvalidPartitions = errors.New("invalid number of partitions")
	// ErrInvalidReplication is returned for a replication factor that is not positive or above the number of brokers.
	ErrInvalidReplication = errors.New("invalid replication factor")
	// ErrInvalidAssignment is returned for replicas that repeat, are not brokers, or an ISR or leader outside them.
	ErrInvalidAssignment = errors.New("invalid replica assignment")
	// ErrTooMany is returned when a command would pass a limit of the catalog.
	ErrTooMany = errors.New("too many")
	// ErrUnknownBroker is returned by Apply when a command names a broker that never registered.
	ErrUnknownBroker = errors.New("unknown broker")
	// ErrInvalidBroker is returned by Validate for a registration without host, with a bad port or a negative id.
	ErrInvalidBroker = errors.New("invalid broker registration")
	// ErrUnknownUser is returned by Apply when a command takes a credential away that is not there.
	ErrUnknownUser = errors.New("unknown user credential")
	// ErrStaleBrokerEpoch is returned by Apply when a command carries an older epoch than the broker's registration.
	ErrStaleBrokerEpoch = errors.New("stale broker epoch")
	// ErrStalePartitionEpoch is returned by Apply for a partition change that was made from an older state.
	ErrStalePartitionEpoch = errors.New("stale partition epoch")
	// ErrCorrupt is returned by the decoders for bytes that are not what an encoder wrote.
	ErrCorrupt = errors.New("corrupt catalog bytes")
	// ErrNewer is returned by the decoders for a whole command or snapshot of a version this program does not know.
	ErrNewer = errors.New("written by a newer version of Millrace")
)

// TopicID names a topic for good: a topic made anew under the same name has another one (KIP-516).
type TopicID [16]byte

// NewTopicID draws a random version 4 UUID. Like Apache Kafka it avoids ids whose text begins with a dash, which
// command lines would take for a flag.
func NewTopicID() TopicID {
	for {
		var id TopicID
		// crypto/rand.Read never fails: it ends the program if the system has no randomness.
		_, _ = rand.Read(id[:])
		id[6] = id[6]&0x0f | 0x40
		id[8] = id[8]&0x3f | 0x80
		if id.String()[0] != '-' {
			return id
		}
	}
}

// IsZero tells whether the id is unset; Kafka uses the zero id for "not given".
func (id TopicID) IsZero() bool { return id == TopicID{} }

// String is Kafka's text form: 22 characters of unpadded URL-safe base64.
func (id TopicID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// ParseTopicID reads what String wrote.
func ParseTopicID(s string) (TopicID, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != len(TopicID{}) {
		return TopicID{}, fmt.Errorf("topic id %q is not 22 characters of base64: %w", s, ErrCorrupt)
	}
	return TopicID(b), nil
}
