package catalog

import (
	"encoding/binary"
	"fmt"

	"millrace/broker/auth"
)

// An encoded command is {format u8, kind u8, version u8, payload, CRC32C of all before}. A new field of a payload is a
// new version of that kind; a program refuses what is newer than it knows (ErrNewer) instead of guessing.
const commandFormat = 1

// Encode makes a command's bytes. It fails when they would pass MaxCommandSize.
func Encode(c Command) ([]byte, error) {
	b := c.appendTo([]byte{commandFormat, byte(c.kind()), c.version()})
	if b = seal(b); len(b) > MaxCommandSize {
		return nil, fmt.Errorf("%w bytes in one command: %d, the limit is %d", ErrTooMany, len(b), MaxCommandSize)
	}
	return b, nil
}

// Decode reads what Encode wrote. It shares no memory with b. ErrCorrupt: the bytes are damaged; ErrNewer: they are
// whole, and this program is too old for them.
func Decode(b []byte) (Command, error) {
	if len(b) > MaxCommandSize {
		return nil, fmt.Errorf("%w: %d bytes, a command has at most %d", ErrCorrupt, len(b), MaxCommandSize)
	}
	body, err := unseal(b)
	if err != nil {
		return nil, err
	}
	if len(body) < 3 {
		return nil, fmt.Errorf("%w: no header", ErrCorrupt)
	}
	if body[0] != commandFormat {
		return nil, fmt.Errorf("command format %d: %w", body[0], ErrNewer)
	}
	d := &decoder{b: body[3:]}
	var c Command
	switch kind(body[1]) {
	case kindCreateTopic:
		c = CreateTopic{Name: d.string(), ID: d.id(), Partitions: d.states(), Config: d.config()}
	case kindDeleteTopic:
		c = DeleteTopic{Topic: d.id()}
	case kindCreatePartitions:
		c = CreatePartitions{Topic: d.id(), From: d.uint31(), Add: d.states()}
	case kindAlterTopicConfig:
		c = AlterTopicConfig{Topic: d.id(), Replace: d.bool(), Ops: d.ops()}
	case kindAlterBrokerConfig:
		c = AlterBrokerConfig{Broker: d.int32(), Replace: d.bool(), Ops: d.ops()}
	case kindRegisterBroker:
		c = RegisterBroker{ID: d.int32(), Host: d.string(), Port: d.uint31(), Rack: d.string(), Incarnation: d.id()}
	case kindAllocateProducerIDs:
		c = AllocateProducerIDs{Broker: d.int32(), Epoch: d.varint(), AtLeast: d.varint()}
	case kindChangePartitions:
		c = ChangePartitions{Changes: d.changes()}
	case kindUpsertCredential:
		c = UpsertCredential{User: d.string(), Credential: d.credential()}
	case kindDeleteCredential:
		c = DeleteCredential{User: d.string(), Mechanism: auth.Mechanism(d.byte())}
	case kindAddACLs:
		c = AddACLs{ACLs: d.acls()}
	case kindRemoveACLs:
		c = RemoveACLs{ACLs: d.acls()}
	default:
		return nil, fmt.Errorf("command kind %d: %w", body[1], ErrNewer)
	}
	if body[2] != c.version() {
		return nil, fmt.Errorf("%T version %d: %w", c, body[2], ErrNewer)
	}
	if err := d.finish(); err != nil {
		return nil, fmt.Errorf("%T: %w", c, err)
	}
	return c, nil
}

func (c CreateTopic) appendTo(b []byte) []byte {
	b = append(appendString(b, c.Name), c.ID[:]...)
	return appendConfig(appendStates(b, c.Partitions), c.Config)
}

func (c DeleteTopic) appendTo(b []byte) []byte { return append(b, c.Topic[:]...) }

func (c CreatePartitions) appendTo(b []byte) []byte {
	return appendStates(binary.AppendUvarint(append(b, c.Topic[:]...), uint64(c.From)), c.Add)
}

func (c AlterTopicConfig) appendTo(b []byte) []byte {
	return appendOps(appendBool(append(b, c.Topic[:]...), c.Replace), c.Ops)
}

func (c AlterBrokerConfig) appendTo(b []byte) []byte {
	return appendOps(appendBool(binary.AppendVarint(b, int64(c.Broker)), c.Replace), c.Ops)
}

func (c RegisterBroker) appendTo(b []byte) []byte {
	b = appendString(binary.AppendVarint(b, int64(c.ID)), c.Host)
	b = appendString(binary.AppendUvarint(b, uint64(c.Port)), c.Rack)
	return append(b, c.Incarnation[:]...)
}

func (c AllocateProducerIDs) appendTo(b []byte) []byte {
	return binary.AppendVarint(binary.AppendVarint(binary.AppendVarint(b, int64(c.Broker)), c.Epoch), c.AtLeast)
}

func (c ChangePartitions) appendTo(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(c.Changes)))
	for _, ch := range c.Changes {
		b = binary.AppendUvarint(append(b, ch.Topic[:]...), uint64(ch.Partition))
		b = binary.AppendVarint(binary.AppendVarint(b, int64(ch.Epoch)), int64(ch.Leader))
		b = appendIDs(appendIDs(appendBool(b, ch.Raise), ch.ISR), ch.Replicas)
	}
	return b
}

func (d *decoder) changes() []PartitionChange {
	n := d.count(22)
	if n == 0 {
		return nil
	}
	out := make([]PartitionChange, n)
	for i := range out {
		out[i] = PartitionChange{
			Topic: d.id(), Partition: d.uint31(), Epoch: d.int32(), Leader: d.int32(),
			Raise: d.bool(), ISR: d.ids(), Replicas: d.ids(),
		}
	}
	return out
}
