package mqtt

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"

	"millrace/bridge/mqtt/packet"
	"millrace/bridge/payload"
	"millrace/broker/auth"
	"millrace/broker/record"
)

// A will's record is the message it will be, headers and all, under the client's key, with these headers behind. None of
// them can be a user property: those whose names begin so get another prefix (payload.UserPrefix).
const (
	willDelay  = payload.Prefix + "will.delay"  // seconds, decimal
	willExpiry = payload.Prefix + "will.expiry" // of the session: seconds, decimal
	willUser   = payload.Prefix + "will.user"   // the principal that left it, where there is one
	willHost   = payload.Prefix + "will.host"   // where that came from, as ACLs name it
)

func willKey(client string) []byte { return append([]byte(client), keyWill...) }

// record is the will as the log keeps it. It holds no time, so that the same will again is the same record.
func (w *will) record() record.Record {
	rec := record.Record{Key: willKey(w.Client), Value: w.body}
	if rec.Value == nil {
		rec.Value = []byte{} // an empty payload does not end the record
	}
	add := func(key string, value []byte) bool {
		rec.Headers = append(rec.Headers, record.Header{Key: key, Value: value})
		return true
	}
	w.Headers(add)
	add(willDelay, strconv.AppendUint(nil, uint64(w.delay), 10))
	add(willExpiry, strconv.AppendUint(nil, uint64(w.expiry), 10))
	if w.who.Principal != "" {
		add(willUser, []byte(w.who.Principal))
	}
	if w.who.Host != "" {
		add(willHost, []byte(w.who.Host))
	}
	return rec
}

// same reports whether two wills have the same record.
func (w *will) same(other *will) bool {
	a, b := w.record(), other.record()
	return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) &&
		slices.EqualFunc(a.Headers, b.Headers, func(x, y record.Header) bool {
			return x.Key == y.Key && bytes.Equal(x.Value, y.Value)
		})
}

// readWill is record's inverse. It keeps nothing of r.
func readWill(client string, r *record.Record) (*will, error) {
	w := &will{body: slices.Clone(r.Value), cost: 256 + int64(len(r.Key)+len(r.Value))}
	var bad error
	number := func(h record.Header) uint32 {
		n, err := strconv.ParseUint(string(h.Value), 10, 32)
		if err != nil && bad == nil {
			bad = fmt.Errorf("%s: %w", h.Key, err)
		}
		return uint32(n)
	}
	for _, h := range r.Headers {
		w.cost += int64(len(h.Key) + len(h.Value))
		switch h.Key {
		case willDelay:
			w.delay = number(h)
		case willExpiry:
			w.expiry = number(h)
		case willUser:
			w.who.Principal = auth.Principal(h.Value)
		case willHost:
			w.who.Host = string(h.Value)
		default:
			w.Add(h.Key, h.Value)
		}
	}
	w.Client, w.Correlation = client, slices.Clone(w.Correlation)
	if bad == nil && !packet.ValidTopic(w.Topic) {
		bad = fmt.Errorf("topic %q", w.Topic)
	}
	return w, bad
}
