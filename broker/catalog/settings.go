package catalog

import "math"

// topicSettings is sorted by name. Names, types and ranges are Apache Kafka 4's (TopicConfig, LogConfig); a default that
// differs says why. Remote storage, throttles and message down-conversion are not offered.
//
//   - segment.bytes: 16 MiB, retention.bytes: 1 GiB: an SD card, not a server's disk. Segments may be as small as 64 KiB.
//   - flush.messages: 1: acknowledged means on flash. Kafka leaves the flush to the page cache.
//   - message.timestamp.after.max.ms: unlimited. A board without a battery clock may wake in 1970, and must not refuse
//     the producers that know the time.
//   - full: ours, what to do when the disk is at its reserve.
var topicSettings = []Setting{
	{
		Name: "cleanup.policy", Type: TypeList, Default: "delete", OneOf: []string{"compact", "delete"}, Synonym: "log.cleanup.policy",
		Doc:   "delete drops old segments by time or size, compact keeps the latest record of every key; both may be given.",
		field: func(c *TopicConfig) any { return (*cleanup)(c) },
	},
	{
		Name: "compression.type", Type: TypeString, Default: "producer", Synonym: "compression.type",
		OneOf: []string{"uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"},
		Doc:   "The compression batches are stored with: what comes compressed otherwise is compressed anew; producer keeps what the producer chose.",
		field: func(c *TopicConfig) any { return &c.Compression },
	},
	{
		Name: "delete.retention.ms", Type: TypeLong, Default: "86400000", Max: math.MaxInt64, Synonym: "log.cleaner.delete.retention.ms",
		Doc:   "How long a compacted topic keeps the tombstone of a deleted key.",
		field: func(c *TopicConfig) any { return &c.DeleteRetentionMS },
	},
	{
		Name: "file.delete.delay.ms", Type: TypeLong, Default: "60000", Max: math.MaxInt64, Synonym: "log.segment.delete.delay.ms",
		Doc:   "Kept for tools that set it. Files go as soon as the deletion is durable; a read under way keeps what it reads.",
		field: func(c *TopicConfig) any { return &c.FileDeleteDelayMS },
	},
	{
		Name: "flush.messages", Type: TypeLong, Default: "1", Min: 1, Max: math.MaxInt64, Synonym: "log.flush.interval.messages",
		Doc:   "1: a record is on flash before it is acknowledged. Larger values move only the acknowledgement: it then says less; consumers see durable records whatever it is.",
		field: func(c *TopicConfig) any { return &c.FlushMessages },
	},
	{
		Name: "flush.ms", Type: TypeLong, Default: "9223372036854775807", Max: math.MaxInt64, Synonym: "log.flush.interval.ms",
		Doc:   "The longest a record waits for flash when flush.messages lets it wait.",
		field: func(c *TopicConfig) any { return &c.FlushMS },
	},
	{
		Name: "full", Type: TypeString, Default: "reject", OneOf: []string{"reject", "drop-oldest"},
		Doc:   "What happens when the disk is at its reserve: reject refuses new records truthfully, drop-oldest makes room and leaves a counted gap.",
		field: func(c *TopicConfig) any { return choice{&c.DropOldest, "reject", "drop-oldest"} },
	},
	{
		Name: "index.interval.bytes", Type: TypeInt, Default: "4096", Max: math.MaxInt32, Synonym: "log.index.interval.bytes",
		Doc:   "How many bytes of log lie between two entries of the offset index.",
		field: func(c *TopicConfig) any { return &c.IndexIntervalBytes },
	},
	{
		Name: "max.compaction.lag.ms", Type: TypeLong, Default: "9223372036854775807", Min: 1, Max: math.MaxInt64, Synonym: "log.cleaner.max.compaction.lag.ms",
		Doc:   "The longest a record of a compacted topic stays uncompacted.",
		field: func(c *TopicConfig) any { return &c.MaxCompactionLagMS },
	},
	{
		Name: "max.message.bytes", Type: TypeInt, Default: "1048588", Max: math.MaxInt32, Synonym: "message.max.bytes",
		Doc:   "The largest record batch the topic takes, after compression.",
		field: func(c *TopicConfig) any { return &c.MaxMessageBytes },
	},
	{
		Name: "message.timestamp.after.max.ms", Type: TypeLong, Default: "9223372036854775807", Max: math.MaxInt64, Synonym: "log.message.timestamp.after.max.ms",
		Doc:   "How far a record's timestamp may lie ahead of the broker's clock. Unlimited by default: the board's clock may be the wrong one.",
		field: func(c *TopicConfig) any { return &c.TimestampAfterMaxMS },
	},
	{
		Name: "message.timestamp.before.max.ms", Type: TypeLong, Default: "9223372036854775807", Max: math.MaxInt64, Synonym: "log.message.timestamp.before.max.ms",
		Doc:   "How far a record's timestamp may lie behind the broker's clock.",
		field: func(c *TopicConfig) any { return &c.TimestampBeforeMaxMS },
	},
	{
		Name: "message.timestamp.type", Type: TypeString, Default: "CreateTime", OneOf: []string{"CreateTime", "LogAppendTime"}, Synonym: "log.message.timestamp.type",
		Doc:   "Whether a record carries the producer's time or the time it arrived.",
		field: func(c *TopicConfig) any { return choice{&c.LogAppendTime, "CreateTime", "LogAppendTime"} },
	},
	{
		Name: "min.cleanable.dirty.ratio", Type: TypeDouble, Default: "0.5", Max: 1, Synonym: "log.cleaner.min.cleanable.ratio",
		Doc:   "The share of a compacted log that must be dirty before it is compacted again.",
		field: func(c *TopicConfig) any { return &c.MinCleanableRatio },
	},
	{
		Name: "min.compaction.lag.ms", Type: TypeLong, Default: "0", Max: math.MaxInt64, Synonym: "log.cleaner.min.compaction.lag.ms",
		Doc:   "The shortest time a record stays uncompacted.",
		field: func(c *TopicConfig) any { return &c.MinCompactionLagMS },
	},
	{
		Name: "min.insync.replicas", Type: TypeInt, Default: "1", Min: 1, Max: math.MaxInt32, Synonym: "min.insync.replicas",
		Doc:   "How many replicas must be in sync for acks=all to be accepted.",
		field: func(c *TopicConfig) any { return &c.MinInSyncReplicas },
	},
	{
		Name: "preallocate", Type: TypeBoolean, Default: "false", Synonym: "log.preallocate",
		Doc:   "Whether a new segment has the disk keep its whole space at once.",
		field: func(c *TopicConfig) any { return &c.Preallocate },
	},
	{
		Name: "retention.bytes", Type: TypeLong, Default: "1073741824", Min: -1, Max: math.MaxInt64, Synonym: "log.retention.bytes",
		Doc:   "How large a partition grows before its oldest segments are deleted; -1: no limit.",
		field: func(c *TopicConfig) any { return &c.RetentionBytes },
	},
	{
		Name: "retention.ms", Type: TypeLong, Default: "604800000", Min: -1, Max: math.MaxInt64, Synonym: "log.retention.ms",
		Doc:   "How long a segment is kept, by arrival time; -1: no limit.",
		field: func(c *TopicConfig) any { return &c.RetentionMS },
	},
	{
		Name: "segment.bytes", Type: TypeInt, Default: "16777216", Min: 64 << 10, Max: math.MaxInt32, Synonym: "log.segment.bytes",
		Doc:   "The size at which a new segment is begun; retention and compaction work on whole segments.",
		field: func(c *TopicConfig) any { return &c.SegmentBytes },
	},
	{
		Name: "segment.index.bytes", Type: TypeInt, Default: "10485760", Min: 4, Max: math.MaxInt32, Synonym: "log.index.size.max.bytes",
		Doc:   "The size an index reaches before a new segment is begun. Indexes grow as needed, nothing is preallocated.",
		field: func(c *TopicConfig) any { return &c.SegmentIndexBytes },
	},
	{
		Name: "segment.jitter.ms", Type: TypeLong, Default: "0", Max: math.MaxInt64, Synonym: "log.roll.jitter.ms",
		Doc:   "The most that is taken off segment.ms, a different part of it for each segment, so that partitions do not roll together.",
		field: func(c *TopicConfig) any { return &c.SegmentJitterMS },
	},
	{
		Name: "segment.ms", Type: TypeLong, Default: "604800000", Min: 1, Max: math.MaxInt64, Synonym: "log.roll.ms",
		Doc:   "The age at which a new segment is begun even if the old one is not full.",
		field: func(c *TopicConfig) any { return &c.SegmentMS },
	},
	{
		Name: "unclean.leader.election.enable", Type: TypeBoolean, Default: "false", Synonym: "unclean.leader.election.enable",
		Doc:   "Whether a replica that is not in sync may lead when no other is left; records are then lost.",
		field: func(c *TopicConfig) any { return &c.UncleanLeaderElection },
	},
}

// brokerSettings is sorted by name. The read-only ones come from the configuration file; their values are the broker's
// to tell. The others can be altered while it runs (AlterBrokerConfig) and then hold over the file.
var brokerSettings = []Setting{
	{Name: "advertised.listeners", Type: TypeString, ReadOnly: true, Doc: "The addresses clients are told to connect to."},
	{Name: "auto.create.topics.enable", Type: TypeBoolean, Default: "true", Doc: "Whether a topic is created when a client first asks for it."},
	{Name: "broker.id", Type: TypeInt, Default: "1", Max: math.MaxInt32, ReadOnly: true, Doc: "The number of this board in its cluster."},
	{Name: "broker.rack", Type: TypeString, ReadOnly: true, Doc: "Where this board stands."},
	{Name: "default.replication.factor", Type: TypeInt, Default: "1", Min: 1, Max: MaxBrokers, Doc: "The replicas a topic gets that does not say."},
	{Name: "journal.bytes.max", Type: TypeLong, Default: "33554432", Min: 1 << 20, Max: math.MaxInt64, ReadOnly: true, Doc: "The journal's size at which a checkpoint drops its front."},
	{Name: "journal.commit.interval.ms", Type: TypeLong, Default: "0", Max: 60_000, Doc: "How long a commit gathers company before it is written; 0: a commit starts as soon as the last is over."},
	{Name: "listeners", Type: TypeString, ReadOnly: true, Doc: "The addresses the broker listens at."},
	{Name: "log.dirs", Type: TypeString, ReadOnly: true, Doc: "The data directory."},
	{Name: "node.id", Type: TypeInt, Default: "1", Max: math.MaxInt32, ReadOnly: true, Doc: "The number of this board in its cluster."},
	{Name: "num.partitions", Type: TypeInt, Default: "1", Min: 1, Max: MaxPartitionsPerTopic, Doc: "The partitions a topic gets that does not say."},
	{Name: "process.roles", Type: TypeList, Default: "broker,controller", ReadOnly: true, OneOf: []string{"broker", "controller"}, Doc: "What this process does in the cluster."},
}
