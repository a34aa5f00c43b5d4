package broker

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sys/unix"

	"millrace/platform/config"
	"millrace/platform/health"
)

// hammer writes at a Kafka door until the test ends, or stop is called, and counts what is acknowledged.
func hammer(t *testing.T, address string) (acked *atomic.Int64, stop func()) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.DefaultProduceTopic("busy"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	acked = &atomic.Int64{}
	var writing sync.WaitGroup
	writing.Go(func() {
		for ctx.Err() == nil {
			if client.ProduceSync(ctx, &kgo.Record{Value: []byte("x")}).FirstErr() == nil {
				acked.Add(1)
			}
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		client.Close() // what may have been sent it tries again otherwise, whatever ctx says
		writing.Wait()
	})
	t.Cleanup(stop)
	return acked, stop
}

// soon waits for something of another goroutine.
func soon(t *testing.T, what string, is func() bool) {
	t.Helper()
	for began := time.Now(); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatalf("not in a minute: %s", what)
		}
	}
}

// The Kafka door is open when the MQTT door hangs. Its clients are not served by half a board, and cannot keep the watchdog
// from biting; they wait until there is a whole one.
func TestAStartThatHangsInOneDoorIsBitten(t *testing.T) {
	t.Parallel()
	dir, sockets := inMemory(t), t.TempDir()
	appendedTo := boardOn(t, nil, dir, nil)
	appendOne(t, appendedTo, "busy", "first")
	if err := appendedTo.Close(); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Open(sockets) // as another that starts here at once has it
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	kafka := openedAt(t, "tcp", "127.0.0.1:0")
	s := config.Default()
	s.Broker.LogDirs, s.Broker.ClusterAlias = dir, "test"
	s.Broker.Listeners, s.HTTP.Listener = []string{"PLAINTEXT://" + kafka.Addr().String()}, ""
	s.MQTT.Listeners = []string{"unix://" + filepath.Join(sockets, "mqtt")}
	d := newDog(t, 300*time.Millisecond)
	var b *Broker
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		b, err = Open(t.Context(), Config{
			Settings: s, Watchdogs: []health.Watchdog{d}, still: 500 * time.Millisecond, Sockets: []net.Listener{kafka},
		})
	}()
	acked, stop := hammer(t, kafka.Addr().String())
	soon(t, "a bite", func() bool { return d.bites.Load() > 0 })
	if n := acked.Load(); n > 0 {
		t.Errorf("%d records were taken by a board that is not whole", n)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	<-opened
	if err != nil {
		t.Fatal(err)
	}
	soon(t, "who has waited is served", func() bool { return acked.Load() > 0 })
	stop()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// A door that does not close keeps the others from nothing: they are closed too, so that no client's writes pass for
// progress.
func TestAStopThatHangsInOneDoorIsBitten(t *testing.T) {
	l := newLife(t, nil)
	appendOne(t, l.b, "busy", "first")
	hang := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(hang) })
	t.Cleanup(goOn) // before that of newLife
	mqtt := l.b.doors[1]
	begin := mqtt.begin
	mqtt.begin = sync.OnceFunc(func() {
		go func() {
			<-hang
			begin()
		}()
	})
	acked, _ := hammer(t, l.b.Addresses().Kafka[0])
	soon(t, "clients are served", func() bool { return acked.Load() > 0 })
	if l.dog.bites.Load() > 0 {
		t.Fatal("bitten before the stop")
	}
	closed := make(chan error, 1)
	go func() { closed <- l.b.Close() }()
	soon(t, "a bite", func() bool { return l.dog.bites.Load() > 0 })
	if err := l.b.vitals.Check(); err == nil || !strings.Contains(err.Error(), "the stop") {
		t.Errorf("bitten for %v", err)
	}
	goOn()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}
