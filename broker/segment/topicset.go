package segment

// A set of hashes as bits: each is brought down to n<<p values for n hashes, in their order, and the differences are
// Golomb-Rice coded: the upper bits of one as so many ones and a zero, the lower p as they are. That takes about p+1.5 bits
// a hash, and one in 1<<p of other hashes is in it by chance. p follows from n and the room there is.
const (
	riceMax = 18
	riceMin = 3
)

// riceBits is p for n hashes in room bytes; ok is false when there is too little.
func riceBits(n, room int) (p uint, ok bool) {
	if n == 0 {
		return 0, true
	}
	bits := room*8/n - 2
	return uint(min(bits, riceMax)), bits >= riceMin
}

// reduced is a hash among n<<p values. It keeps the order of hashes.
func reduced(h uint32, n int, p uint) uint32 { return uint32(uint64(h) * (uint64(n) << p) >> 32) }

// appendSet appends the set of n ascending hashes, n <= 1<<16, for which riceBits has given p.
func appendSet(dst []byte, hashes []uint32, p uint) []byte {
	var acc uint64 // bits not yet in dst, the first one lowest
	var have uint
	put := func(v uint64, n uint) {
		acc |= v << have
		for have += n; have >= 8; have -= 8 {
			dst = append(dst, byte(acc))
			acc >>= 8
		}
	}
	last := uint32(0)
	for _, h := range hashes {
		v := reduced(h, len(hashes), p)
		d := v - last
		last = v
		for q := d >> p; ; q -= 32 {
			if q < 32 {
				put(1<<q-1, uint(q)+1)
				break
			}
			put(1<<32-1, 32)
		}
		put(uint64(d&(1<<p-1)), p)
	}
	if have > 0 {
		dst = append(dst, byte(acc))
	}
	return dst
}

// setReader reads such a set.
type setReader struct {
	p    []byte
	acc  uint64
	have uint
}

// next is the next difference; ok is false where the bits end.
func (r *setReader) next(p uint) (d uint32, ok bool) {
	var q uint32
	for {
		if r.have == 0 && !r.fill() {
			return 0, false
		}
		bit := r.acc & 1
		r.acc >>= 1
		r.have--
		if bit == 0 {
			break
		}
		q++
	}
	for r.have < p {
		if !r.fill() {
			return 0, false
		}
	}
	d = q<<p | uint32(r.acc&(1<<p-1))
	r.acc >>= p
	r.have -= p
	return d, true
}

func (r *setReader) fill() bool {
	if len(r.p) == 0 {
		return false
	}
	r.acc |= uint64(r.p[0]) << r.have
	r.have += 8
	r.p = r.p[1:]
	return true
}

// mayHave says whether one of the ascending hashes may be in the set of n. A set that cannot be read may have anything.
func mayHave(set []byte, n int, p uint, hashes []uint32) bool {
	if n == 0 || len(hashes) == 0 {
		return false
	}
	r := setReader{p: set}
	at := uint32(0)
	i := 0
	for range n {
		d, ok := r.next(p)
		if !ok {
			return true
		}
		at += d
		for ; reduced(hashes[i], n, p) <= at; i++ {
			if reduced(hashes[i], n, p) == at {
				return true
			}
			if i+1 == len(hashes) {
				return false
			}
		}
	}
	return false
}
