package wire

// The requests as the protocol's own definitions give them (Apache Kafka, clients/src/main/resources/common/message):
// what Check needs to step over them. A test holds each shape against kmsg's encoder in every served version.

var produceShape = []field{
	str.since(3), // transactional id
	i16, i32,     // acks, timeout
	array(
		str.until(12), uuid.since(13), // topic
		array(i32, raw), // partition, records
	),
}

var fetchShape = []field{
	i32.until(14), i32, i32, i32, i8, // replica, max wait, min bytes, max bytes, isolation level
	i32.since(7), i32.since(7), // session id, session epoch
	array(
		str.until(12), uuid.since(13), // topic
		array(
			i32, i32.since(9), i64, i32.since(12), i64.since(5), i32, // partition, leader epoch, offset, last epoch, log start, max bytes
			tag(0, uuid), tag(1, i64), // replica directory, high watermark
		),
	),
	array(str.until(12), uuid.since(13), arrayOf(i32)).since(7), // forgotten
	str.since(11),                 // rack
	tag(0, str), tag(1, i32, i64), // cluster id, replica state
}

var listOffsetsShape = []field{
	i32, i8.since(2), // replica, isolation level
	array(str, array(i32, i32.since(4), i64)), // partition, leader epoch, timestamp
	i32.since(10), // timeout
}

var metadataShape = []field{
	array(uuid.since(10), str),
	i8.since(4),           // auto creation
	i8.since(8).until(10), // cluster operations
	i8.since(8),           // topic operations
}

var offsetCommitShape = []field{
	str, i32, str, str.since(7), // group, generation, member, instance
	i64.until(4), // retention
	array(
		str.until(9), uuid.since(10), // topic
		array(i32, i64, i32.since(6), str), // partition, offset, leader epoch, metadata
	),
}

var offsetFetchShape = []field{
	str.until(7), array(str, arrayOf(i32)).until(7), // group; topic, partitions
	array(
		str, str.since(9), i32.since(9), // group, member, member epoch
		array(str.until(9), uuid.since(10), arrayOf(i32)), // topic, partitions
	).since(8),
	i8.since(7), // require stable
}

var findCoordinatorShape = []field{
	str.until(3), i8.since(1), arrayOf(str).since(4), // key, type, keys
}

var joinGroupShape = []field{
	str, i32, i32.since(1), str, str.since(5), str, // group, session and rebalance timeout, member, instance, type
	array(str, raw), // protocol, metadata
	str.since(8),    // reason
}

var heartbeatShape = []field{str, i32, str, str.since(3)} // group, generation, member, instance

var leaveGroupShape = []field{
	str, str.until(2), // group, member
	array(str, str, str.since(5)).since(3), // member, instance, reason
}

var syncGroupShape = []field{
	str, i32, str, str.since(3), // group, generation, member, instance
	str.since(5), str.since(5), // type, protocol
	array(str, raw), // member, assignment
}

var describeGroupsShape = []field{arrayOf(str), i8.since(3)} // groups, operations

var listGroupsShape = []field{arrayOf(str).since(4), arrayOf(str).since(5)} // states, types

var deleteGroupsShape = []field{arrayOf(str)}

var offsetDeleteShape = []field{str, array(str, array(i32))} // group; topic, partitions

var apiVersionsShape = []field{str.since(3), str.since(3)} // software name, version

var saslHandshakeShape = []field{str}

var saslAuthenticateShape = []field{raw}

var createTopicsShape = []field{
	array(
		str, i32, i16, // name, partitions, replication factor
		array(i32, arrayOf(i32)), // assignment
		array(str, str),          // configs
	),
	i32, i8, // timeout, validate only
}

var deleteTopicsShape = []field{arrayOf(str).until(5), array(str, uuid).since(6), i32}

var deleteRecordsShape = []field{array(str, array(i32, i64)), i32}

var initProducerIDShape = []field{str, i32, i64.since(3), i16.since(3)}

var offsetForLeaderEpochShape = []field{i32.since(3), array(str, array(i32, i32, i32))}

var describeConfigsShape = []field{
	array(i8, str, arrayOf(str)), // type, name, keys
	i8, i8.since(3),              // synonyms, documentation
}

// An entry of an ACL, or a filter of them: type, name, pattern, principal, host, operation, permission.
var describeACLsShape = []field{i8, str, i8, str, str, i8, i8}

var createACLsShape = []field{array(describeACLsShape...)}

var deleteACLsShape = []field{array(describeACLsShape...)}

var alterConfigsShape = []field{
	array(i8, str, array(str, str)), // type, name; key, value
	i8,                              // validate only
}

var describeLogDirsShape = []field{array(str, arrayOf(i32))}

var createPartitionsShape = []field{
	array(str, i32, array(arrayOf(i32))), // name, count, assignments
	i32, i8,                              // timeout, validate only
}

var incrementalAlterConfigsShape = []field{
	array(i8, str, array(str, i8, str)), // type, name; key, operation, value
	i8,                                  // validate only
}

var describeClientQuotasShape = []field{
	array(str, i8, str), i8, // entity type, match type, name; strict
}

var describeUserScramCredentialsShape = []field{array(str)}

var alterUserScramCredentialsShape = []field{
	array(str, i8),                // deletions: name, mechanism
	array(str, i8, i32, raw, raw), // name, mechanism, iterations, salt, salted password
}

var describeClusterShape = []field{i8, i8.since(1), i8.since(2)}

var describeProducersShape = []field{array(str, arrayOf(i32))}

var describeTopicPartitionsShape = []field{
	array(str),
	i32,                // partition limit
	nullable(str, i32), // cursor
}
