package record

import "testing"

// A batch as large as the last stays where room was made for it.
func TestABuilderThatHasGrownDoesNotMove(t *testing.T) {
	value := make([]byte, 128)
	moved := func(room int) bool {
		b := NewBuilder(None)
		b.Grow(room)
		at := &b.buf[0]
		for range 1000 {
			b.Add(1, value, value, nil)
		}
		return at != &b.buf[0]
	}
	if moved(1000*(2*len(value)+20)) || !moved(0) {
		t.Error("it moves with room, or does not without")
	}
}
