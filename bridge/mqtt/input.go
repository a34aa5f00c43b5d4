package mqtt

import (
	"net"

	"millrace/bridge/mqtt/packet"
)

// input cuts a connection's bytes into packets. While it waits for the first byte of one it holds idleInput bytes; a
// packet's memory grows with what has arrived, never with what its length promises. Over 4 KiB it comes from the Reading
// budget. Such a packet fills its buffer exactly, so the memory goes back when the packet has been used.
type input struct {
	conn net.Conn
	idle [idleInput]byte
	// buf[r:w] are the bytes read and not consumed.
	buf  []byte
	r, w int
	pool *[]byte // what buf came from, when it did
	large
	ahead ahead // what was read behind buf while a packet waited
}

const idleInput = 64

// next returns the next whole packet, which is valid until the following call. At most max bytes.
func (in *input) next(max int) ([]byte, error) {
	for {
		have := in.buf[in.r:in.w]
		size, err := packet.Frame(have)
		if err != nil {
			return nil, err
		}
		if size > max {
			// [MQTT-3.1.2-24] binds the client when our CONNACK said it; on 3.1.1 it is our limit all the same.
			return nil, &packet.Error{Reason: packet.PacketTooLarge, Why: "packet larger than the server's maximum"}
		}
		if size > 0 && size <= len(have) {
			in.r += size
			return have[:size:size], nil
		}
		if size > largePacket && in.held == 0 {
			if err := in.begin(size, len(have)); err != nil {
				return nil, err
			}
		}
		in.reserve(size)
		n, err := in.ahead.given(in.buf[in.w:]), error(nil)
		if n == 0 {
			n, err = in.conn.Read(in.buf[in.w:])
		}
		in.w += n
		if in.held > 0 && in.w-in.r < size {
			err = in.large.read(in.w-in.r, err)
			n = 0
		}
		if err != nil && n == 0 {
			return nil, err
		}
	}
}

// empty says that nothing of a packet has arrived.
func (in *input) empty() bool { return in.r == in.w }

// reserve makes room for at least one more byte of a packet of size bytes (0: not known yet).
func (in *input) reserve(size int) {
	n := in.w - in.r
	switch {
	case n == 0:
		in.release()
		in.buf, in.r, in.w = in.idle[:], 0, 0
	case in.w < len(in.buf):
		// Move to the front only when the packet would not fit behind what is consumed.
		if size <= len(in.buf)-in.r {
			return
		}
		if size <= len(in.buf) {
			copy(in.buf, in.buf[in.r:in.w])
			in.r, in.w = 0, n
			return
		}
		fallthrough
	default:
		in.grow(size, n)
	}
}

func (in *input) grow(size, n int) {
	old, pool := in.buf[in.r:in.w], in.pool
	if in.pool = nil; n < smallBuffer/2 {
		in.pool = buffers.Get().(*[]byte)
		in.buf = (*in.pool)[:smallBuffer]
	} else {
		in.buf = make([]byte, min(size, max(2*smallBuffer, 2*n)))
	}
	copy(in.buf, old)
	in.r, in.w = 0, n
	if pool != nil {
		buffers.Put(pool)
	}
}

// release gives the pooled buffer back.
func (in *input) release() {
	if in.pool != nil {
		buffers.Put(in.pool)
	}
	in.pool, in.buf = nil, nil
	in.end()
}
