package catalog

import "fmt"

// NewTopic prepares the command that creates a topic: partitions and replicas are spread over the registered brokers,
// each led by its first replica. -1 is not resolved here: the caller puts its defaults in.
func NewTopic(img *Image, name string, id TopicID, partitions, replication int, config map[string]string) (CreateTopic, error) {
	states, err := Assign(img, 0, partitions, replication)
	if err != nil {
		return CreateTopic{}, fmt.Errorf("topic '%s': %w", name, err)
	}
	c := CreateTopic{Name: name, ID: id, Partitions: states, Config: config}
	return c, Validate(img, c)
}

// Assign spreads count partitions, the first of them numbered first, over the registered brokers round robin: leaders
// and replicas are even, and equal input gives equal output. The errors are Kafka's, in Kafka's order: partitions, then
// replication factor.
func Assign(img *Image, first, count, replication int) ([]PartitionState, error) {
	if count <= 0 {
		return nil, fmt.Errorf("number of partitions must be larger than 0, not %d: %w", count, ErrInvalidPartitions)
	}
	if err := img.room(first, count); err != nil {
		return nil, err
	}
	if replication <= 0 {
		return nil, fmt.Errorf("replication factor must be larger than 0, not %d: %w", replication, ErrInvalidReplication)
	}
	brokers := img.brokers
	if replication > len(brokers) {
		return nil, fmt.Errorf("unable to replicate the partition %d time(s): only %d broker(s) are registered: %w",
			replication, len(brokers), ErrInvalidReplication)
	}
	states := make([]PartitionState, count)
	for p := range states {
		replicas := make([]int32, replication)
		for r := range replicas {
			replicas[r] = brokers[(first+p+r)%len(brokers)].ID
		}
		states[p] = PartitionState{Leader: replicas[0], Replicas: replicas, ISR: replicas}
	}
	return states, nil
}
