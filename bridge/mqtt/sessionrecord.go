package mqtt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// The versions of a session's record. The first had no QoS 2.
const (
	sessionVersion    = 2
	sessionVersionOne = 1
	tableVersion      = 1
)

// sessionWriter makes a record that speaks of partitions: a table of them comes before the body, which has their places.
type sessionWriter struct {
	places map[*stream]uint64
	table  []*stream
	body   []byte
}

func (w *sessionWriter) uint(v uint64) { w.body = binary.AppendUvarint(w.body, v) }

func (w *sessionWriter) at(st *stream, offset int64) {
	i, ok := w.places[st]
	if !ok {
		if w.places == nil {
			w.places = make(map[*stream]uint64)
		}
		i = uint64(len(w.table))
		w.places[st] = i
		w.table = append(w.table, st)
	}
	w.uint(i)
	w.uint(uint64(offset))
}

func (w *sessionWriter) positions(list map[*stream]int64) {
	w.uint(uint64(len(list)))
	for st, next := range list {
		w.at(st, next)
	}
}

const (
	deliveryReleased = 4 // beside the QoS
	deliveryPlaced   = 8 // the partition and offset follow
)

func (w *sessionWriter) deliveries(list []delivery) {
	w.uint(uint64(len(list)))
	for _, d := range list {
		flags := uint64(d.qos)
		if d.released {
			flags |= deliveryReleased
		}
		if d.st != nil {
			flags |= deliveryPlaced
		}
		w.uint(flags)
		w.uint(uint64(d.id))
		if d.st != nil {
			w.at(d.st, d.offset)
		}
	}
}

// seal is the record: version, the numbers in head, the table, the body.
func (w *sessionWriter) seal(version byte, head ...uint64) []byte {
	out := append(make([]byte, 0, 16+18*len(w.table)+len(w.body)), version)
	for _, v := range head {
		out = binary.AppendUvarint(out, v)
	}
	out = binary.AppendUvarint(out, uint64(len(w.table)))
	for _, st := range w.table {
		id := st.part.ID()
		out = append(out, id[:]...)
		out = binary.AppendUvarint(out, uint64(st.index))
	}
	return append(out, w.body...)
}

// encodeSession: expiry, ms of disconnection (0: connected), last packet identifier; cursors, the ends of QoS 2 where
// they lie behind those, in-flight messages, subscriptions. Under ss.mu.
func encodeSession(ss *session, cursors, handed map[*stream]int64, away int64) []byte {
	var w sessionWriter
	w.positions(cursors)
	w.positions(handed)
	w.deliveries(ss.inflight)
	w.uint(uint64(len(ss.subs)))
	for _, sub := range ss.subs {
		flags := sub.qos | sub.retain<<4
		if sub.noLocal {
			flags |= 4
		}
		if sub.asIs {
			flags |= 8
		}
		w.body = append(appendString(w.body, sub.filter), flags)
		w.uint(uint64(sub.id))
		w.uint(uint64(len(sub.starts)))
		for _, p := range sub.starts {
			w.at(p.st, p.offset)
		}
	}
	return w.seal(sessionVersion, uint64(ss.expiry), uint64(away), uint64(ss.lastID))
}

// encodeTable makes a delivery table: last packet identifier; the ends of QoS 2, its in-flight messages. Under ss.mu.
func encodeTable(ss *session) []byte {
	var w sessionWriter
	w.positions(ss.exact.handed)
	w.deliveries(slices.DeleteFunc(slices.Clone(ss.inflight), func(d delivery) bool { return d.qos != 2 }))
	return w.seal(tableVersion, uint64(ss.lastID))
}

var errSession = errors.New("session record is not readable")

// sessionReader reads uvarints and keeps the first failure.
type sessionReader struct {
	p   []byte
	bad bool
}

func (r *sessionReader) uint(limit uint64) uint64 {
	v, n := binary.Uvarint(r.p)
	if n <= 0 || v > limit {
		r.bad, r.p = true, nil
		return 0
	}
	r.p = r.p[n:]
	return v
}

func (r *sessionReader) take(n int) []byte {
	if n > len(r.p) {
		r.bad, r.p = true, nil
		return make([]byte, min(n, 16))
	}
	b := r.p[:n]
	r.p = r.p[n:]
	return b
}

// placed reads the table of partitions; find turns the name of one into its stream, nil when it is gone.
func (r *sessionReader) placed(find func(streamKey) *stream) (table []*stream) {
	table = make([]*stream, 0, min(len(r.p)/17, 1024))
	for n := r.uint(uint64(len(r.p) / 17)); n > 0 && !r.bad; n-- {
		key := streamKey{id: [16]byte(r.take(16))}
		key.index = int32(r.uint(1<<31 - 1))
		table = append(table, find(key))
	}
	return table
}

func (r *sessionReader) at(table []*stream) (st *stream, offset int64) {
	i := r.uint(uint64(max(len(table), 1) - 1))
	offset = int64(r.uint(1<<63 - 1))
	if int(i) < len(table) {
		st = table[i]
	}
	return st, offset
}

func (r *sessionReader) positions(table []*stream, fn func(*stream, int64)) {
	for n := r.uint(uint64(len(r.p) / 2)); n > 0 && !r.bad; n-- {
		if st, next := r.at(table); st != nil {
			fn(st, next)
		}
	}
}

func (r *sessionReader) deliveries(table []*stream) (list []delivery) {
	for n := r.uint(uint64(len(r.p) / 2)); n > 0 && !r.bad; n-- {
		flags := r.uint(15)
		d := delivery{id: uint16(r.uint(65535)), qos: byte(flags & 3), released: flags&deliveryReleased != 0}
		if flags&deliveryPlaced != 0 {
			d.st, d.offset = r.at(table)
		}
		if d.st == nil { // the message went with its topic; at QoS 2 the client has to let go of the identifier
			d.released = true
		}
		switch {
		case d.qos == 0 || d.qos > 2 || d.id == 0:
			r.bad = true
		case d.st != nil || d.qos == 2:
			list = append(list, d)
		}
	}
	return list
}

// decodeSession is encodeSession's inverse; find turns the name of a partition into its stream, nil when it is gone:
// what lay there is gone with it. ss is filled; away is when its connection ended, 0 when it had one.
func decodeSession(p []byte, ss *session, find func(streamKey) *stream) (away int64, err error) {
	r := &sessionReader{p: p}
	version := r.take(1)[0]
	if r.bad || version != sessionVersion && version != sessionVersionOne {
		return 0, fmt.Errorf("%w: version %d", errSession, version)
	}
	ss.expiry = uint32(r.uint(never))
	away = int64(r.uint(1 << 62))
	ss.lastID = uint16(r.uint(65535))
	table := r.placed(find)
	r.positions(table, ss.fallBehind)
	if version == sessionVersionOne {
		for n := r.uint(uint64(len(r.p) / 3)); n > 0 && !r.bad; n-- {
			st, offset := r.at(table)
			if id := uint16(r.uint(65535)); st != nil && id != 0 {
				ss.inflight = append(ss.inflight, delivery{st: st, offset: offset, id: id, qos: 1})
			}
		}
	} else {
		r.positions(table, ss.handTo)
		ss.inflight = r.deliveries(table)
	}
	for n := r.uint(uint64(len(r.p) / 4)); n > 0 && !r.bad; n-- {
		sub := &subscription{session: ss, filter: string(r.take(int(r.uint(65535))))}
		flags := r.take(1)[0]
		sub.qos, sub.noLocal, sub.asIs, sub.retain = flags&3, flags&4 != 0, flags&8 != 0, flags>>4&3
		sub.id = uint32(r.uint(never))
		r.positions(table, func(st *stream, offset int64) { sub.starts = append(sub.starts, position{st, offset}) })
		ss.subs = append(ss.subs, sub)
	}
	if r.bad || len(r.p) != 0 {
		return 0, errSession
	}
	return away, nil
}

// decodeTable puts a delivery table, which is newer than the session's record, in its place there.
func decodeTable(p []byte, ss *session, find func(streamKey) *stream) error {
	r := &sessionReader{p: p}
	if v := r.take(1)[0]; r.bad || v != tableVersion {
		return fmt.Errorf("%w: delivery table of version %d", errSession, v)
	}
	ss.lastID = uint16(r.uint(65535))
	table := r.placed(find)
	r.positions(table, ss.handTo)
	list := r.deliveries(table)
	if r.bad || len(r.p) != 0 {
		return errSession
	}
	// A QoS 1 message whose identifier QoS 2 has now was acknowledged meanwhile.
	ss.inflight = slices.DeleteFunc(ss.inflight, func(d delivery) bool {
		return d.qos == 2 || slices.ContainsFunc(list, func(e delivery) bool { return e.id == d.id })
	})
	ss.inflight = append(ss.inflight, list...)
	ss.exact.table = true
	return nil
}
