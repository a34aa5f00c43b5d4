package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
)

// sockets are listeners that were opened before the board was, by a service manager: each is used by the listener of the
// configuration that has its address, and stays open while the board starts again.
type sockets struct {
	mu   sync.Mutex
	left []net.Listener
}

// take is the socket of that address, nil where none was handed in. ":1883" and "0.0.0.0:1883" are what "[::]:1883" is.
func (s *sockets) take(network, address string) net.Listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, l := range s.left {
		if l.Addr().Network() == network && sameAddress(network, l.Addr().String(), address) {
			s.left = append(s.left[:i:i], s.left[i+1:]...)
			return l
		}
	}
	return nil
}

func sameAddress(network, a, b string) bool {
	if network != "tcp" || a == b {
		return a == b
	}
	return anyHost(a) == anyHost(b)
}

// anyHost is an address whose host is empty where it stands for all, and is otherwise written as net writes it.
func anyHost(address string) string {
	tcp, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return address
	}
	ip, ok := netip.AddrFromSlice(tcp.IP)
	if ip = ip.Unmap(); !ok || ip.IsUnspecified() {
		return fmt.Sprintf(":%d", tcp.Port)
	}
	return netip.AddrPortFrom(ip, uint16(tcp.Port)).String()
}

// close closes the sockets that no listener has wanted, and tells their addresses.
func (s *sockets) close() (addresses []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.left {
		addresses = append(addresses, l.Addr().String())
		err = errors.Join(err, l.Close())
	}
	s.left = nil
	return addresses, err
}

// openSockets ends the doors: every socket that was handed in has to be somebody's.
func (b *Broker) openSockets(context.Context) error {
	left, err := b.sockets.close()
	if len(left) == 0 {
		return err
	}
	return errors.Join(err, fmt.Errorf("the service manager hands in sockets that no listener of the configuration has: %s: "+
		"name them in listeners of [broker] or [mqtt], or listener of [http], or take them out of the .socket unit", strings.Join(left, ", ")))
}

// listenTCP opens a TCP listener, or uses the one that was handed in.
func (b *Broker) listenTCP(address string) (net.Listener, error) {
	if l := b.sockets.take("tcp", address); l != nil {
		return l, nil
	}
	return net.Listen("tcp", address)
}
