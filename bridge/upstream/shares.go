package upstream

// shares divide the link between the lanes while both have something to send. Link.mu guards it.
type shares struct {
	weight [lanes]float64
	// pending says that a lane has something it may send.
	pending [lanes]bool
	// lingers says that a lane will have, when what it gathers has been gathered.
	lingers [lanes]bool
	// served is what each lane has sent since both are pending, in bytes.
	served [lanes]int64
}

// slack is how far a lane may be ahead of its share, in bytes: about a transaction.
const slack = 128 << 10

// note notes whether a lane has something it may send. From then on both count anew: nobody saves up.
func (s *shares) note(l Lane, pending bool) {
	if s.pending[l] != pending {
		s.pending[l], s.served = pending, [lanes]int64{}
	}
}

// busy says that a lane has something it may send, or will in a moment.
func (s *shares) busy(l Lane) bool { return s.pending[l] || s.lingers[l] }

// turn says whether a lane may send now.
//
// Invariant: of two lanes that are pending, one may.
func (s *shares) turn(l Lane) bool {
	other := 1 - l
	return !s.pending[other] ||
		float64(s.served[l])/s.weight[l] <= float64(s.served[other])/s.weight[other]+slack
}
