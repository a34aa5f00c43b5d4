package systemd

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheManagerHearsTheStates(t *testing.T) {
	addr := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"}
	manager, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", addr.Name)
	for _, tt := range []struct {
		say  func() error
		want string
	}{
		{func() error { return Ready("kafka 127.0.0.1:9092\nSTOPPING=1") }, "READY=1\nSTATUS=kafka 127.0.0.1:9092 STOPPING=1"},
		{Reloading, "RELOADING=1\nMONOTONIC_USEC="},
		{Stopping, "STOPPING=1"},
	} {
		if err := tt.say(); err != nil {
			t.Fatal(err)
		}
		message := make([]byte, 512)
		n, err := manager.Read(message)
		if err != nil || !strings.HasPrefix(string(message[:n]), tt.want) {
			t.Errorf("heard %q, %v, want %q", message[:n], err, tt.want)
		}
	}
}

func TestWithoutAManagerNothingIsSaid(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Ready("x"); err != nil {
		t.Error(err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	if err := Stopping(); err == nil {
		t.Error("a manager that does not listen was not reported")
	}
}
