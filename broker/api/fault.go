package api

import (
	"context"
	"errors"

	"millrace/broker/auth"
	"millrace/broker/budget"
	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/group"
	"millrace/broker/journal"
	"millrace/broker/partition"
	"millrace/broker/purgatory"
	"millrace/broker/quorum"
	"millrace/broker/record"
	"millrace/broker/segment"
)

// Kafka's error codes (org.apache.kafka.common.protocol.Errors), those that are answered here.
const (
	codeNone                     int16 = 0
	codeUnknown                  int16 = -1
	codeOffsetOutOfRange         int16 = 1
	codeCorruptMessage           int16 = 2
	codeUnknownTopicOrPartition  int16 = 3
	codeLeaderNotAvailable       int16 = 5
	codeNotLeader                int16 = 6
	codeRequestTimedOut          int16 = 7
	codeBrokerNotAvailable       int16 = 8
	codeReplicaNotAvailable      int16 = 9
	codeMessageTooLarge          int16 = 10
	codeOffsetMetadataTooLarge   int16 = 12
	codeCoordinatorLoading       int16 = 14
	codeCoordinatorNotAvailable  int16 = 15
	codeNotCoordinator           int16 = 16
	codeInvalidTopic             int16 = 17
	codeNotEnoughReplicas        int16 = 19
	codeInvalidRequiredAcks      int16 = 21
	codeIllegalGeneration        int16 = 22
	codeInconsistentProtocol     int16 = 23
	codeInvalidGroupID           int16 = 24
	codeUnknownMemberID          int16 = 25
	codeInvalidSessionTimeout    int16 = 26
	codeRebalanceInProgress      int16 = 27
	codeTopicAuthorization       int16 = 29
	codeGroupAuthorization       int16 = 30
	codeClusterAuthorization     int16 = 31
	codeInvalidTimestamp         int16 = 32
	codeUnsupportedMechanism     int16 = 33
	codeIllegalSASLState         int16 = 34
	codeUnsupportedVersion       int16 = 35
	codeTopicExists              int16 = 36
	codeInvalidPartitions        int16 = 37
	codeInvalidReplicationFactor int16 = 38
	codeInvalidAssignment        int16 = 39
	codeInvalidConfig            int16 = 40
	codeNotController            int16 = 41
	codeInvalidRequest           int16 = 42
	codeUnsupportedFormat        int16 = 43
	codePolicyViolation          int16 = 44
	codeOutOfOrderSequence       int16 = 45
	codeInvalidProducerEpoch     int16 = 47
	codeInvalidTxnState          int16 = 48
	codeTxnIDAuthorization       int16 = 53
	codeSecurityDisabled         int16 = 54
	codeKafkaStorage             int16 = 56
	codeNonEmptyGroup            int16 = 68
	codeGroupIDNotFound          int16 = 69
	codeAuthenticationFailed     int16 = 58
	codeSessionNotFound          int16 = 70
	codeInvalidSessionEpoch      int16 = 71
	codeFencedLeaderEpoch        int16 = 74
	codeUnknownLeaderEpoch       int16 = 75
	codeUnsupportedCompression   int16 = 76
	codeStaleBrokerEpoch         int16 = 77
	codeMemberIDRequired         int16 = 79
	codeGroupMaxSizeReached      int16 = 81
	codeFencedInstanceID         int16 = 82
	codeGroupSubscribedToTopic   int16 = 86
	codeInvalidRecord            int16 = 87
	codeResourceNotFound         int16 = 91
	codeDuplicateResource        int16 = 92
	codeUnacceptableCredential   int16 = 93
	codeUnknownTopicID           int16 = 100
	codeSessionTopicID           int16 = 106
	codeBrokerIDNotRegistered    int16 = 102
	codeMismatchedEndpoint       int16 = 114
	codeUnsupportedEndpoint      int16 = 115
)

// faults is the only translation from Go errors to Kafka's codes. The first that matches holds. A test walks broker/
// for exported errors and fails if one is neither here nor among those that never reach this door.
var faults = []struct {
	err  error
	code int16
}{
	// What the coordinator says comes before what its log said to it.
	{group.ErrInvalidGroup, codeInvalidGroupID},
	{group.ErrUnknownMember, codeUnknownMemberID},
	{group.ErrIllegalGeneration, codeIllegalGeneration},
	{group.ErrRebalance, codeRebalanceInProgress},
	{group.ErrInconsistentProtocol, codeInconsistentProtocol},
	{group.ErrInvalidSession, codeInvalidSessionTimeout},
	{group.ErrMemberIDRequired, codeMemberIDRequired},
	{group.ErrFull, codeGroupMaxSizeReached},
	{group.ErrFenced, codeFencedInstanceID},
	{group.ErrNotFound, codeGroupIDNotFound},
	{group.ErrNotEmpty, codeNonEmptyGroup},
	{group.ErrSubscribed, codeGroupSubscribedToTopic},
	{group.ErrLoading, codeCoordinatorLoading},
	{group.ErrNotCoordinator, codeNotCoordinator},
	{group.ErrUnavailable, codeCoordinatorNotAvailable},
	// Kafka has no such limit, so no code of its own; every client takes this one for final.
	{group.ErrTooMany, codePolicyViolation},
	{group.ErrMetadataTooLarge, codeOffsetMetadataTooLarge},

	{partition.ErrOffsetOutOfRange, codeOffsetOutOfRange},
	{partition.ErrNotLeader, codeNotLeader},
	{partition.ErrFencedEpoch, codeFencedLeaderEpoch},
	{partition.ErrUnknownEpoch, codeUnknownLeaderEpoch},
	{partition.ErrPoisoned, codeKafkaStorage},
	{partition.ErrOffline, codeKafkaStorage},
	{partition.ErrNameTaken, codeKafkaStorage},
	// A deleted partition has lost its leader for good: the client asks for metadata and learns that it is gone.
	{partition.ErrDeleted, codeNotLeader},
	// Retriable: the disk may get free space again, and the record was not written.
	{partition.ErrDiskFull, codeKafkaStorage},
	{partition.ErrTooLarge, codeMessageTooLarge},
	{partition.ErrNotEnoughReplicas, codeNotEnoughReplicas},
	{partition.ErrInvalidTimestamp, codeInvalidTimestamp},
	{partition.ErrOutOfOrderSequence, codeOutOfOrderSequence},
	{partition.ErrFencedProducer, codeInvalidProducerEpoch},
	// Kafka has no code for "come again" that every client honours for a produce; this one means just that, and that
	// nothing was written.
	{partition.ErrOverloaded, codeNotEnoughReplicas},

	{disk.ErrFull, codeKafkaStorage},
	{journal.ErrWrite, codeKafkaStorage},
	{journal.ErrUnavailable, codeKafkaStorage},
	{journal.ErrFull, codeNotEnoughReplicas},
	{journal.ErrClosed, codeNotLeader}, // shutting down: another broker, or this one again, will lead
	{segment.ErrDamaged, codeCorruptMessage},
	{segment.ErrUnsynced, codeKafkaStorage},

	{record.ErrMagic, codeUnsupportedFormat},
	{record.ErrCodec, codeUnsupportedCompression},
	{record.ErrTooLarge, codeMessageTooLarge},
	{record.ErrTimestamp, codeInvalidTimestamp},
	{record.ErrInvalid, codeInvalidRecord},
	{record.ErrCorrupt, codeCorruptMessage},
	{record.ErrShort, codeCorruptMessage},

	{quorum.ErrClosed, codeNotController},
	{quorum.ErrUnavailable, codeNotController},
	{catalog.ErrTopicExists, codeTopicExists},
	{catalog.ErrUnknownTopic, codeUnknownTopicOrPartition},
	{catalog.ErrUnknownPartition, codeUnknownTopicOrPartition},
	{catalog.ErrInvalidTopic, codeInvalidTopic},
	{catalog.ErrInvalidConfig, codeInvalidConfig},
	{catalog.ErrInvalidPartitions, codeInvalidPartitions},
	{catalog.ErrInvalidReplication, codeInvalidReplicationFactor},
	{catalog.ErrInvalidAssignment, codeInvalidAssignment},
	{catalog.ErrTooMany, codePolicyViolation},
	{catalog.ErrUnknownBroker, codeBrokerIDNotRegistered},
	{catalog.ErrUnknownUser, codeResourceNotFound},
	{catalog.ErrInvalidBroker, codeInvalidRequest},
	{catalog.ErrStaleBrokerEpoch, codeStaleBrokerEpoch},
	{catalog.ErrStalePartitionEpoch, codeNotLeader},

	{auth.ErrAuthentication, codeAuthenticationFailed},
	{auth.ErrMechanism, codeUnsupportedMechanism},
	{auth.ErrState, codeIllegalSASLState},
	{auth.ErrCredential, codeUnacceptableCredential},
	{auth.ErrACL, codeInvalidRequest},

	{errRefused, codeInvalidRequest},
	{errTopicDenied, codeTopicAuthorization},
	{errClusterDenied, codeClusterAuthorization},
	{errNoAuthorizer, codeSecurityDisabled},
	{budget.ErrTooLarge, codeMessageTooLarge},
	{purgatory.ErrFull, codeRequestTimedOut},
	{purgatory.ErrClosed, codeBrokerNotAvailable},
	{context.Canceled, codeBrokerNotAvailable},
	{context.DeadlineExceeded, codeRequestTimedOut},
}

// CodeOf is Kafka's code for an error, for doors that speak another protocol: 0 for nil and UNKNOWN_SERVER_ERROR for what
// nobody foresaw.
func CodeOf(err error) int16 { return codeOf(err) }

// codeOf is Kafka's code for an error, 0 for nil and UNKNOWN_SERVER_ERROR for what nobody foresaw.
func codeOf(err error) int16 {
	if err == nil {
		return codeNone
	}
	for _, f := range faults {
		if errors.Is(err, f.err) {
			return f.code
		}
	}
	return codeUnknown
}

// saying is the text of an error for a client, null for none.
func saying(err error) *string {
	if err == nil {
		return nil
	}
	return text(err.Error())
}
