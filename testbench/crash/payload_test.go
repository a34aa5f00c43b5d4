package crash

import "fmt"

// payload is the content of the n-th record of a producer: a line that names it and bytes that follow from the seed, so
// that a record is known by its content and every byte of it can be checked. A few are large enough to pass the journal
// by (64 KiB and more).
func payload(seed uint64, producer string, n int) []byte {
	head := fmt.Sprintf("%s %d ", producer, n)
	mix := seed ^ uint64(n+1)*0x9E3779B97F4A7C15
	for _, c := range producer {
		mix = (mix ^ uint64(c)) * 0x100000001B3
	}
	size := len(head) + int(mix>>8%900)
	if mix%97 == 0 {
		size = 64<<10 + int(mix>>8%(64<<10))
	}
	b := make([]byte, 0, size+8)
	b = append(b, head...)
	for len(b) < size {
		mix ^= mix << 13
		mix ^= mix >> 7
		mix ^= mix << 17
		b = append(b, byte(mix), byte(mix>>8), byte(mix>>16), byte(mix>>24))
	}
	return b
}

// parse reads the line a payload begins with.
func parse(b []byte) (producer string, n int, err error) {
	_, err = fmt.Sscanf(string(b[:min(len(b), 64)]), "%s %d ", &producer, &n)
	return producer, n, err
}
