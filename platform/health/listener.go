package health

import (
	"errors"
	"net"
	"os"
	"time"
)

// beatsOfListener is how often a listener that nobody connects to is looked after within its part's limit.
const beatsOfListener = 3

// listener beats for its accept loop.
type listener struct {
	net.Listener
	part *Part
}

// Listen returns l, whose accept loop is a part: an Accept to which nobody comes is interrupted now and then, and goes on
// where it was. A loop that stands still, or has ended, beats no more; end takes the part out when it is meant to. A
// listener that cannot be interrupted (it has no SetDeadline) is returned as it is, and is no part.
func (m *Monitor) Listen(l net.Listener, name string, limit time.Duration) (watched net.Listener, end func()) {
	if _, ok := l.(interface{ SetDeadline(time.Time) error }); !ok {
		return l, func() {}
	}
	w := &listener{Listener: l, part: m.Part(name, limit)}
	return w, w.part.End
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	timed := l.Listener.(interface{ SetDeadline(time.Time) error })
	for {
		l.part.Beat()
		if err := timed.SetDeadline(time.Now().Add(l.part.limit / beatsOfListener)); err != nil {
			return nil, err
		}
		conn, err := l.Listener.Accept()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return conn, err
		}
	}
}
