package record

import "fmt"

// Checker checks a run of whole batches that comes in pieces, as Check does each batch, without holding more of it than
// a header. The zero Checker is ready for the first piece.
type Checker struct {
	head [HeaderSize]byte
	have int // Invariant: <= HeaderSize; bytes of the header of the batch that is passing by
	// left are the bytes of the batch that are still to come, behind its header; crc covers those that came.
	left int64
	crc  uint32
}

// Next takes the next piece. The error is one of Check's; after it the Checker is of no use.
func (c *Checker) Next(p []byte) error {
	for len(p) > 0 {
		if c.have < HeaderSize {
			n := copy(c.head[c.have:], p)
			c.have, p = c.have+n, p[n:]
			if c.have < HeaderSize {
				return nil
			}
			size, err := PeekSize(c.head[:])
			if err == nil {
				err = Batch(c.head[:]).CheckHeader()
			}
			if err != nil {
				return err
			}
			c.left, c.crc = size-HeaderSize, Castagnoli(c.head[atAttributes:])
		} else {
			n := min(c.left, int64(len(p)))
			c.crc = Update(c.crc, p[:n])
			c.left, p = c.left-n, p[n:]
		}
		if c.left > 0 {
			continue
		}
		if want := Batch(c.head[:]).CRC(); c.crc != want {
			return fmt.Errorf("%w: CRC %08x, computed %08x", ErrCorrupt, want, c.crc)
		}
		c.have = 0
	}
	return nil
}

// End says whether the run ended with a whole batch: ErrShort when not.
func (c *Checker) End() error {
	if c.have > 0 {
		return ErrShort
	}
	return nil
}
