package damage

import (
	"bytes"
	"slices"
	"testing"
)

// Wherever in its range the bytes are cut out the same file is left, and nowhere beside it.
func TestCutsThatLookAlike(t *testing.T) {
	raw := []byte{1, 0, 0, 0, 2, 3, 2, 3, 2, 4}
	for from := range len(raw) {
		for to := from + 1; to <= len(raw); to++ {
			i := injury{how: "cut out", from: int64(from), to: int64(to)}
			first, end := i.alike(raw)
			want := slices.Delete(slices.Clone(raw), from, to)
			for at := range len(raw) - (to - from) + 1 {
				same := bytes.Equal(slices.Delete(slices.Clone(raw), at, at+to-from), want)
				if within := int64(at) >= first && int64(at+to-from) <= end; same != within {
					t.Errorf("bytes %d to %d: alike from %d to %d, and at %d the same file is left: %t", from, to-1, first, end-1, at, same)
				}
			}
		}
	}
}
