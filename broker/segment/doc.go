// Package segment stores one Kafka log segment: the batches (.log), the sparse offset and time indexes (.index,
// .timeindex), and beside them the producer snapshot, the leader epoch checkpoint and the partition's metadata, all
// byte-compatible with Apache Kafka.
//
// The log is the truth and untrusted until it is checked: every batch is compared with its CRC and its neighbours
// before it is served. The indexes only save time. They are never synced, never believed without a look at the log,
// and built again when they are missing, cut short or wrong.
package segment
