package catalog

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"millrace/broker/auth"
)

// TestTheFullestCatalogFitsASnapshot: one that did not could never drop its log again.
func TestTheFullestCatalogFitsASnapshot(t *testing.T) {
	size := func(img *Image) int {
		b, err := img.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return len(b)
	}
	var full PartitionState
	for i := range int32(MaxBrokers) {
		full.Replicas = append(full.Replicas, math.MaxInt32-i)
	}
	full.Leader, full.LeaderEpoch, full.Epoch, full.ISR = math.MaxInt32, math.MaxInt32, math.MaxInt32, full.Replicas
	config := make(map[string]string)
	for _, s := range TopicSettings() {
		config[s.Name] = strings.Repeat("0", MaxConfigValue)
	}
	topic := &Topic{Name: strings.Repeat("x", MaxNameLength), Partitions: []PartitionState{full}, Config: config}
	empty := size(&Image{})
	one := size(&Image{byName: []*Topic{topic}}) - empty
	topic.Partitions = append(topic.Partitions, full)
	partition := size(&Image{byName: []*Topic{topic}}) - empty - one
	long := auth.ACL{
		Type: auth.Topic, Pattern: auth.Prefixed, Name: strings.Repeat("x", auth.ResourceMax), Principal: auth.User(strings.Repeat("x", auth.PrincipalMax-5)),
		Host: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Operation: auth.DescribeConfigs, Permission: auth.Allow,
	}
	user := &User{Name: strings.Repeat("x", auth.UserMax), Credentials: []auth.Credential{credential(auth.ScramSHA256), credential(auth.ScramSHA512)}}
	for i := range user.Credentials {
		user.Credentials[i].Salt = make([]byte, auth.SaltMax)
	}
	security := MaxUsers*(size(&Image{users: []*User{user}})-empty) + MaxACLs*(size(&Image{acls: auth.NewACLs(long)})-empty)
	brokers := MaxBrokers * (1024 + len(BrokerSettings())*2*MaxConfigValue)
	if total := MaxTopics*one + (MaxPartitions-MaxTopics)*partition + brokers + maxDeleted*len(TopicID{}) + security; total > MaxSnapshotSize {
		t.Errorf("%d bytes with %d a topic and %d a partition, a snapshot has at most %d", total, one, partition, MaxSnapshotSize)
	}
}

// TestBrokerIDsFarApart: the difference of two does not fit an int of 32 bits.
func TestBrokerIDsFarApart(t *testing.T) {
	img := must(t, &Image{}, RegisterBroker{ID: math.MaxInt32, Host: "h"})
	for i := range 3 {
		for _, id := range []int32{AllBrokers, math.MaxInt32} {
			img = must(t, img, AlterBrokerConfig{Broker: id, Ops: []ConfigOp{{Name: "num.partitions", Value: fmt.Sprint(i + 1)}}})
			if got := img.BrokerConfig(id)["num.partitions"]; got != fmt.Sprint(i+1) {
				t.Errorf("broker %d has num.partitions %q, want %d", id, got, i+1)
			}
		}
	}
}
