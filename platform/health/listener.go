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
// where it was. A loop that stands still beats no more, and neither does a listener of which l cannot be interrupted (no
// SetDeadline): that one is returned as it is.
func (m *Monitor) Listen(l net.Listener, name string, limit time.Duration) net.Listener {
	if _, ok := l.(interface{ SetDeadline(time.Time) error }); !ok {
		return l
	}
	return &listener{Listener: l, part: m.Part(name, limit)}
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

// Close implements net.Listener. A listener that is closed is no part any more.
func (l *listener) Close() error {
	l.part.End()
	return l.Listener.Close()
}
