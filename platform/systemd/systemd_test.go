package systemd

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
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

func TestTheManagersWatchdogIsFed(t *testing.T) {
	addr := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"}
	manager, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	if w, err := NewWatchdog(); w != nil || err != nil {
		t.Errorf("nobody waits, and there is %v, %v", w, err)
	}
	(*Watchdog)(nil).Settled(true)
	t.Setenv("WATCHDOG_USEC", "20000000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	if w, err := NewWatchdog(); w != nil || err != nil {
		t.Errorf("there is nobody to tell, and there is %v, %v", w, err)
	}
	t.Setenv("NOTIFY_SOCKET", addr.Name)
	w, err := NewWatchdog()
	if err != nil || w == nil || w.Timeout() != 20*time.Second {
		t.Fatalf("%v, %v", w, err)
	}
	for settled, want := range []string{"WATCHDOG=1\nEXTEND_TIMEOUT_USEC=20000000", "WATCHDOG=1"} {
		w.Settled(settled > 0)
		if err := w.Feed(); err != nil {
			t.Fatal(err)
		}
		message := make([]byte, 512)
		n, err := manager.Read(message)
		if err != nil || string(message[:n]) != want {
			t.Errorf("heard %q, %v, want %q", message[:n], err, want)
		}
	}
	t.Setenv("WATCHDOG_PID", "1")
	if w, err := NewWatchdog(); w != nil || err != nil {
		t.Errorf("another process is waited for, and there is %v, %v", w, err)
	}
	t.Setenv("WATCHDOG_PID", "")
	t.Setenv("WATCHDOG_USEC", "soon")
	if _, err := NewWatchdog(); err == nil {
		t.Error("WATCHDOG_USEC=soon was taken")
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

// The manager hands in descriptors from 3 on, and says so in the environment of the process it means.
func TestSocketsOfTheManager(t *testing.T) {
	if os.Getenv("LISTEN_FDS") != "" {
		handed, err := HandedIn()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range handed.Sockets {
			fmt.Println("socket", l.Addr().Network(), l.Addr())
		}
		if handed.Console != nil {
			fmt.Fprintln(handed.Console, "shown")
		}
		if again, err := HandedIn(); err != nil || len(again.Sockets) != 0 || again.Console != nil {
			t.Errorf("asked again: %v, %v", again, err)
		}
		return
	}
	if handed, err := HandedIn(); err != nil || len(handed.Sockets) != 0 || handed.Console != nil {
		t.Errorf("by hand: %v, %v", handed, err)
	}
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	unix, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	datagram, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer datagram.Close()
	console, err := os.OpenFile(filepath.Join(t.TempDir(), "console"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	run := func(sockets ...interface{ File() (*os.File, error) }) (string, error) {
		child := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" -test.run TestSocketsOfTheManager`, os.Args[0])
		for _, s := range sockets {
			f, err := s.File()
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			child.ExtraFiles = append(child.ExtraFiles, f)
		}
		child.ExtraFiles = append(child.ExtraFiles, console)
		child.Env = append(os.Environ(), fmt.Sprint("LISTEN_FDS=", len(sockets)+1), "LISTEN_FDNAMES="+strings.Repeat("millrace.socket:", len(sockets))+"console")
		out, err := child.CombinedOutput()
		return string(out), err
	}
	out, err := run(tcp, unix)
	want := fmt.Sprintf("socket tcp %s\nsocket unix %s\n", tcp.Addr(), unix.Addr())
	if err != nil || !strings.HasPrefix(out, want) {
		t.Errorf("%v\n%s\nwant %s", err, out, want)
	}
	if said, err := os.ReadFile(console.Name()); err != nil || string(said) != "shown\n" {
		t.Errorf("the console got %q, %v", said, err)
	}
	if out, err = run(datagram); err == nil || !strings.Contains(out, "ListenStream") {
		t.Errorf("a datagram socket was taken: %s", out)
	}
}
