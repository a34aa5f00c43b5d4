package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// brokers is an image with n registered brokers, 1 to n.
func brokers(t testing.TB, n int) *Image {
	t.Helper()
	img := &Image{}
	for id := range int32(n) {
		img = must(t, img, RegisterBroker{ID: id + 1, Host: "h", Port: 9092})
	}
	return img
}

func must(t testing.TB, img *Image, c Command) *Image {
	t.Helper()
	next, err := Apply(img, c)
	if err != nil {
		t.Fatalf("apply %T: %v", c, err)
	}
	if err := next.check(); err != nil {
		t.Fatalf("after %T: %v", c, err)
	}
	return next
}

func create(t testing.TB, img *Image, name string, partitions int) CreateTopic {
	t.Helper()
	c, err := NewTopic(img, name, idOf(name), partitions, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func idOf(name string) (id TopicID) {
	copy(id[:], name)
	id[15] = byte(len(name))
	return id
}

func TestTopicLife(t *testing.T) {
	empty := brokers(t, 3)
	one := must(t, empty, create(t, empty, "sensors.a", 4))
	if empty.Len() != 0 || one.Len() != 1 || one.Partitions() != 4 {
		t.Fatalf("%d topics before, %d after with %d partitions", empty.Len(), one.Len(), one.Partitions())
	}
	topic := one.Topic("sensors.a")
	if topic == nil || one.TopicByID(topic.ID) != topic || one.Topic("sensors_a") != nil {
		t.Fatal("the topic is not found by name and id, or by a wrong name")
	}
	add, err := Assign(one, 4, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	two := must(t, one, CreatePartitions{Topic: topic.ID, From: 4, Add: add})
	if len(topic.Partitions) != 4 || len(two.TopicByID(topic.ID).Partitions) != 6 || two.Partitions() != 6 {
		t.Error("partitions were not added to the next image only")
	}
	three := must(t, two, AlterTopicConfig{Topic: topic.ID, Ops: []ConfigOp{
		{Name: "retention.ms", Op: OpSet, Value: "5"}, {Name: "cleanup.policy", Op: OpAppend, Value: "compact"},
	}})
	if got := three.Topic("sensors.a").Config; got["retention.ms"] != "5" || got["cleanup.policy"] != "delete,compact" {
		t.Errorf("config %v", got)
	}
	four := must(t, three, AlterTopicConfig{Topic: topic.ID, Ops: []ConfigOp{
		{Name: "retention.ms", Op: OpDelete}, {Name: "cleanup.policy", Op: OpSubtract, Value: "delete"},
	}})
	if got := four.Topic("sensors.a").Config; !maps.Equal(got, map[string]string{"cleanup.policy": "compact"}) {
		t.Errorf("config %v", got)
	}
	gone := must(t, four, DeleteTopic{Topic: topic.ID})
	if gone.Len() != 0 || gone.Partitions() != 0 || gone.TopicByID(topic.ID) != nil {
		t.Error("the topic is still there")
	}
}

func TestRefusals(t *testing.T) {
	img := brokers(t, 2)
	img = must(t, img, create(t, img, "a.b", 1))
	id := idOf("a.b")
	states := func(s ...PartitionState) []PartitionState { return s }
	good := PartitionState{Leader: 1, Replicas: []int32{1, 2}, ISR: []int32{1}}
	for _, tt := range []struct {
		name string
		c    Command
		want error
	}{
		{"same name", CreateTopic{Name: "a.b", ID: idOf("x"), Partitions: states(good)}, ErrTopicExists},
		{"same id", CreateTopic{Name: "x", ID: id, Partitions: states(good)}, ErrTopicExists},
		{"collision", CreateTopic{Name: "a_b", ID: idOf("x"), Partitions: states(good)}, ErrInvalidTopic},
		{"no partitions", CreateTopic{Name: "x", ID: idOf("x")}, ErrInvalidPartitions},
		{"bad name", CreateTopic{Name: "x y", ID: idOf("x"), Partitions: states(good)}, ErrInvalidTopic},
		{"no id", CreateTopic{Name: "x", Partitions: states(good)}, ErrInvalidTopic},
		{"unknown replica", CreateTopic{Name: "x", ID: idOf("x"), Partitions: states(PartitionState{Leader: 7, Replicas: []int32{7}, ISR: []int32{7}})}, ErrInvalidAssignment},
		{"replica twice", CreateTopic{Name: "x", ID: idOf("x"), Partitions: states(PartitionState{Leader: 1, Replicas: []int32{1, 1}, ISR: []int32{1}})}, ErrInvalidAssignment},
		{"leader out of sync", CreateTopic{Name: "x", ID: idOf("x"), Partitions: states(PartitionState{Leader: 2, Replicas: []int32{1, 2}, ISR: []int32{1}})}, ErrInvalidAssignment},
		{"bad config", CreateTopic{Name: "x", ID: idOf("x"), Partitions: states(good), Config: map[string]string{"retention.ms": "-2"}}, ErrInvalidConfig},
		{"config value of zeros", CreateTopic{Name: "x", ID: idOf("x"), Partitions: states(good), Config: map[string]string{"retention.ms": strings.Repeat("0", 5000)}}, ErrInvalidConfig},
		{"value of zeros", AlterTopicConfig{Topic: id, Ops: []ConfigOp{{Name: "retention.ms", Value: strings.Repeat("0", 5000)}}}, ErrInvalidConfig},
		{"broker value of zeros", AlterBrokerConfig{Broker: 1, Ops: []ConfigOp{{Name: "num.partitions", Value: strings.Repeat("0", 5000) + "1"}}}, ErrInvalidConfig},
		{"compaction not before and not after", AlterTopicConfig{Topic: id, Ops: []ConfigOp{{Name: "min.compaction.lag.ms", Value: "9"}, {Name: "max.compaction.lag.ms", Value: "8"}}}, ErrInvalidConfig},
		{"unknown config", CreateTopic{Name: "x", ID: idOf("x"), Partitions: states(good), Config: map[string]string{"retention": "1"}}, ErrInvalidConfig},
		{"delete unknown", DeleteTopic{Topic: idOf("x")}, ErrUnknownTopic},
		{"partitions of unknown", CreatePartitions{Topic: idOf("x"), Add: states(good)}, ErrUnknownTopic},
		{"partitions from a stale count", CreatePartitions{Topic: id, From: 3, Add: states(good)}, ErrInvalidPartitions},
		{"append to a number", AlterTopicConfig{Topic: id, Ops: []ConfigOp{{Name: "retention.ms", Op: OpAppend, Value: "1"}}}, ErrInvalidConfig},
		{"one setting twice", AlterTopicConfig{Topic: id, Ops: []ConfigOp{{Name: "retention.ms", Value: "1"}, {Name: "retention.ms", Value: "2"}}}, ErrInvalidConfig},
		{"last policy taken away", AlterTopicConfig{Topic: id, Ops: []ConfigOp{{Name: "cleanup.policy", Op: OpSubtract, Value: "delete"}}}, ErrInvalidConfig},
		{"read-only broker setting", AlterBrokerConfig{Broker: 1, Ops: []ConfigOp{{Name: "node.id", Value: "2"}}}, ErrInvalidConfig},
		{"unknown broker", AlterBrokerConfig{Broker: 9, Ops: []ConfigOp{{Name: "num.partitions", Value: "2"}}}, ErrUnknownBroker},
		{"broker without host", RegisterBroker{ID: 3, Port: 1}, ErrInvalidBroker},
		{"producer ids for nobody", AllocateProducerIDs{Broker: 9, Epoch: -1}, ErrUnknownBroker},
		{"producer ids of an old epoch", AllocateProducerIDs{Broker: 1, Epoch: 77}, ErrStaleBrokerEpoch},
		{"partition that is not", ChangePartitions{[]PartitionChange{{Topic: id, Partition: 1, Epoch: -1, Leader: 1, ISR: []int32{1}}}}, ErrUnknownPartition},
		{"stale change", ChangePartitions{[]PartitionChange{{Topic: id, Epoch: 5, Leader: 1, ISR: []int32{1}}}}, ErrStalePartitionEpoch},
	} {
		before, err := img.Encode()
		if err != nil {
			t.Fatal(err)
		}
		err = Validate(img, tt.c)
		if err == nil {
			_, err = Apply(img, tt.c)
		}
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if after, err := img.Encode(); err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s changed the image (%v)", tt.name, err)
		}
	}
}

func TestAssign(t *testing.T) {
	img := brokers(t, 3)
	for _, tt := range []struct {
		partitions, replication int
		want                    error
	}{
		{0, 1, ErrInvalidPartitions},
		{-1, 9, ErrInvalidPartitions}, // partitions are judged first, as Kafka does
		{1, 0, ErrInvalidReplication},
		{1, 4, ErrInvalidReplication},
		{MaxPartitionsPerTopic + 1, 1, ErrInvalidPartitions},
		{1<<31 - 1, 1, ErrInvalidPartitions},
		{6, 2, nil},
	} {
		states, err := Assign(img, 0, tt.partitions, tt.replication)
		if !errors.Is(err, tt.want) {
			t.Errorf("%d partitions of %d replicas: %v, want %v", tt.partitions, tt.replication, err, tt.want)
		}
		leads := make(map[int32]int)
		for _, s := range states {
			leads[s.Leader]++
			if err := s.check(); err != nil || len(s.Replicas) != tt.replication {
				t.Errorf("%+v: %v", s, err)
			}
		}
		if tt.want == nil && (leads[1] != 2 || leads[2] != 2 || leads[3] != 2) {
			t.Errorf("leaders are uneven: %v", leads)
		}
	}
}

func TestLeaderChangesRaiseTheEpoch(t *testing.T) {
	img := brokers(t, 2)
	c, err := NewTopic(img, "t", idOf("t"), 1, 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	img = must(t, img, c)
	for _, tt := range []struct {
		change PartitionChange
		leader int32
		epoch  int32
	}{
		{PartitionChange{Epoch: 0, Leader: 1, ISR: []int32{1}}, 1, 0},
		{PartitionChange{Epoch: 1, Leader: 1, ISR: []int32{1}, Raise: true}, 1, 1},
		{PartitionChange{Epoch: 2, Leader: NoLeader, ISR: []int32{1}}, NoLeader, 2},
		{PartitionChange{Epoch: -1, Leader: 2, ISR: []int32{2, 1}}, 2, 3},
	} {
		tt.change.Topic = idOf("t")
		img = must(t, img, ChangePartitions{[]PartitionChange{tt.change}})
		if s := img.Topic("t").Partitions[0]; s.Leader != tt.leader || s.LeaderEpoch != tt.epoch {
			t.Errorf("after %+v: leader %d at epoch %d", tt.change, s.Leader, s.LeaderEpoch)
		}
	}
}

func TestBrokerEpochsGrowWithIncarnations(t *testing.T) {
	first := brokers(t, 1)
	again := must(t, first, RegisterBroker{ID: 1, Host: "other", Port: 1})
	newer := must(t, again, RegisterBroker{ID: 1, Host: "other", Port: 1, Incarnation: [16]byte{1}})
	a, _ := first.Broker(1)
	b, _ := again.Broker(1)
	c, _ := newer.Broker(1)
	if a.Epoch != b.Epoch || b.Host != "other" || c.Epoch <= b.Epoch {
		t.Errorf("epochs %d, %d, %d", a.Epoch, b.Epoch, c.Epoch)
	}
}

func TestTopicNames(t *testing.T) {
	for name, valid := range map[string]bool{
		"": false, ".": false, "..": false, "...": true, "a": true, "A-b_c.9": true, "a b": false, "ä": false, "a/b": false,
		strings.Repeat("x", 249): true, strings.Repeat("x", 250): false, "__consumer_offsets": true, "a\x00": false,
	} {
		if err := ValidTopicName(name); (err == nil) != valid || err != nil && !errors.Is(err, ErrInvalidTopic) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if !InternalName("__x") || InternalName("_x") {
		t.Error("internal names")
	}
}

func TestTopicIDText(t *testing.T) {
	for range 1000 {
		id := NewTopicID()
		back, err := ParseTopicID(id.String())
		if err != nil || back != id || id.IsZero() || id.String()[0] == '-' {
			t.Fatalf("%v: %v, %v", id, back, err)
		}
	}
	if _, err := ParseTopicID("short"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("short id: %v", err)
	}
}

// drawCommand draws a command that has a fair chance to fit the image.
func drawCommand(t *rapid.T, img *Image) Command {
	topic := TopicID{byte(rapid.IntRange(0, 12).Draw(t, "id"))}
	broker := rapid.Int32Range(0, 4).Draw(t, "broker")
	ids := rapid.SliceOfNDistinct(rapid.Int32Range(0, 3), 1, 3, rapid.ID[int32])
	config := rapid.MapOfN(rapid.SampledFrom([]string{"retention.ms", "cleanup.policy", "x"}), rapid.StringN(0, 5, 20), 0, 3)
	ops := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) ConfigOp {
		return ConfigOp{
			Name: rapid.SampledFrom([]string{"cleanup.policy", "retention.ms", "num.partitions"}).Draw(t, "name"),
			Op:   Op(rapid.IntRange(0, 3).Draw(t, "op")), Value: rapid.SampledFrom([]string{"", "compact", "delete,compact", "7"}).Draw(t, "value"),
		}
	}), 0, 3)
	state := rapid.Custom(func(t *rapid.T) PartitionState {
		replicas := ids.Draw(t, "replicas")
		return PartitionState{Leader: replicas[0], LeaderEpoch: rapid.Int32Range(0, 9).Draw(t, "epoch"), Replicas: replicas, ISR: replicas}
	})
	switch rapid.IntRange(0, 11).Draw(t, "kind") {
	case 0:
		return CreateTopic{
			Name: rapid.SampledFrom([]string{"a", "b", "a.b", "a_b", "c-1", "__i"}).Draw(t, "name"), ID: topic,
			Partitions: rapid.SliceOfN(state, 1, 4).Draw(t, "states"), Config: cloneConfig(config.Draw(t, "config")),
		}
	case 1:
		return DeleteTopic{topic}
	case 2:
		from := int32(0)
		if have := img.TopicByID(topic); have != nil {
			from = int32(len(have.Partitions))
		}
		return CreatePartitions{Topic: topic, From: from, Add: rapid.SliceOfN(state, 1, 2).Draw(t, "add")}
	case 3:
		return AlterTopicConfig{Topic: topic, Replace: rapid.Bool().Draw(t, "replace"), Ops: emptied(ops.Draw(t, "ops"))}
	case 4:
		return AlterBrokerConfig{Broker: broker - 1, Replace: rapid.Bool().Draw(t, "replace"), Ops: emptied(ops.Draw(t, "ops"))}
	case 5:
		return RegisterBroker{ID: broker, Host: "h", Port: rapid.Int32Range(0, 65535).Draw(t, "port"), Incarnation: [16]byte{byte(rapid.IntRange(0, 2).Draw(t, "incarnation"))}}
	case 6:
		return AllocateProducerIDs{Broker: broker, Epoch: -1}
	case 7:
		return drawCredential(t)
	case 8:
		c := drawCredential(t)
		return DeleteCredential{User: c.User, Mechanism: c.Credential.Mechanism}
	case 9:
		return AddACLs{drawACLs(t)}
	case 10:
		return RemoveACLs{drawACLs(t)}
	}
	isr := ids.Draw(t, "isr")
	return ChangePartitions{[]PartitionChange{{
		Topic: topic, Partition: rapid.Int32Range(0, 2).Draw(t, "partition"), Epoch: -1, Leader: isr[0], Raise: rapid.Bool().Draw(t, "raise"), ISR: isr, Replicas: isr,
	}}}
}

func emptied(ops []ConfigOp) []ConfigOp {
	if len(ops) == 0 {
		return nil
	}
	return ops
}

// TestSnapshotAndTailEqualTheLiveImage: from any point of any history, an encoded image and the encoded commands behind
// it lead to the live image; and no older image ever changes.
func TestSnapshotAndTailEqualTheLiveImage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		live, accepted := &Image{}, 0
		var images [][]byte
		var commands [][]byte
		var pointers []*Image
		for range rapid.IntRange(0, 60).Draw(t, "commands") {
			b, err := live.Encode()
			if err != nil {
				t.Fatal(err)
			}
			images, pointers = append(images, b), append(pointers, live)
			c := drawCommand(t, live)
			encoded, err := Encode(c)
			if err != nil {
				t.Fatal(err)
			}
			commands = append(commands, encoded)
			if next, err := Apply(live, c); err == nil {
				live = next
				accepted++
			}
			if err := live.check(); err != nil {
				t.Fatal(err)
			}
		}
		if int(live.Version()) != accepted {
			t.Fatalf("version %d after %d commands", live.Version(), accepted)
		}
		for i, b := range images {
			img, err := DecodeImage(b)
			if err != nil {
				t.Fatal(err)
			}
			if !img.Equal(pointers[i]) {
				t.Fatalf("image %d changed after it was made", i)
			}
			for _, b := range commands[i:] {
				c, err := Decode(b)
				if err != nil {
					t.Fatal(err)
				}
				if next, err := Apply(img, c); err == nil {
					img = next
				}
			}
			if !img.Equal(live) {
				t.Fatalf("snapshot %d and its tail give another image", i)
			}
		}
	})
}

func TestDamagedBytesAreRefused(t *testing.T) {
	img := brokers(t, 2)
	img = must(t, img, create(t, img, "a", 3))
	image, err := img.Encode()
	if err != nil {
		t.Fatal(err)
	}
	command, err := Encode(create(t, img, "b", 2))
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"image": image, "command": command} {
		decode := func(b []byte) error {
			if name == "image" {
				_, err := DecodeImage(b)
				return err
			}
			_, err := Decode(b)
			return err
		}
		if err := decode(b); err != nil {
			t.Fatal(err)
		}
		for i := range b {
			bad := slices.Clone(b)
			bad[i] ^= 1 << rand.IntN(8)
			if err := decode(bad); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%s with byte %d changed: %v", name, i, err)
			}
			if err := decode(b[:i]); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%s cut at %d: %v", name, i, err)
			}
		}
	}
}

func TestNewerVersionsAreNamed(t *testing.T) {
	b, err := Encode(DeleteTopic{})
	if err != nil {
		t.Fatal(err)
	}
	for i, what := range []string{"format", "kind", "version"} {
		newer := slices.Clone(b[:len(b)-4])
		newer[i] = 200
		if _, err := Decode(seal(newer)); !errors.Is(err, ErrNewer) || errors.Is(err, ErrCorrupt) {
			t.Errorf("%s 200: %v", what, err)
		}
	}
	image, err := (&Image{}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	image[4] = imageFormat + 1
	if _, err := DecodeImage(seal(image[:len(image)-4])); !errors.Is(err, ErrNewer) {
		t.Errorf("newer image: %v", err)
	}
}

func BenchmarkApply(b *testing.B) {
	for _, topics := range []int{500, 5000} {
		b.Run(fmt.Sprintf("topics=%d", topics), func(b *testing.B) {
			img := brokers(b, 1)
			for i := range topics {
				img = must0(b, img, create(b, img, fmt.Sprintf("topic-%d", i), 4))
			}
			c := AlterTopicConfig{Topic: idOf("topic-7"), Ops: []ConfigOp{{Name: "retention.ms", Value: "5"}}}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Apply(img, c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// must0 is must without the check of the whole image, for large ones.
func must0(t testing.TB, img *Image, c Command) *Image {
	t.Helper()
	next, err := Apply(img, c)
	if err != nil {
		t.Fatal(err)
	}
	return next
}
