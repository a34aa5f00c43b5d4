package upstream

import "encoding/binary"

// trail is where records of one partition went: pairs of offsets, here and upstream, of what was sent from floor on. What is
// contiguous at both ends is a run, which takes one to three bytes. The oldest are let go of when there are too many.
type trail struct {
	// floor is the offset from which on every record that was sent is in the trail.
	floor int64
	// data are the closed runs, oldest first: each a number of records and how far it begins after the end of the one before.
	// local and up are the end of the one before the first.
	data      []byte
	local, up int64
	// open is the last run, which may grow; it has no records where there is none. closedLocal and closedUp are where it is
	// measured from.
	open                  run
	closedLocal, closedUp int64
}

// run is n records from two offsets on.
type run struct{ local, up, n int64 }

// the bits of a run's first number that say what follows, below its count.
const (
	runSkips = 1 << iota // offsets between it and the one before, here; none without
	runLater             // the same upstream; one without, as a transaction leaves it
	runBits  = 2
)

// newTrail is a trail of what is sent from an offset on.
func newTrail(floor int64) trail { return trail{floor: floor} }

// pairTrail is a trail of one record.
func pairTrail(local, up int64) trail {
	t := newTrail(local)
	t.add(local, up)
	return t
}

// some says whether it has a record.
func (t *trail) some() bool { return t.open.n > 0 }

// last is the last record, where there is one.
func (t *trail) last() (local, up int64) {
	return t.open.local + t.open.n - 1, t.open.up + t.open.n - 1
}

// add notes a record that was sent after all others, and says whether that can be: both offsets grow.
func (t *trail) add(local, up int64) bool {
	o := &t.open
	switch {
	case o.n == 0:
		t.local, t.up = local, up
		t.closedLocal, t.closedUp = local, up
	case local < o.local+o.n || up < o.up+o.n:
		return false
	case local == o.local+o.n && up == o.up+o.n:
		o.n++
		return true
	default:
		t.close()
	}
	*o = run{local, up, 1}
	return true
}

// close puts the open run with the others.
func (t *trail) close() {
	o := &t.open
	skips, later := uint64(o.local-t.closedLocal), uint64(o.up-t.closedUp)
	head := uint64(o.n) << runBits
	if skips != 0 {
		head |= runSkips
	}
	if later != 1 {
		head |= runLater
	}
	t.data = binary.AppendUvarint(t.data, head)
	if skips != 0 {
		t.data = binary.AppendUvarint(t.data, skips)
	}
	if later != 1 {
		t.data = binary.AppendUvarint(t.data, later)
	}
	t.closedLocal, t.closedUp = o.local+o.n, o.up+o.n
}

// next reads the run at the beginning of data, of which the one before ended at local and up.
func next(data []byte, local, up int64) (r run, rest []byte) {
	number := func() int64 {
		v, n := binary.Uvarint(data)
		data = data[n:]
		return int64(v)
	}
	head := number()
	r = run{local, up + 1, head >> runBits}
	if head&runSkips != 0 {
		r.local += number()
	}
	if head&runLater != 0 {
		r.up = up + number()
	}
	return r, data
}

// at is where the first record at or after an offset went. sent is false where there is none: then it is one past the last
// record. known is false where the trail does not tell.
func (t *trail) at(offset int64) (up int64, sent, known bool) {
	if offset < t.floor || !t.some() {
		return 0, false, false
	}
	local, up := t.local, t.up
	for data := t.data; len(data) > 0; {
		var r run
		r, data = next(data, local, up)
		if offset < r.local+r.n {
			return r.up + max(0, offset-r.local), true, true
		}
		local, up = r.local+r.n, r.up+r.n
	}
	if o := &t.open; offset < o.local+o.n {
		return o.up + max(0, offset-o.local), true, true
	}
	_, up = t.last()
	return up + 1, false, true
}

// trim lets the oldest runs go where there are more than so many bytes of them, and says whether it did.
func (t *trail) trim(most int) bool {
	if len(t.data) <= most {
		return false
	}
	data := t.data
	for len(data) > most*3/4 {
		var r run
		r, data = next(data, t.local, t.up)
		t.local, t.up = r.local+r.n, r.up+r.n
	}
	t.floor = t.local
	t.data = t.data[:copy(t.data, data)]
	return true
}
