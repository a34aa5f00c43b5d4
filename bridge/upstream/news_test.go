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
	if n.drain(func(*part) { taken++; n.advanced("t", id, 0) }); taken != 1 {
		t.Errorf("taken in %d times", taken)
	}
	if n.drain(func(*part) { taken++ }); taken != 2 {
		t.Error("what came meanwhile is lost")
	}
	if n.advanced("other", id, 0) || n.drain(func(*part) {}) {
		t.Error("a topic nobody chose is news")
	}
	if !n.advanced("t", id, 1) || n.advanced("t", id, 1) || !n.drain(func(*part) {}) {
		t.Error("a new partition is not told once")
	}
	if n.begin(); !n.advanced("t", [16]byte{2}, 0) || !n.drain(func(*part) {}) {
		t.Error("a topic made anew is not told")
	}
}
