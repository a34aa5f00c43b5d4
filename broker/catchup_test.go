package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/bridge/mqtt/packet"
	"millrace/bridge/route"
	"millrace/broker/disk"
	"millrace/broker/partition"
	"millrace/broker/record"
)

// readCounter is a disk that counts what is read of the partition that MQTT publishes go to by default.
type readCounter struct {
	disk.OS
	log, index atomic.Int64 // bytes

	mu    sync.Mutex
	pages map[string]map[int64]struct{} // of the log, by file: what a card would be asked for, the kernel has the rest
}

// distinct is how many bytes of the log lie in pages that were read.
func (c *readCounter) distinct() (n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, pages := range c.pages {
		n += int64(len(pages)) * pageSize
	}
	return n
}

func (c *readCounter) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pages = make(map[string]map[int64]struct{})
	c.log.Store(0)
	c.index.Store(0)
}

const pageSize = 4 << 10

type countedFile struct {
	disk.File
	c *readCounter
	n *atomic.Int64
}

func (f countedFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	f.n.Add(int64(n))
	if f.n == &f.c.log {
		f.c.mu.Lock()
		defer f.c.mu.Unlock()
		pages := f.c.pages[f.Name()]
		if pages == nil {
			pages = make(map[int64]struct{})
			f.c.pages[f.Name()] = pages
		}
		for at := off / pageSize; at*pageSize < off+int64(n); at++ {
			pages[at] = struct{}{}
		}
	}
	return n, err
}

func (c *readCounter) OpenFile(name string, flag int, perm os.FileMode) (disk.File, error) {
	f, err := c.OS.OpenFile(name, flag, perm)
	if err != nil || filepath.Base(filepath.Dir(name)) != route.DefaultTopic+"-0" {
		return f, err
	}
	n := &c.index
	if strings.HasSuffix(name, ".log") {
		n = &c.log
	}
	return countedFile{f, c, n}, nil
}

// A hundred sessions of one topic each come back behind a GiB of what others have published. They read a small part of it.
func TestSessionsFarBehindReadWhatIsTheirs(t *testing.T) {
	if testing.Short() {
		t.Skip("writes a GiB")
	}
	const sessions, messages, backlog = 100, 2, 1 << 30
	dir := t.TempDir()
	fs := new(readCounter)
	fs.reset()
	b := boardOn(t, fs, dir, nil)
	topic := func(i int) string { return fmt.Sprintf("plant/quiet-%d/state", i) }
	come := func(b *Broker, i int) *mqttPeer {
		p := dialMQTTAs(t, b, &packet.Connect{Version: packet.V311, ClientID: fmt.Sprint("s", i)})
		return p
	}
	for i := range sessions {
		p := come(b, i)
		p.send(&packet.Subscribe{ID: 1, Filters: []packet.Subscription{{Filter: topic(i), QoS: 1}}})
		if ack, ok := p.next().(*packet.Suback); !ok || ack.Reasons[0] != 1 {
			t.Fatalf("SUBACK is %+v", ack)
		}
		p.send(&packet.Disconnect{})
		if end := p.next(); end != nil {
			t.Fatalf("instead of the end of the connection came %+v", end)
		}
	}
	if _, err := b.Ensure(t.Context(), route.DefaultTopic); err != nil {
		t.Fatal(err)
	}
	write := fill(t, b)
	value := make([]byte, 600)
	recs := make([]record.Record, 0, 32)
	wrote, device, quiet := 0, 0, 0
	for wrote < backlog {
		for recs = recs[:0]; len(recs) < 30; device++ {
			recs = append(recs, published(fmt.Sprintf("plant/device-%d/temperature", device%1000), value))
			wrote += len(value) + 100
		}
		if wrote >= quiet*(backlog/(sessions*messages)) && quiet < sessions*messages {
			recs = append(recs, published(topic(quiet%sessions), []byte(fmt.Sprint(quiet/sessions))))
			quiet++
		}
		write(recs)
	}
	write(nil)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	var logs, indexes int64
	for suffix, n := range map[string]*int64{".log": &logs, ".topicindex": &indexes} {
		files, err := filepath.Glob(filepath.Join(dir, "topics", route.DefaultTopic+"-0", "*"+suffix))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				t.Fatal(err)
			}
			*n += info.Size()
		}
	}

	b = boardOn(t, fs, dir, nil)
	fs.reset()
	begin := time.Now()
	var all sync.WaitGroup
	peers := make([]*mqttPeer, sessions)
	for i := range peers {
		peers[i] = come(b, i)
	}
	for i, p := range peers {
		all.Go(func() {
			for n := range messages {
				m, ok := p.next().(*packet.Publish)
				if !ok || m.Topic != topic(i) || string(m.Payload) != fmt.Sprint(n) {
					t.Errorf("session %d: message %d is %+v", i, n, m)
					return
				}
			}
		})
	}
	all.Wait()
	took := time.Since(begin)
	t.Logf("%v for a log of %d MiB and an index of %d KiB (%.2f %%); read %.1f MiB of the log, with what was read again %.1f, and %d KiB of the index",
		took.Round(time.Millisecond), logs>>20, indexes>>10, 100*float64(indexes)/float64(logs), float64(fs.distinct())/(1<<20),
		float64(fs.log.Load())/(1<<20), fs.index.Load()>>10)
	// A batch is read to be checked and again to be served: the second time the kernel has it.
	if once, all := fs.distinct(), fs.log.Load(); once > 64<<20 || all > 96<<20 {
		t.Errorf("%d MiB of the log were read, and %d with what was read again; want 64 and 96 at most", once>>20, all>>20)
	}
	if took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

// published is a record as the MQTT door makes one.
func published(topic string, value []byte) record.Record {
	return record.Record{Key: []byte(topic), Value: value, Headers: []record.Header{
		{Key: "mqtt.topic", Value: []byte(topic)}, {Key: "mqtt.client", Value: []byte("device")}, {Key: "mqtt.qos", Value: []byte("1")},
	}}
}

// fill appends to the partition that MQTT publishes go to by default, 32 calls at a time; nil waits for all of them.
func fill(t *testing.T, b *Broker) (write func([]record.Record)) {
	t.Helper()
	ps, ok := b.Topic(route.DefaultTopic)
	if !ok || len(ps) != 1 {
		t.Fatalf("%d partitions", len(ps))
	}
	room := make(chan struct{}, 32)
	return func(recs []record.Record) {
		if recs == nil {
			for range cap(room) {
				room <- struct{}{}
			}
			return
		}
		room <- struct{}{}
		ps[0].AppendRecords(recs, partition.AppendOptions{Epoch: -1}, func(r partition.AppendResult) {
			if r.Err != nil {
				t.Error(r.Err)
			}
			<-room
		})
	}
}
