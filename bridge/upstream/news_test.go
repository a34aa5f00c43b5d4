package upstream

import "testing"

// What takes news in asks the log, and waits for locks that who tells news may hold: so nobody waits for who takes it in.
func TestNewsMayComeWhileItIsTakenIn(t *testing.T) {
	id := [16]byte{1}
	p := &part{topic: "t", id: id}
	p.shown.Store(&shown{id: id})
	n := &news{cfg: &Config{Topics: []string{"t"}}, parts: map[string][]*part{"t": {p}}, ignored: map[string]struct{}{}}
	if !n.advanced("t", id, 0) || n.advanced("t", id, 0) {
		t.Fatal("news is not told once")
	}
	taken := 0
	if n.drain(func(*part) bool { taken++; n.advanced("t", id, 0); return false }); taken != 1 {
		t.Errorf("taken in %d times", taken)
	}
	if n.drain(func(*part) bool { taken++; return false }); taken != 2 {
		t.Error("what came meanwhile is lost")
	}
	if n.advanced("other", id, 0) || n.drain(func(*part) bool { return false }) {
		t.Error("a topic nobody chose is news")
	}
	if !n.advanced("t", id, 1) || n.advanced("t", id, 1) || !n.drain(func(*part) bool { return false }) {
		t.Error("a new partition is not told once")
	}
	if n.begin(); !n.advanced("t", [16]byte{2}, 0) || !n.drain(func(*part) bool { return false }) {
		t.Error("a topic made anew is not told")
	}
}

// A partition whose log was gone, and that is told of, is back: the table has to be looked over, for nothing else brings it back.
func TestNewsOfAPartitionThatWasGone(t *testing.T) {
	table := newTable(1)
	id := [16]byte{1}
	p := &part{topic: "t", id: id}
	for l := range p.lane {
		p.lane[l] = table.at(Lane(l), "t", 0)
	}
	p.shown.Store(&shown{id: id})
	n := &news{cfg: &Config{Topics: []string{"t"}}, parts: map[string][]*part{"t": {p}}, ignored: map[string]struct{}{}}
	if !n.advanced("t", id, 0) || !n.drain(table.heard) {
		t.Error("nobody looks at it again")
	}
}
