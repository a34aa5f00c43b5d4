package broker

import (
	"net"
	"slices"
	"strconv"

	"millrace/broker/catalog"
	"millrace/broker/group"
	"millrace/broker/partition"
	"millrace/platform/metrics"
)

// The families below have the names and labels of github.com/danielqsj/kafka_exporter, so that its dashboards and alerts
// fit a board.

// groupSeriesMax is how many partitions of how many groups are told of at most. A topic that a group has read is told of
// with all its partitions, or not at all.
const groupSeriesMax = 2000

func (b *Broker) topicFigures(m *metrics.Writer) {
	img := b.Image()
	m.Gauge("kafka_brokers", "Brokers of the cluster.", float64(len(img.Brokers())))
	for _, broker := range img.Brokers() {
		m.Gauge("kafka_broker_info", "A broker of the cluster; always 1.", 1, "id", strconv.Itoa(int(broker.ID)), "address", b.brokerAddress(&broker))
	}
	for t := range img.Topics() {
		m.Gauge("kafka_topic_partitions", "Partitions of the topic.", float64(len(t.Partitions)), "topic", t.Name)
	}
	for _, of := range []struct {
		name, help string
		value      func(*partition.Partition) int64
	}{
		{"kafka_topic_partition_current_offset", "The offset after the partition's last readable record.", (*partition.Partition).High},
		{"kafka_topic_partition_oldest_offset", "The offset of the partition's first record.", (*partition.Partition).Start},
	} {
		b.eachPartition(func(t *catalog.Topic, index int, text string) {
			if p := b.store.Get(t.ID, int32(index)); p != nil {
				m.Gauge(of.name, of.help, float64(of.value(p)), "topic", t.Name, "partition", text)
			}
		})
	}
	for _, of := range []struct {
		name, help string
		value      func(*catalog.PartitionState) float64
	}{
		{"kafka_topic_partition_leader", "The broker that leads the partition; -1: none.", func(s *catalog.PartitionState) float64 { return float64(s.Leader) }},
		{"kafka_topic_partition_leader_is_preferred", "1 while the partition's preferred broker leads it.", func(s *catalog.PartitionState) float64 {
			return one(len(s.Replicas) > 0 && s.Replicas[0] == s.Leader)
		}},
		{"kafka_topic_partition_replicas", "Replicas of the partition.", func(s *catalog.PartitionState) float64 { return float64(len(s.Replicas)) }},
		{"kafka_topic_partition_in_sync_replica", "Replicas of the partition that are in sync.", func(s *catalog.PartitionState) float64 { return float64(len(s.ISR)) }},
		{"kafka_topic_partition_under_replicated_partition", "1 while a replica of the partition is not in sync.", func(s *catalog.PartitionState) float64 {
			return one(len(s.ISR) < len(s.Replicas))
		}},
	} {
		b.eachPartition(func(t *catalog.Topic, index int, text string) {
			m.Gauge(of.name, of.help, of.value(&t.Partitions[index]), "topic", t.Name, "partition", text)
		})
	}
	m.Gauge("millrace_topics", "Topics, the board's own among them.", float64(img.Len()))
	m.Gauge("millrace_partitions", "Partitions of all topics.", float64(img.Partitions()))
	m.Gauge("millrace_partitions_offline", "Partitions whose files cannot be used now.", float64(len(b.store.OfflinePartitions())))
}

// eachPartition walks all partitions of the catalog, with their numbers as text.
func (b *Broker) eachPartition(fn func(t *catalog.Topic, index int, text string)) {
	for t := range b.Image().Topics() {
		for i := range t.Partitions {
			fn(t, i, strconv.Itoa(i))
		}
	}
}

// brokerAddress is where a broker's clients connect: of this one what it advertises, or where it listens.
func (b *Broker) brokerAddress(of *catalog.Broker) string {
	switch advertised := b.config.Settings.Broker.AdvertisedListeners; {
	case of.ID == b.meta.NodeID && len(advertised) > 0:
		return listenAddress(advertised[0])
	case of.ID == b.meta.NodeID && len(b.addresses.Kafka) > 0:
		return b.addresses.Kafka[0]
	}
	return net.JoinHostPort(of.Host, strconv.Itoa(int(of.Port)))
}

// reading is how far a group has read a partition. lag is -1 where the partition is not there.
type reading struct {
	group string
	group.Progress
	lag int64
}

func (b *Broker) groupFigures(m *metrics.Writer) {
	names := b.groups.Names(nil)
	m.Gauge("millrace_groups", "Consumer groups.", float64(len(names)))
	slices.Sort(names) // which are told of does not change from scrape to scrape
	var all []reading
	var progress []group.Progress
	left := 0
	for _, name := range names {
		var members, over int
		var ok bool
		if progress, members, over, ok = b.groups.Progress(name, progress[:0], groupSeriesMax-len(all)); !ok {
			continue // it has ended meanwhile
		}
		left += over
		for _, p := range progress {
			all = append(all, reading{name, p, b.lag(&p)})
		}
		m.Gauge("kafka_consumergroup_members", "Members of the group.", float64(members), "consumergroup", name)
	}
	for i := range all {
		r := &all[i]
		m.Gauge("kafka_consumergroup_current_offset", "The offset the group will read next.", float64(r.Offset), "consumergroup", r.group, "topic", r.Topic, "partition", strconv.Itoa(int(r.Partition)))
	}
	eachTopic(all, func(of []reading) {
		sum := int64(0)
		for i := range of {
			sum += of[i].Offset
		}
		m.Gauge("kafka_consumergroup_current_offset_sum", "The same, of all partitions of the topic.", float64(sum), "consumergroup", of[0].group, "topic", of[0].Topic)
	})
	for i := range all {
		if r := &all[i]; r.lag >= 0 {
			m.Gauge("kafka_consumergroup_lag", "Records of the partition that the group has not read.", float64(r.lag), "consumergroup", r.group, "topic", r.Topic, "partition", strconv.Itoa(int(r.Partition)))
		}
	}
	eachTopic(all, func(of []reading) {
		sum, known := int64(0), false
		for i := range of {
			if of[i].lag >= 0 {
				sum, known = sum+of[i].lag, true
			}
		}
		if known {
			m.Gauge("kafka_consumergroup_lag_sum", "Records of the topic that the group has not read.", float64(sum), "consumergroup", of[0].group, "topic", of[0].Topic)
		}
	})
	m.Gauge("millrace_groups_partitions_left_out", "Partitions of groups that are not told of, because there are too many.", float64(left))
}

// lag is how many records of a partition are past an offset, -1 where the partition is not there.
func (b *Broker) lag(p *group.Progress) int64 {
	list, ok := b.Topic(p.Topic)
	if !ok || int(p.Partition) >= len(list) {
		return -1
	}
	return max(0, list[p.Partition].High()-p.Offset)
}

// eachTopic calls fn with what each group has read of each topic.
func eachTopic(all []reading, fn func(of []reading)) {
	for len(all) > 0 {
		n := 1
		for n < len(all) && all[n].group == all[0].group && all[n].Topic == all[0].Topic {
			n++
		}
		fn(all[:n])
		all = all[n:]
	}
}
