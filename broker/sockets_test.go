package broker

import (
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"millrace/platform/config"
)

func openedAt(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	if unix, ok := l.(*net.UnixListener); ok {
		unix.SetUnlinkOnClose(false)
	}
	return l
}

// handed opens a board with sockets that were opened before, and listeners at their addresses.
func handed(t *testing.T, extra ...net.Listener) (*Broker, []net.Listener, error) {
	t.Helper()
	all := []net.Listener{
		openedAt(t, "tcp", "127.0.0.1:0"), openedAt(t, "tcp", "127.0.0.1:0"), openedAt(t, "tcp", "127.0.0.1:0"),
		openedAt(t, "unix", filepath.Join(t.TempDir(), "s")),
	}
	s := config.Default()
	s.Broker.LogDirs, s.Broker.ClusterAlias = t.TempDir(), "test"
	s.Broker.Listeners = []string{"PLAINTEXT://" + all[0].Addr().String()}
	s.MQTT.Listeners = []string{"tcp://" + all[1].Addr().String(), "unix://" + all[3].Addr().String()}
	s.HTTP.Listener = all[2].Addr().String()
	b, err := Open(t.Context(), Config{Settings: s, Sockets: append(slices.Clone(all), extra...)})
	return b, all, err
}

// A service manager that holds the sockets keeps clients waiting, and refuses none, while the board starts again.
func TestSocketsOfAServiceManagerAreUsed(t *testing.T) {
	b, all, err := handed(t)
	if err != nil {
		t.Fatal(err)
	}
	a := b.Addresses()
	if a.Kafka[0] != all[0].Addr().String() || a.MQTT[0] != all[1].Addr().String() || a.MQTT[1] != all[3].Addr().String() || a.HTTP[0] != all[2].Addr().String() {
		t.Errorf("serves %+v", a)
	}
	dialMQTT(t, b, 5, "a")
	appendOne(t, b, "t", "x")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if _, err := l.Accept(); err == nil {
			t.Errorf("%s is left open", l.Addr())
		}
	}
}

func TestASocketThatNoListenerHasIsNamed(t *testing.T) {
	stray := openedAt(t, "tcp", "127.0.0.1:0")
	_, all, err := handed(t, stray)
	if err == nil || !strings.Contains(err.Error(), stray.Addr().String()) || strings.Contains(err.Error(), all[0].Addr().String()) {
		t.Errorf("%v, want one that names %s", err, stray.Addr())
	}
	for _, l := range append(all, stray) {
		if _, err := l.Accept(); err == nil {
			t.Errorf("%s is left open", l.Addr())
		}
	}
}

func TestAddressesOfSockets(t *testing.T) {
	for _, of := range []struct {
		network, a, b string
		same          bool
	}{
		{"tcp", "[::]:1883", "0.0.0.0:1883", true},
		{"tcp", "[::]:1883", ":1883", true},
		{"tcp", "127.0.0.1:1883", "localhost:1883", true},
		{"tcp", "127.0.0.1:1883", "[::ffff:127.0.0.1]:1883", true},
		{"tcp", "127.0.0.1:1883", ":1883", false},
		{"tcp", "127.0.0.1:1883", "127.0.0.1:1884", false},
		{"unix", "/run/a", "/run/a", true},
		{"unix", "/run/a", "/run/b", false},
	} {
		if got := sameAddress(of.network, of.a, of.b); got != of.same {
			t.Errorf("%s %s and %s: %v", of.network, of.a, of.b, got)
		}
	}
}
