package catalog

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// An encoded image is {"MRCI", format u8, version, producer ids, brokers, broker configurations, topics,
// ids of deleted topics, from format 2 on users and access control entries, CRC32C}. Format 1 is written as long as
// there are neither, so that an older program reads it.
const (
	imageMagic      = "MRCI"
	imageFormat     = 2
	imageFormatBare = 1
)

// format is the oldest that says all of the image.
func (m *Image) format() byte {
	if len(m.users) == 0 && m.acls.Len() == 0 {
		return imageFormatBare
	}
	return imageFormat
}

// Encode makes the image's bytes; equal images have equal bytes. It fails when they would pass MaxSnapshotSize.
func (m *Image) Encode() ([]byte, error) {
	b := append([]byte(imageMagic), m.format())
	b = binary.AppendUvarint(b, m.version)
	b = binary.AppendUvarint(b, uint64(m.producerNext))
	b = binary.AppendUvarint(b, uint64(len(m.brokers)))
	for _, r := range m.brokers {
		b = RegisterBroker{ID: r.ID, Host: r.Host, Port: r.Port, Rack: r.Rack, Incarnation: r.Incarnation}.appendTo(b)
		b = binary.AppendVarint(b, r.Epoch)
	}
	b = binary.AppendUvarint(b, uint64(len(m.brokerConfig)))
	for _, c := range m.brokerConfig {
		b = appendConfig(binary.AppendVarint(b, int64(c.Broker)), c.Config)
	}
	b = binary.AppendUvarint(b, uint64(len(m.byName)))
	for _, t := range m.byName {
		b = CreateTopic{Name: t.Name, ID: t.ID, Partitions: t.Partitions, Config: t.Config}.appendTo(b)
	}
	b = binary.AppendUvarint(b, uint64(len(m.deleted)))
	for _, id := range m.deleted {
		b = append(b, id[:]...)
	}
	if m.format() > imageFormatBare {
		b = appendACLs(appendUsers(b, m.users), m.acls.All())
	}
	if b = seal(b); len(b) > MaxSnapshotSize {
		return nil, fmt.Errorf("%w bytes in one catalog snapshot: %d, the limit is %d", ErrTooMany, len(b), MaxSnapshotSize)
	}
	return b, nil
}

// DecodeImage reads what Encode wrote and checks it. ErrCorrupt: the bytes are damaged; ErrNewer: they are whole, and this
// program is too old for them.
func DecodeImage(b []byte) (*Image, error) {
	if len(b) > MaxSnapshotSize {
		return nil, fmt.Errorf("%w: %d bytes, a snapshot has at most %d", ErrCorrupt, len(b), MaxSnapshotSize)
	}
	body, err := unseal(b)
	if err != nil {
		return nil, err
	}
	d := &decoder{b: body}
	if string(d.take(len(imageMagic))) != imageMagic {
		return nil, fmt.Errorf("%w: not a catalog snapshot", ErrCorrupt)
	}
	format := d.byte()
	if format < imageFormatBare || format > imageFormat {
		return nil, fmt.Errorf("catalog snapshot format %d: %w", format, ErrNewer)
	}
	m := &Image{version: d.uvarint(), producerNext: int64(d.uvarint())}
	for range d.count(21) {
		m.brokers = append(m.brokers, Broker{
			ID: d.int32(), Host: d.string(), Port: d.uint31(), Rack: d.string(), Incarnation: d.id(), Epoch: d.varint(),
		})
	}
	for range d.count(2) {
		m.brokerConfig = append(m.brokerConfig, BrokerConfig{Broker: d.int32(), Config: d.config()})
	}
	for range d.count(19) {
		t := &Topic{Name: d.string(), ID: d.id(), Partitions: d.states(), Config: d.config()}
		m.byName = append(m.byName, t)
		m.partitions += len(t.Partitions)
	}
	for range d.count(len(TopicID{})) {
		m.deleted = append(m.deleted, d.id())
	}
	if format > imageFormatBare {
		m.users, m.acls = d.users(), d.aclSet()
		if m.format() != format {
			d.fail("neither users nor ACLs")
		}
	}
	if err := d.finish(); err != nil {
		return nil, err
	}
	if len(m.byName) > 0 {
		m.byID = slices.Clone(m.byName)
		slices.SortFunc(m.byID, func(a, b *Topic) int { return slices.Compare(a.ID[:], b.ID[:]) })
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return m, nil
}
