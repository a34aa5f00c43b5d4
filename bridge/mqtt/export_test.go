package mqtt

import (
	"runtime"
	"slices"
)

// TellsOfPubrec reports whether a record of the sessions topic is a delivery table in which a PUBREC has come.
func TellsOfPubrec(value []byte) bool {
	ss := new(session)
	st := new(stream)
	return decodeTable(value, ss, finder{func(streamKey) *stream { return st }, aGroup}) == nil &&
		slices.ContainsFunc(ss.inflight, func(d delivery) bool { return d.released })
}

// HoldIndex keeps sessions from entering and leaving the index until release. wait returns when one of them has come to it.
func HoldIndex(s *Server) (wait, release func()) {
	s.index.mu.RLock()
	wait = func() {
		for s.index.mu.TryRLock() { // false once somebody waits to write
			s.index.mu.RUnlock()
			runtime.Gosched()
		}
	}
	return wait, s.index.mu.RUnlock
}

// WaitScanned returns when no scan has a partition's chunk: what one found there, it has handed out.
func WaitScanned(s *Server, topic string, index int32) {
	part, _ := s.cfg.Log.Partition(topic, index)
	st := s.streams.find(streamKey{part.ID(), index})
	for st.chunks[far].Load() == nil {
		runtime.Gosched()
	}
}

// aGroup finds a group of any name.
func aGroup(key string) *group { return &group{key: key} }

// Resting returns how many sessions rest, and how many there are that do not.
func Resting(s *Server) (resting, others int) {
	s.life.Lock()
	defer s.life.Unlock()
	return len(s.resting.all), len(s.sessions)
}

// HoldSession is what a connection that is ending may still do with the session of that identifier: take a publish of QoS 2,
// and write.
func HoldSession(s *Server, id string) (publish, write func() error) {
	s.life.Lock()
	defer s.life.Unlock()
	ss := s.sessions[id]
	publish = func() (err error) {
		if ss.unreleased.begin(9, func(e error) { err = e }) {
			ss.unreleased.land(9, errSessionOver)
			return nil
		}
		return err
	}
	return publish, func() error { return s.store.wait(s.store.put, ss) }
}

// PublishCost is what a publish takes of the memory for what is on its way, beside its packet.
const PublishCost = publishCost
