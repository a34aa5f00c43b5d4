package api

import (
	"millrace/broker/catalog"
	"millrace/broker/partition"
	"millrace/broker/wire"
)

// Store is the part of *partition.Store that FromStore needs.
type Store interface {
	Get(id catalog.TopicID, index int32) *partition.Partition
	Offline(id catalog.TopicID, index int32) error
}

// FromStore makes Logs of a partition store.
func FromStore(s Store) Logs { return storeLogs{s} }

type storeLogs struct{ store Store }

// Log implements Logs.
func (s storeLogs) Log(id catalog.TopicID, index int32) Log {
	if p := s.store.Get(id, index); p != nil {
		return storeLog{p}
	}
	return nil
}

// Offline implements Logs.
func (s storeLogs) Offline(id catalog.TopicID, index int32) bool {
	return s.store.Offline(id, index) != nil
}

// storeLog gives the partition's spans as what the wire sends.
type storeLog struct{ *partition.Partition }

// Read implements Log.
func (l storeLog) Read(offset int64, maxBytes int) (wire.Span, error) {
	span, err := l.Partition.Read(offset, maxBytes)
	if err != nil {
		return nil, err
	}
	return span, nil
}
