package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"millrace/broker/auth"
	"millrace/broker/budget"
	"millrace/broker/catalog"
	"millrace/broker/group"
	"millrace/broker/group/grouptest"
	"millrace/broker/partition"
	"millrace/broker/purgatory"
	"millrace/broker/record"
	"millrace/broker/segment"
	"millrace/broker/server"
	"millrace/broker/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	node    = 1
	other   = 2
	cluster = "MkU3OEVBNTcwNTJENDM2Qg"
)

// log is a Log in memory. Appends are durable at once unless hold is set.
type memoryLog struct {
	mu        sync.Mutex
	batches   []record.Batch
	start     int64
	high, end int64
	epoch     int32
	epochEnds map[int32]int64 // ends of earlier epochs
	hold      bool
	held      []func()
	fail      error
	readError error
	reads     int
	producers []segment.ProducerState
}

func (l *memoryLog) Producers() []segment.ProducerState { return l.producers }
func (l *memoryLog) ProducerCount() int                 { return len(l.producers) }

func (l *memoryLog) Append(p []byte, _ partition.AppendOptions, done func(partition.AppendResult)) {
	l.mu.Lock()
	if l.fail != nil {
		l.mu.Unlock()
		done(partition.AppendResult{Base: -1, Err: l.fail})
		return
	}
	b, _, err := record.Next(append([]byte(nil), p...))
	if err != nil {
		panic(err)
	}
	base := l.end
	b.Stamp(base, l.epoch)
	l.batches = append(l.batches, b)
	l.end = b.NextOffset()
	end, start := l.end, l.start
	commit := func() {
		l.mu.Lock()
		l.high = max(l.high, end)
		l.mu.Unlock()
		done(partition.AppendResult{Base: base, AppendTime: -1, Start: start})
	}
	if l.hold {
		l.held = append(l.held, commit)
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	commit()
}

// commit makes what is held durable.
func (l *memoryLog) commit() {
	l.mu.Lock()
	held := l.held
	l.held = nil
	l.mu.Unlock()
	for _, c := range held {
		c()
	}
}

type memorySpan []byte

func (s memorySpan) Len() int                          { return len(s) }
func (s memorySpan) Append(dst []byte) ([]byte, error) { return append(dst, s...), nil }
func (s memorySpan) File() (uintptr, int64, bool)      { return 0, 0, false }
func (s memorySpan) Release()                          { spans.Add(-1) }

// spans counts those that were not released.
var spans atomic.Int64

func (l *memoryLog) Read(offset int64, maxBytes int) (wire.Span, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	if l.readError != nil {
		return nil, l.readError
	}
	var p []byte
	for _, b := range l.batches {
		if b.NextOffset() <= offset || b.NextOffset() > l.high {
			continue
		}
		if len(p) > 0 && len(p)+len(b) > maxBytes {
			break
		}
		p = append(p, b...)
	}
	spans.Add(1)
	return memorySpan(p), nil
}

func (l *memoryLog) locked(f func() int64) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return f()
}

func (l *memoryLog) Start() int64 { return l.locked(func() int64 { return l.start }) }
func (l *memoryLog) High() int64  { return l.locked(func() int64 { return l.high }) }
func (l *memoryLog) End() int64   { return l.locked(func() int64 { return l.end }) }
func (l *memoryLog) Epoch() int32 { return int32(l.locked(func() int64 { return int64(l.epoch) })) }

func (l *memoryLog) Size() int64 {
	return l.locked(func() (n int64) {
		for _, b := range l.batches {
			n += int64(len(b))
		}
		return n
	})
}

func (l *memoryLog) ListOffset(ms int64) (int64, int64, int32, error) {
	switch ms {
	case timeLatest:
		return l.High(), -1, l.Epoch(), nil
	case timeEarliest:
		return l.Start(), -1, 0, nil
	case timeMax:
		return l.High() - 1, 1000, l.Epoch(), nil
	}
	if ms > 1000 {
		return -1, -1, -1, nil
	}
	return l.Start(), 1000, l.Epoch(), l.readError
}

func (l *memoryLog) EpochEnd(epoch int32) (int32, int64) {
	if epoch == l.Epoch() {
		return epoch, l.End()
	}
	best, end := int32(-1), int64(-1)
	for e, ends := range l.epochEnds {
		if e <= epoch && e > best {
			best, end = e, ends
		}
	}
	return best, end
}

func (l *memoryLog) DeleteRecords(before int64, done func(int64, error)) {
	l.mu.Lock()
	if before == -1 {
		before = l.high
	}
	if before > l.high {
		l.mu.Unlock()
		done(-1, partition.ErrOffsetOutOfRange)
		return
	}
	l.start = max(l.start, before)
	low := l.start
	l.mu.Unlock()
	go done(low, nil) // from another goroutine, as the committer does
}

// board is a broker in memory: the real catalog and purgatory, logs that are made as topics are.
type board struct {
	tb testing.TB
	*Handler
	mu     sync.Mutex
	img    *catalog.Image
	logs   map[Key]*memoryLog
	fail   error // of the next proposals
	nowMS  atomic.Int64
	waits  *purgatory.Purgatory[Key]
	config Config
	// as is who sends requests; nil: nobody in particular.
	as *auth.Session
}

func (b *board) Image() *catalog.Image {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.img
}

func (b *board) Propose(_ context.Context, c catalog.Command) (*catalog.Image, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return nil, b.fail
	}
	if err := catalog.Validate(b.img, c); err != nil {
		return nil, err
	}
	next, err := catalog.Apply(b.img, c)
	if err != nil {
		return nil, err
	}
	b.img = next
	return next, nil
}

func (b *board) Log(id catalog.TopicID, index int32) Log {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.img.TopicByID(id); t == nil || int(index) >= len(t.Partitions) {
		return nil
	}
	k := Key{Topic: id, Partition: index}
	if b.logs[k] == nil {
		b.logs[k] = &memoryLog{epoch: 0}
	}
	return b.logs[k]
}

func (b *board) Offline(catalog.TopicID, int32) bool { return false }

// open is a board of two brokers; on the way out nothing waits and no span is held.
func open(t testing.TB, change func(*Config)) *board {
	t.Helper()
	b := &board{tb: t, img: &catalog.Image{}, logs: make(map[Key]*memoryLog)}
	b.nowMS.Store(1)
	for _, id := range []int32{node, other} {
		b.do(catalog.RegisterBroker{ID: id, Host: fmt.Sprintf("board-%d", id), Port: 9092})
	}
	b.waits = purgatory.New[Key](purgatory.Config{Ops: 100, Keys: 1000, Cost: 1 << 20, NowMS: b.nowMS.Load, Wake: func(int64) {}})
	b.config = Config{
		Catalog: b, Logs: b, Waits: b.waits, ClusterID: cluster, NodeID: node, LogDir: "/data",
		Usage: func() (int64, int64, error) { return 1000, 400, nil }, NowMS: b.nowMS.Load,
		Groups: b.coordinate(),
	}
	b.config.Ensure = func(ctx context.Context, name string) error {
		c, err := catalog.NewTopic(b.Image(), name, catalog.NewTopicID(), 1, 1, nil)
		if err == nil {
			_, err = b.Propose(ctx, c)
		}
		return err
	}
	if change != nil {
		change(&b.config)
	}
	b.Handler = New(b.config)
	before := spans.Load()
	t.Cleanup(func() {
		if n := b.waits.Len(); n != 0 {
			t.Errorf("%d operations still wait", n)
		}
		if n := spans.Load() - before; n != 0 {
			t.Errorf("%d spans are held", n)
		}
	})
	return b
}

// coordinate runs a coordinator until the test ends. Its topic is in memory, and in the catalog once it is made.
func (b *board) coordinate() *group.Coordinator {
	share, err := budget.New(1<<20).Share("groups", 1<<20)
	if err != nil {
		b.tb.Fatal(err)
	}
	var ids atomic.Int64
	c := group.New(group.Config{
		Topic: offsetsTopic{&grouptest.Topic{}, b}, Memory: share, Now: time.Now, NowMS: b.nowMS.Load, Wake: func(int64) {},
		Limits: group.Limits{MinSessionMS: 6000, MaxSessionMS: 60_000, Members: 10, Offsets: 100, Groups: 10, SweepMS: 1 << 40},
		NewID:  func() string { return fmt.Sprint(ids.Add(1)) },
	})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Run(ctx)
	}()
	b.tb.Cleanup(func() {
		stop()
		<-ended
	})
	return c
}

// offsetsTopic puts the topic into the catalog when it is made.
type offsetsTopic struct {
	*grouptest.Topic
	b *board
}

func (o offsetsTopic) Ensure(ctx context.Context) error {
	c := catalog.CreateTopic{Name: group.TopicName, ID: catalog.NewTopicID(), Partitions: []catalog.PartitionState{leadBy([]int32{node})}}
	if _, err := o.b.Propose(ctx, c); err != nil {
		return err
	}
	return o.Topic.Ensure(ctx)
}

func (b *board) do(c catalog.Command) {
	b.tb.Helper()
	if _, err := b.Propose(b.tb.Context(), c); err != nil {
		b.tb.Fatal(err)
	}
}

// topic makes a topic whose partitions this board leads.
func (b *board) topic(name string, partitions int) *catalog.Topic {
	b.tb.Helper()
	states := make([]catalog.PartitionState, partitions)
	for i := range states {
		states[i] = leadBy([]int32{node})
	}
	b.do(catalog.CreateTopic{Name: name, ID: catalog.NewTopicID(), Partitions: states})
	return b.Image().Topic(name)
}

func (b *board) log(t *catalog.Topic, index int32) *memoryLog {
	return b.Log(t.ID, index).(*memoryLog)
}

// pass moves the time on.
func (b *board) pass(ms int64) { b.waits.Advance(b.nowMS.Add(ms)) }

// pending is a request on its way.
type pending struct {
	testing.TB
	header   wire.Header
	kind     kmsg.Response
	answered chan server.Answer
	cancel   func() bool
}

// begin sends a request as a client would.
func (b *board) begin(req kmsg.Request, version int16) *pending {
	b.tb.Helper()
	req.SetVersion(version)
	h := wire.Header{Key: req.Key(), Version: version, Correlation: 7}
	body, err := wire.Decode(h, req.AppendTo(nil))
	if err != nil {
		b.tb.Fatalf("%T v%d: %v", req, version, err)
	}
	p := &pending{TB: b.tb, header: h, kind: body.ResponseKind(), answered: make(chan server.Answer, 2)}
	p.cancel = b.Serve(&server.Request{
		Header: h, Body: body, Context: b.tb.Context(), Local: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9092}, Session: b.as,
	}, func(a server.Answer) { p.answered <- a })
	return p
}

// waits says that there is no answer yet.
func (p *pending) waits() {
	p.Helper()
	if len(p.answered) > 0 {
		p.Fatalf("%T is answered: %+v", p.kind, p.response())
	}
}

// raw is the answer; there must be one, and only one.
func (p *pending) raw() *wire.Response {
	p.Helper()
	select {
	case a := <-p.answered:
		if len(p.answered) > 0 {
			p.Fatal("two answers")
		}
		if a == nil {
			return nil
		}
		return a()
	default:
		p.Fatalf("%T is not answered", p.kind)
		return nil
	}
}

// response reads the answer as a client does.
func (p *pending) response() kmsg.Response {
	p.Helper()
	r := p.raw()
	if r == nil {
		p.Fatal("no answer")
	}
	defer r.Release()
	return p.read(r, p.header.Version)
}

func (p *pending) read(r *wire.Response, version int16) kmsg.Response {
	p.Helper()
	bytes, err := r.Append(nil)
	if err != nil {
		p.Fatal(err)
	}
	p.kind.SetVersion(version)
	head := 8
	if p.kind.IsFlexible() && p.header.Key != wire.KeyAPIVersions {
		head++
	}
	if err := p.kind.ReadFrom(bytes[head:]); err != nil {
		p.Fatalf("%T v%d: %v of %x", p.kind, version, err, bytes)
	}
	return p.kind
}

func ask[R kmsg.Response](b *board, req kmsg.Request, version int16) R {
	b.tb.Helper()
	return b.begin(req, version).response().(R)
}

// batch is a record batch with values.
func batch(t testing.TB, codec record.Codec, values ...string) record.Batch {
	t.Helper()
	builder := record.NewBuilder(codec)
	for i, v := range values {
		builder.Add(1000+int64(i), nil, []byte(v), nil)
	}
	b, err := builder.Build()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// versions calls test for every served version of an API.
func versions(t *testing.T, key int16, test func(t *testing.T, version int16)) {
	a, ok := wire.Lookup(key)
	if !ok {
		t.Fatalf("api %d is not served", key)
	}
	for v := a.Min; v <= a.Max; v++ {
		if a.Serves(v) {
			t.Run(fmt.Sprintf("v%d", v), func(t *testing.T) { test(t, v) })
		}
	}
}

func TestLargeAnswersWaitForRoom(t *testing.T) {
	share, err := budget.New(64<<10).Share("answers", 64<<10)
	if err != nil {
		t.Fatal(err)
	}
	b := open(t, func(c *Config) { c.Answers = share })
	b.topic("wide", 200)
	all := kmsg.NewPtrMetadataRequest()
	p := b.begin(all, 12)
	r := p.raw()
	if share.Used() == 0 {
		t.Error("a large answer takes no room")
	}
	// While it is not written, the next one waits, until the server closes.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	q := kmsg.NewPtrMetadataRequest()
	q.Version = 12
	var second *wire.Response
	b.Serve(&server.Request{Header: wire.Header{Key: 3, Version: 12}, Body: q, Context: ctx}, func(a server.Answer) { second = a() })
	if !second.Close {
		t.Error("an answer without room does not end the connection")
	}
	r.Release()
	if share.Used() != 0 {
		t.Errorf("%d bytes of room are not given back", share.Used())
	}
}

func TestUnforeseenErrorsAreUnknown(t *testing.T) {
	if got := codeOf(errors.New("?")); got != codeUnknown {
		t.Errorf("code %d", got)
	}
	if got := codeOf(fmt.Errorf("append: %w", partition.ErrTooLarge)); got != codeMessageTooLarge {
		t.Errorf("code %d", got)
	}
}
