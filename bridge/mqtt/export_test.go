package mqtt

import "runtime"

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
	for st.chunk.Load() == nil {
		runtime.Gosched()
	}
}
