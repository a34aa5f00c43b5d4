package catalog

import (
	"bytes"
	"slices"
	"testing"

	"millrace/broker/auth"
)

// FuzzDecode: whatever is accepted is what Encode writes for it.
func FuzzDecode(f *testing.F) {
	img := brokers(f, 2)
	for _, c := range []Command{
		create(f, img, "a", 2),
		DeleteTopic{},
		CreatePartitions{From: 1},
		AlterTopicConfig{Ops: []ConfigOp{{Name: "x", Op: OpAppend, Value: "y"}}},
		AlterBrokerConfig{Broker: AllBrokers},
		RegisterBroker{ID: 1, Host: "h", Port: 9},
		AllocateProducerIDs{Broker: 1, Epoch: 4},
		ChangePartitions{[]PartitionChange{{Leader: 1, ISR: []int32{1}, Epoch: -1}}},
		UpsertCredential{User: "u", Credential: credential(auth.ScramSHA256)},
		DeleteCredential{User: "u", Mechanism: auth.ScramSHA512},
		AddACLs{[]auth.ACL{entry("t"), entry("a")}},
		RemoveACLs{},
	} {
		b, err := Encode(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:len(b)-4])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		b := seal(slices.Clone(body)) // the CRC would stop nearly everything
		c, err := Decode(b)
		if err != nil {
			return
		}
		back, err := Encode(c)
		if err != nil || !bytes.Equal(back, b) {
			t.Fatalf("%T %+v: %x encodes to %x, %v", c, c, b, back, err)
		}
		if _, err := Apply(&Image{}, c); err == nil {
			if err := Validate(&Image{}, c); err != nil {
				t.Logf("applied, not proposed: %v", err)
			}
		}
	})
}

// FuzzDecodeImage: whatever is accepted keeps the invariants and is what Encode writes for it.
func FuzzDecodeImage(f *testing.F) {
	img := brokers(f, 2)
	img = must(f, img, create(f, img, "a", 2))
	img = must(f, img, AlterBrokerConfig{Broker: AllBrokers, Ops: []ConfigOp{{Name: "num.partitions", Value: "3"}}})
	for range 2 {
		b, err := img.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:len(b)-4])
		img = must(f, img, UpsertCredential{User: "u", Credential: credential(auth.ScramSHA256)})
		img = must(f, img, AddACLs{[]auth.ACL{entry("t"), entry("a")}})
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		b := seal(slices.Clone(body))
		img, err := DecodeImage(b)
		if err != nil {
			return
		}
		back, err := img.Encode()
		if err != nil || !bytes.Equal(back, b) {
			t.Fatalf("%x encodes to %x, %v", b, back, err)
		}
	})
}
