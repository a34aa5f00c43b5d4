package journal

import "sync"

const (
	tallyStep = 256 << 10 // bytes between two samples, at first
	tallyMax  = 512       // samples; when they are full every other is forgotten and the step doubles
)

// tally counts the batch bytes after the last checkpoint's mark, exact to a sample's step: a checkpoint takes a while,
// and what is committed meanwhile belongs to the next one.
type tally struct {
	mu      sync.Mutex
	sum     sample // up to the last frame
	dropped sample // up to the mark
	samples []sample
	step    int64
}

// sample is the sums up to and including frame index.
type sample struct {
	index           uint64
	inline, pointed int64
}

func (s sample) bytes() int64 { return s.inline + s.pointed }

func (t *tally) add(index uint64, inline, pointed int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum = sample{index, t.sum.inline + inline, t.sum.pointed + pointed}
	n := len(t.samples)
	if n == 0 {
		t.step = tallyStep
	} else if t.sum.bytes()-t.samples[n-1].bytes() < t.step {
		return
	}
	if n == tallyMax {
		t.step *= 2
		for i := range tallyMax / 2 {
			t.samples[i] = t.samples[2*i+1]
		}
		t.samples = t.samples[:tallyMax/2]
	}
	t.samples = append(t.samples, t.sum)
}

func (t *tally) drop(index uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if index >= t.sum.index {
		t.dropped, t.samples = t.sum, t.samples[:0]
		return
	}
	n := 0
	for n < len(t.samples) && t.samples[n].index <= index {
		t.dropped = t.samples[n]
		n++
	}
	t.samples = t.samples[:copy(t.samples, t.samples[n:])]
}

func (t *tally) bytes() (inline, pointed int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sum.inline - t.dropped.inline, t.sum.pointed - t.dropped.pointed
}
