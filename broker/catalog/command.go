package catalog

// Command is one change of the catalog. The set is closed: the types of this package.
type Command interface {
	// kind is the number the encoding carries; numbers are never reused.
	kind() kind
	// version is the newest payload version of this kind, the one that is written.
	version() uint8
	appendTo(b []byte) []byte
	apply(m *Image) (*Image, error)
	validate(m *Image) error
}

type kind uint8

const (
	kindCreateTopic kind = 1 + iota
	kindDeleteTopic
	kindCreatePartitions
	kindAlterTopicConfig
	kindAlterBrokerConfig
	kindRegisterBroker
	kindAllocateProducerIDs
	kindChangePartitions
	kindUpsertCredential
	kindDeleteCredential
	kindAddACLs
	kindRemoveACLs
)

// CreateTopic adds a topic. NewTopic and Assign make the partitions; a topic found on the disk and adopted carries the
// leader epochs it had.
type CreateTopic struct {
	Name       string
	ID         TopicID
	Partitions []PartitionState
	Config     map[string]string
}

// DeleteTopic removes a topic.
type DeleteTopic struct{ Topic TopicID }

// CreatePartitions adds partitions at the end of a topic.
type CreatePartitions struct {
	Topic TopicID
	// From is the number of partitions the proposer saw; two requests at once cannot both add.
	From int32
	Add  []PartitionState
}

// Op is what a ConfigOp does; the numbers are Kafka's (KIP-339).
type Op uint8

// The operations of IncrementalAlterConfigs.
const (
	OpSet      Op = 0 // Value becomes the setting's value
	OpDelete   Op = 1 // the default holds again
	OpAppend   Op = 2 // Value, a comma-separated list, is added to a list setting
	OpSubtract Op = 3 // and removed from it
)

// ConfigOp changes one setting.
type ConfigOp struct {
	Name  string
	Op    Op
	Value string
}

// AlterTopicConfig changes a topic's settings, all or none.
type AlterTopicConfig struct {
	Topic TopicID
	// Replace drops every setting first (Kafka's older AlterConfigs).
	Replace bool
	Ops     []ConfigOp
}

// AlterBrokerConfig changes a broker's dynamic settings, all or none. Broker may be AllBrokers.
type AlterBrokerConfig struct {
	Broker  int32
	Replace bool
	Ops     []ConfigOp
}

// RegisterBroker makes a broker, or its new incarnation, known. A new incarnation gets a new epoch.
type RegisterBroker struct {
	ID          int32
	Host        string
	Port        int32
	Rack        string
	Incarnation [16]byte
}

// AllocateProducerIDs gives a broker the next ProducerIDBlock producer ids (KIP-730).
type AllocateProducerIDs struct {
	Broker int32
	// Epoch is the broker's epoch; -1 skips the check.
	Epoch int64
	// AtLeast is the lowest id the block may begin with, at most 2^62: after damage to the catalog, ids in use are left
	// out. 0 is any.
	AtLeast int64
}

// PartitionChange is one new partition state, agreed on only if nobody changed the partition meanwhile.
type PartitionChange struct {
	Topic     TopicID
	Partition int32
	// Epoch is the partition epoch the proposer saw; -1 skips the check.
	Epoch int32
	// Leader is the new leader or NoLeader. Another leader than before raises the leader epoch.
	Leader int32
	// Raise raises the leader epoch although the leader stays: it came back from an unclean stop.
	Raise bool
	// ISR are the new in-sync replicas.
	ISR []int32
	// Replicas are the new replicas; nil leaves them as they are.
	Replicas []int32
}

// ChangePartitions changes leaders, in-sync replicas and assignments, all or none.
type ChangePartitions struct{ Changes []PartitionChange }

func (CreateTopic) kind() kind         { return kindCreateTopic }
func (DeleteTopic) kind() kind         { return kindDeleteTopic }
func (CreatePartitions) kind() kind    { return kindCreatePartitions }
func (AlterTopicConfig) kind() kind    { return kindAlterTopicConfig }
func (AlterBrokerConfig) kind() kind   { return kindAlterBrokerConfig }
func (RegisterBroker) kind() kind      { return kindRegisterBroker }
func (AllocateProducerIDs) kind() kind { return kindAllocateProducerIDs }
func (ChangePartitions) kind() kind    { return kindChangePartitions }

func (CreateTopic) version() uint8         { return 1 }
func (DeleteTopic) version() uint8         { return 1 }
func (CreatePartitions) version() uint8    { return 1 }
func (AlterTopicConfig) version() uint8    { return 1 }
func (AlterBrokerConfig) version() uint8   { return 1 }
func (RegisterBroker) version() uint8      { return 1 }
func (AllocateProducerIDs) version() uint8 { return 1 }
func (ChangePartitions) version() uint8    { return 1 }
