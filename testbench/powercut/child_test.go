package powercut

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/broker"
	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/journal"
	"millrace/broker/partition"
	"millrace/broker/record"
)

// childEnv makes this program the board under test: a process of its own, that knows nothing of who watches its disk.
const childEnv = "MILLRACE_POWERCUT_CHILD"

// markName is the file of the mount that a child writes its promises to.
const markName = ".mark"

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		if err := runChild(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0) // as the power goes: nothing is closed
	}
	os.Exit(m.Run())
}

// childConfig says what a child does.
type childConfig struct {
	Mount   string
	Seed    uint64
	Session int
	Skip    disk.Point
	Steps   int
	// The disk fails now and then, from the first step on or from the start.
	Faults, FaultsEarly bool
}

// child is a board on a disk that is watched, and its workload. It tells every promise before anybody could rely on it,
// and everything it asks for before it does.
type child struct {
	cfg      childConfig
	rng      *rand.Rand
	mark     *os.File
	board    *board
	topics   []*childTopic
	builder  *record.Builder
	nextID   uint64 // of a record; the session is in the upper half
	answered sync.WaitGroup

	mu      sync.Mutex
	now     time.Time
	failure error
}

type childTopic struct {
	id        catalog.TopicID
	name      string
	parts     int32
	producers map[int32]*producer // by partition
}

// producer is an idempotent one. After a refusal nobody goes on with its sequence: the next batch is another's.
type producer struct {
	id       int64
	sequence int32
}

func runChild(text string) error {
	c := &child{builder: record.NewBuilder(record.None)}
	if err := json.Unmarshal([]byte(text), &c.cfg); err != nil {
		return err
	}
	c.rng = rand.New(rand.NewPCG(c.cfg.Seed, uint64(c.cfg.Session)))
	c.now = time.Date(2026, 11, 22, 12+c.cfg.Session, 0, 0, 0, time.UTC)
	c.nextID = uint64(c.cfg.Session+1) << 32
	var err error
	if c.mark, err = os.OpenFile(filepath.Join(c.cfg.Mount, markName), os.O_WRONLY, 0); err != nil {
		return err
	}
	fs := disktest.New(disk.OS{})
	if c.cfg.Skip != "" {
		fs.Skip(c.cfg.Skip)
	}
	if c.cfg.FaultsEarly {
		c.tell(event{Kind: evFaults})
	}
	c.board, err = openBoard(fs, filepath.Join(c.cfg.Mount, dataName), c.clock, func(m broker.Meta) {
		c.tell(event{Kind: evFormatted, Name: m.ClusterID})
	})
	if err != nil {
		if c.cfg.FaultsEarly {
			return nil
		}
		return fmt.Errorf("does not start: %w", err)
	}
	if err := c.begin(); err != nil {
		return err
	}
	for range c.cfg.Steps {
		if err := errors.Join(c.step(), c.failed()); err != nil {
			return err
		}
	}
	if c.rng.IntN(3) > 0 {
		return c.failed()
	}
	closed := c.surprise("close", c.board.close())
	c.answered.Wait()
	return errors.Join(closed, c.failed())
}

const dataName = "data"

// begin tells what the start has brought back.
func (c *child) begin() error {
	found, err := c.board.survey()
	if err != nil {
		return c.surpriseEarly(err)
	}
	c.tell(event{Kind: evFound, Found: found})
	for _, t := range found.Topics {
		c.topics = append(c.topics, &childTopic{id: t.ID, name: t.Name, parts: int32(len(t.Parts)), producers: make(map[int32]*producer)})
	}
	if c.cfg.Faults {
		c.tell(event{Kind: evFaults})
	}
	return nil
}

func (c *child) surpriseEarly(err error) error {
	if c.cfg.FaultsEarly {
		return nil
	}
	return err
}

// tell puts an event into the log.
func (c *child) tell(e event) {
	text, err := json.Marshal(e)
	if err == nil {
		_, err = c.mark.Write(text)
	}
	if err != nil {
		c.fail(err)
	}
}

func (c *child) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failure = errors.Join(c.failure, err)
}

func (c *child) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failure
}

func (c *child) clock() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// surprise is err unless the disk was told to fail.
func (c *child) surprise(what string, err error) error {
	if err == nil || c.cfg.Faults || c.cfg.FaultsEarly {
		return nil
	}
	return fmt.Errorf("%s refused for no reason: %w", what, err)
}

func (c *child) step() error {
	c.mu.Lock()
	c.now = c.now.Add(time.Second)
	c.mu.Unlock()
	n := c.rng.IntN(100)
	switch {
	case len(c.topics) == 0 || n < 4 && len(c.topics) < 4:
		return c.create()
	case n < 34:
		return c.append(1+c.rng.IntN(4), 20+c.rng.IntN(300))
	case n < 46: // pointed
		return c.append(1+c.rng.IntN(6), 2000+c.rng.IntN(4000))
	case n < 60:
		return c.appendRecords()
	case n < 66:
		return c.serve()
	case n < 73:
		c.answered.Wait()
		return nil
	case n < 76:
		return c.deleteRecords()
	case n < 79:
		return c.retain()
	case n < 82:
		return c.truncate()
	case n < 84 && len(c.topics) > 1:
		return c.delete()
	case n < 93:
		return c.alter()
	case n < 95:
		return c.lead()
	case n < 96:
		return c.compact()
	case n < 98:
		c.board.store.Tick(c.clock().UnixMilli()) // what is offline is tried again, beside what comes next
		return nil
	}
	err := c.board.store.Checkpoint()
	if err == nil {
		c.tell(event{Kind: evCheckpoint})
	}
	return c.surprise("checkpoint", err)
}

// pick is any partition, nil for one that is offline.
func (c *child) pick() (*childTopic, *partition.Partition) {
	t := c.topics[c.rng.IntN(len(c.topics))]
	return t, c.board.store.Get(t.id, int32(c.rng.IntN(int(t.parts))))
}

func (c *child) create() error {
	name := fmt.Sprintf("topic%d", c.rng.IntN(5)) // names come back, ids do not
	n := 1 + c.rng.IntN(2)
	var id catalog.TopicID
	for i := range id {
		id[i] = byte(c.rng.Uint32())
	}
	image := c.board.quorum.Image()
	if image.Topic(name) != nil {
		return nil
	}
	cmd, err := catalog.NewTopic(image, name, id, n, 1, nil)
	if err != nil {
		return err
	}
	t := &childTopic{id: cmd.ID, name: name, parts: int32(n), producers: make(map[int32]*producer)}
	c.tell(event{Kind: evCreate, Topic: t.id, Name: name, N: n})
	if _, err := c.board.quorum.Propose(context.Background(), cmd); err != nil {
		return c.surprise("create", err)
	}
	c.tell(event{Kind: evCreated, Topic: t.id})
	for i := range t.parts {
		if _, err := c.board.store.Create(partition.Topic{ID: t.id, Name: name}, i, configOf(name)); err != nil {
			return c.surprise("create", err)
		}
	}
	c.topics = append(c.topics, t)
	return nil
}

func (c *child) delete() error {
	c.answered.Wait()
	i := c.rng.IntN(len(c.topics))
	t := c.topics[i]
	c.tell(event{Kind: evDelete, Topic: t.id})
	_, err := c.board.quorum.Propose(context.Background(), catalog.DeleteTopic{Topic: t.id})
	if err == nil {
		err = c.board.store.DeleteTopic(t.id)
	}
	c.topics = append(c.topics[:i], c.topics[i+1:]...)
	if err == nil {
		c.tell(event{Kind: evDeleted, Topic: t.id})
	}
	return c.surprise("delete", err)
}

// alter changes a setting; another, with a long name, that is reset and never was set makes the command large, so that the
// catalog's log rolls and is snapshotted.
func (c *child) alter() error {
	t := c.topics[c.rng.IntN(len(c.topics))]
	for range 1 + c.rng.IntN(6) {
		value := 1 + c.rng.IntN(1_000_000)
		c.tell(event{Kind: evAlter, Topic: t.id, Value: value})
		_, err := c.board.quorum.Propose(context.Background(), catalog.AlterTopicConfig{
			Topic: t.id, Ops: []catalog.ConfigOp{
				{Name: setting, Value: fmt.Sprint(value)},
				{Name: strings.Repeat("x", 1+c.rng.IntN(7000)), Op: catalog.OpDelete},
			},
		})
		if err != nil {
			return c.surprise("alter", err)
		}
		c.tell(event{Kind: evAltered, Topic: t.id, Value: value})
	}
	return nil
}

// lead begins a new leader epoch.
func (c *child) lead() error {
	_, p := c.pick()
	if p == nil {
		return nil
	}
	return c.surprise("lead", p.SetLeader(p.Epoch()+1, true))
}

func (c *child) append(n, size int) error {
	t, p := c.pick()
	if p == nil {
		return nil
	}
	e, recs := c.records(p, n, size)
	var with *producer
	if c.rng.IntN(3) == 0 {
		c.answered.Wait() // one batch of a producer at a time
		if with = t.producers[p.Index()]; with == nil {
			with = &producer{id: int64(e.First)}
			t.producers[p.Index()] = with
		}
		e.Producer, e.Sequence = with.id, with.sequence
		with.sequence += int32(n)
	}
	b, err := batch(c.builder, recs, e)
	if err != nil {
		return err
	}
	c.tell(e)
	p.Append(b, partition.AppendOptions{Epoch: -1}, c.answer(t, e))
	return nil
}

func (c *child) appendRecords() error {
	t, p := c.pick()
	if p == nil {
		return nil
	}
	e, recs := c.records(p, 1+c.rng.IntN(3), 20+c.rng.IntN(200))
	c.tell(e)
	p.AppendRecords(recs, partition.AppendOptions{Epoch: -1}, c.answer(t, e))
	return nil
}

// answer is the done of an append.
func (c *child) answer(t *childTopic, e event) func(partition.AppendResult) {
	c.answered.Add(1)
	return func(r partition.AppendResult) {
		defer c.answered.Done()
		if r.Err == nil {
			e.Kind, e.At = evAcked, r.Base
			c.tell(e)
			return
		}
		e.Kind, e.Doubt, e.Mended = evRefused, errors.Is(r.Err, journal.ErrUnavailable), errors.Is(r.Err, journal.ErrWrite)
		c.tell(e)
		c.mu.Lock()
		delete(t.producers, e.Part)
		c.mu.Unlock()
		if err := c.surprise("append", r.Err); err != nil {
			c.fail(err)
		}
	}
}

func (c *child) serve() error {
	_, p := c.pick()
	if p == nil || p.Config().CleanupCompact { // the promise there is the last of every key

		return nil
	}
	from, high := p.Start(), p.High()
	if high > from {
		from += c.rng.Int64N(high - from)
	}
	log, err := readPartition(p, from, high)
	if err != nil {
		if errors.Is(err, partition.ErrOffsetOutOfRange) && p.Start() > from {
			return nil // records were deleted meanwhile
		}
		return c.surprise("read", err)
	}
	e := event{Kind: evServed, Topic: p.TopicID(), Part: p.Index(), At: from}
	for _, r := range log.records {
		e.IDs = append(e.IDs, r.id)
	}
	c.tell(e)
	return nil
}

func (c *child) deleteRecords() error {
	_, p := c.pick()
	if p == nil {
		return nil
	}
	start, high := p.Start(), p.High()
	e := event{Kind: evMoveStart, Topic: p.TopicID(), Part: p.Index(), At: start + c.rng.Int64N(high-start+1)}
	c.tell(e)
	c.answered.Add(1)
	p.DeleteRecords(e.At, func(low int64, err error) {
		defer c.answered.Done()
		if err == nil {
			e.Kind, e.At = evStartMoved, low
			c.tell(e)
		}
	})
	return nil
}

func (c *child) retain() error {
	_, p := c.pick()
	if p == nil {
		return nil
	}
	e := event{Kind: evMoveStart, Topic: p.TopicID(), Part: p.Index(), At: p.High()}
	c.tell(e)
	kept, err := p.Retain(c.clock().UnixMilli())
	if err != nil {
		return c.surprise("retention", err)
	}
	e.Kind, e.At = evStartMoved, kept.To
	c.tell(e)
	return nil
}

func (c *child) truncate() error {
	_, p := c.pick()
	if p == nil || p.Config().CleanupCompact { // what a compaction has taken, a cut would bring back
		return nil
	}
	c.answered.Wait() // what is on its way has no known place
	start, high := p.Start(), p.High()
	if high == start {
		return nil
	}
	// A batch goes whole, so it is cut at the beginning of one.
	span, err := p.Read(start+c.rng.Int64N(high-start), 1)
	if err != nil {
		return c.surprise("read", err)
	}
	bytes, err := span.Append(nil)
	span.Release()
	if err != nil {
		return c.surprise("read", err)
	}
	b, _, err := record.Next(bytes)
	if err != nil {
		return c.surprise("read", err)
	}
	e := event{Kind: evTruncate, Topic: p.TopicID(), Part: p.Index(), At: b.BaseOffset()}
	if e.At < start {
		return nil
	}
	c.tell(e)
	if e.At, err = p.Truncate(e.At); err != nil {
		return c.surprise("truncate", err)
	}
	e.Kind = evTruncated
	c.tell(e)
	for _, t := range c.topics {
		if t.id == e.Topic {
			c.mu.Lock()
			delete(t.producers, e.Part) // its sequence has gone back
			c.mu.Unlock()
		}
	}
	return nil
}
