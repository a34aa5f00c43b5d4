package broker

import (
	"context"
	"net"
	"sync"
)

// gate is a listener at which nobody is let in before the board is whole: until then who connects waits in the kernel's
// queue. Who was let in while a later step of the start hangs would be served by half a board, and its writes would look
// like progress of the start to the watchdogs.
type gate struct {
	net.Listener              // as it was opened
	name         string       // of the listener as a part
	in           net.Listener // where Accept waits, watched; set before open is closed
	open         <-chan struct{}
	closed       chan struct{}
	close        func() // closes closed, once
}

// Accept implements net.Listener.
func (g *gate) Accept() (net.Conn, error) {
	select {
	case <-g.open:
		return g.in.Accept()
	case <-g.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (g *gate) Close() error {
	g.close()
	return g.Listener.Close()
}

// watched is l, of which nobody is let in before openGates, and whose accept loop must go on from then until the board
// closes.
func (b *Broker) watched(l net.Listener, door string) net.Listener {
	g := &gate{Listener: l, name: "the " + door + " listener " + l.Addr().String(), open: b.vitals.open, closed: make(chan struct{})}
	g.close = sync.OnceFunc(func() { close(g.closed) })
	b.vitals.gates = append(b.vitals.gates, g)
	return g
}

// openGates ends the start: clients are served.
func (b *Broker) openGates(context.Context) error {
	for _, g := range b.vitals.gates {
		var end func()
		g.in, end = b.vitals.Listen(g.Listener, g.name, b.vitals.still)
		b.vitals.ends = append(b.vitals.ends, end)
	}
	close(b.vitals.open)
	return nil
}

// door is what clients come in by.
type door struct {
	begin func() // begins to close it
	ended chan struct{}
	err   error // when ended is closed
}

// ownsDoor is owns for a door. All doors close at once, before anything else does: while one of them, or what is closed
// before them, hung, the clients of the others would write on, and that would look like progress of the stop.
func (b *Broker) ownsDoor(closer func() error) {
	d := &door{ended: make(chan struct{})}
	d.begin = sync.OnceFunc(func() {
		go func() {
			defer close(d.ended)
			d.err = closer()
		}()
	})
	b.doors = append(b.doors, d)
	b.owns(func() error {
		d.begin()
		<-d.ended
		return d.err
	})
}
