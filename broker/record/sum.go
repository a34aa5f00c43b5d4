package record

// CRC32C is the remainder of a polynomial over GF(2), so the checksum of two pieces follows from theirs and the length of
// the second: the first is moved up by as many bits, which is a multiplication by a power of x. Polynomials are kept
// as the checksum itself is, the highest bit of the word being the coefficient of x^0.
const reflected = 0x82f63b78 // Castagnoli's polynomial

// powers[k] is x to the power of 2^k.
var powers = func() (p [64]uint32) {
	p[0] = 1 << 30
	for k := 1; k < len(p); k++ {
		p[k] = times(p[k-1], p[k-1])
	}
	return p
}()

// times is the product of a and b modulo Castagnoli's polynomial.
func times(a, b uint32) (product uint32) {
	for ; a != 0; a <<= 1 {
		if a>>31 != 0 {
			product ^= b
		}
		b = b>>1 ^ reflected&-(b&1) // times x
	}
	return product
}

// Join is the CRC32C of two pieces, of which the first has a and the second, n bytes long, has b.
func Join(a, b uint32, n int) uint32 {
	for bits, k := uint64(n)*8, 0; bits != 0; bits, k = bits>>1, k+1 {
		if bits&1 != 0 {
			a = times(a, powers[k])
		}
	}
	return a ^ b
}

// Sum is the CRC32C of p, which must be whole batches that were checked: it joins their own checksums and reads only their
// headers.
func Sum(p []byte) uint32 {
	sum := uint32(0)
	for len(p) > 0 {
		b, rest, err := Next(p)
		if err != nil {
			return Update(sum, p) // no batches: as they are
		}
		sum = Join(Update(sum, b[:atAttributes]), b.CRC(), len(b)-atAttributes)
		p = rest
	}
	return sum
}
