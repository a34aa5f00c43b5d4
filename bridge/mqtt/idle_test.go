package mqtt_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"millrace/bridge/mqtt"
	"millrace/bridge/mqtt/mqtttest"
	"millrace/bridge/mqtt/packet"
)

// BenchmarkIdleClient measures what one idle client with two subscriptions costs the process: RSS, heap and stacks.
// The clients live in another process, so that their own memory does not count.
func BenchmarkIdleClient(b *testing.B) {
	const clients = 2000
	for b.Loop() {
		_, address := serve(b, mqtt.Config{Log: &mqtttest.Log{}, MaxConnections: clients})
		before := rss(b)
		cmd := exec.Command(os.Args[0], "-test.run=^TestIdleClients$")
		cmd.Env = append(os.Environ(), "MILLRACE_IDLE_CLIENTS="+strconv.Itoa(clients), "MILLRACE_IDLE_ADDRESS="+address)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			b.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		if _, err := stdout.Read(make([]byte, 1)); err != nil {
			b.Fatal(err)
		}
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(rss(b)-before)/clients, "RSS-B/client")
		b.ReportMetric(float64(m.HeapInuse)/clients, "heap-B/client")
		b.ReportMetric(float64(m.StackInuse)/clients, "stack-B/client")
		if err := stdin.Close(); err != nil {
			b.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			b.Fatal(err)
		}
	}
}

func rss(b *testing.B) int64 {
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Skip(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		b.Fatal(err)
	}
	return kib << 10
}

// TestIdleClients is the benchmark's other process.
func TestIdleClients(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("MILLRACE_IDLE_CLIENTS"))
	if err != nil {
		t.Skip("only the benchmark's helper")
	}
	for i := range n {
		conn, err := net.Dial("tcp", os.Getenv("MILLRACE_IDLE_ADDRESS"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		id := fmt.Sprint("device-", i)
		p := (&packet.Connect{Version: packet.V5, ClientID: id, CleanStart: true, KeepAlive: 600}).Append(nil, packet.V5)
		p = (&packet.Subscribe{ID: 1, Filters: []packet.Subscription{{Filter: "cmd/" + id + "/#"}, {Filter: "all/+"}}}).Append(p, packet.V5)
		if _, err := conn.Write(p); err != nil {
			t.Fatal(err)
		}
		var buf []byte
		for packets := 0; packets < 2; {
			tmp := make([]byte, 256)
			k, err := conn.Read(tmp)
			if err != nil {
				t.Fatal(err)
			}
			buf = append(buf, tmp[:k]...)
			packets = 0
			for rest := buf; ; packets++ {
				size, err := packet.Frame(rest)
				if err != nil {
					t.Fatal(err)
				}
				if size == 0 || size > len(rest) {
					break
				}
				rest = rest[size:]
			}
		}
	}
	fmt.Println("ready")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkPublish is the door's own cost of a QoS 1 publish, without a disk.
func BenchmarkPublish(b *testing.B) {
	_, address := serve(b, mqtt.Config{Log: &mqtttest.Log{}})
	conn, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	hello := (&packet.Connect{Version: packet.V5, ClientID: "bench", CleanStart: true}).Append(nil, packet.V5)
	if _, err := conn.Write(hello); err != nil {
		b.Fatal(err)
	}
	tmp := make([]byte, 64<<10)
	if _, err := conn.Read(tmp); err != nil {
		b.Fatal(err)
	}
	var window []byte
	const n = 32
	for i := range n {
		window = pub("sensors/north/3/temp", strings.Repeat("x", 128), 1, uint16(i+1)).Append(window, packet.V5)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%n != 0 {
			continue
		}
		if _, err := conn.Write(window); err != nil {
			b.Fatal(err)
		}
		for got := 0; got < 4*n; {
			k, err := conn.Read(tmp)
			if err != nil {
				b.Fatal(err)
			}
			got += k
		}
	}
}
