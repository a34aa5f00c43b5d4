package cleaner

import (
	"fmt"
	"testing"
)

func TestOffsetMap(t *testing.T) {
	m := newOffsetMap(2000) // 64 places
	if m.bytes() > 2000 || len(m.last) != 64 {
		t.Fatalf("%d places of %d bytes", len(m.last), m.bytes())
	}
	for round := range int64(3) {
		base := round << 33
		m.reset(base)
		key := func(i int) []byte { return fmt.Append(nil, "key", round, i) }
		n := 0
		for m.put(key(n), base+int64(n)) {
			n++
		}
		if n != 48 {
			t.Fatalf("%d keys fit into 64 places", n)
		}
		if !m.put(key(3), base+1000) { // known: no new place
			t.Fatal("a key that is there does not fit")
		}
		for i := range n {
			at := base + int64(i)
			if i == 3 {
				at = base + 1000
			}
			if !m.later(key(i), at-1) || m.later(key(i), at) {
				t.Errorf("key %d at %d: later than the one before %v, than itself %v", i, at, m.later(key(i), at-1), m.later(key(i), at))
			}
		}
		if m.later(key(n), base-1) || m.later([]byte("key"), -1) {
			t.Error("a key that was never put is there")
		}
		if m.put(key(1), base+1<<32) {
			t.Error("an offset too far away was put")
		}
	}
	// Keys whose quick halves are the same are told apart by the other.
	m.reset(0)
	m.put([]byte("a"), 5)
	place, _ := m.find([]byte("a"))
	m.hashes[place][1]++
	if m.later([]byte("a"), 0) {
		t.Error("half a hash passes for a key")
	}
}
