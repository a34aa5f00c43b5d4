package mqtt

import "time"

// Clock is the time of a board whose clock may be wrong. *boot.Clock is the real one. Ages are ms since 1970 that only run:
// what expires does so by them. Config.Now is for deadlines.
type Clock interface {
	// Now is what records are stamped with.
	Now() time.Time
	// AgeMS is the time as an age.
	AgeMS() int64
	// Arrived is the age at which a record came, or the latest it can have come at, by its stamp.
	Arrived(topic [16]byte, partition int32, offset, stampMS int64) int64
}

// believer is the Clock of a board whose clock is always right.
type believer struct{ now func() time.Time }

func (b believer) Now() time.Time { return b.now() }

func (b believer) AgeMS() int64 { return b.now().UnixMilli() }

func (believer) Arrived(_ [16]byte, _ int32, _, stampMS int64) int64 { return stampMS }

// remaining is what is left of the message's expiry, in seconds, and whether it may still be delivered [MQTT-3.3.2-5].
func (s *Server) remaining(st *stream, m *message) (seconds uint32, alive bool) {
	if !m.props.HasExpiry {
		return 0, true
	}
	return m.props.Remaining(s.cfg.Clock.Arrived(st.part.ID(), st.index, m.offset, m.stamp), s.cfg.Clock.AgeMS())
}
