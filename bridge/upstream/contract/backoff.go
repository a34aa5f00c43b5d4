package contract

import "time"

// Backoff says how long to wait before the next attempt: each time a random time between Min and a ceiling that begins at twice
// Min and doubles up to Max. It is full jitter above Min, so that a fleet whose upstream comes back does not come back in step. It is
// not safe for concurrent use.
type Backoff struct {
	Min, Max time.Duration
	// Random is uniform in [0, n), as rand.Int64N is.
	Random func(n int64) int64

	ceiling time.Duration
}

// Next is how long to wait now. It is in [Min, Max].
func (b *Backoff) Next() time.Duration {
	if b.ceiling = min(2*max(b.ceiling, b.Min), b.Max); b.ceiling <= b.Min {
		return b.Min
	}
	return b.Min + time.Duration(b.Random(int64(b.ceiling-b.Min)+1))
}

// Reset has the next wait be short again. It is for an attempt that came to something, a commit, not for a connect alone: a peer
// that accepts and then refuses would be asked again at once, for ever.
func (b *Backoff) Reset() { b.ceiling = 0 }
