package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"millrace/bridge/mqtt/packet"
	"millrace/testbench/procfs"
	"millrace/testbench/swarm"
)

// loadArgs are what the child that is a crowd of MQTT clients is told. All publish and subscribe with QoS 1.
type loadArgs struct {
	Address string
	PID     int    // of the server, whose CPU and memory are read
	Name    string // client identifiers begin with it; new for each run
	Version packet.Version
	// Publisher i publishes to Topic/i%Groups/i, Payload bytes at a time.
	Publishers, Groups int
	Topic              string
	Payload            int
	// Rate is how many messages a second they publish together, 0: as many as are acknowledged, each publisher keeping
	// Window of them on their way.
	Rate, Window int
	// Subscriber i subscribes to Topic/i%Groups/#, or all of them to $share/bench/Topic/# where Share is set and the
	// server says that it has shared subscriptions.
	Subscribers int
	Share       bool
	Seconds     float64 // measured; a quarter more before that warms up
}

// loadResult is what it found.
type loadResult struct {
	Shared    bool
	Connects  float64 // a second, subscriptions included
	Published float64 // acknowledged messages a second
	Delivered float64 // messages a second, all subscribers together
	CPU       float64 // s of the server for a million of Published, or of Delivered where there are subscribers
	AckP50    float64 // ms from PUBLISH to PUBACK
	AckP99    float64
	P50, P99  float64 // ms from when a message was due to be sent until a subscriber had it; with Rate only
	Peak      int64   // bytes of the server's memory, looked at every 100 ms from the first connection on
	After     int64   // the same when all were connected
	Missing   int64   // messages that were acknowledged and had not reached their subscribers 30 s after the last
	Opening   float64 // CPU-ms of the server for each connection
}

const (
	opening      = 64 // connections that are being made at a time
	samplesMax   = 1 << 20
	stampSize    = 16 // when a message was due, and which of its publisher's it is
	loadPatience = 2 * time.Minute
)

// crowd is the clients of one run.
type crowd struct {
	loadArgs
	*swarm.Swarm
	result  loadResult
	begin   time.Time // what stamps count from
	pubs    []*loadPublisher
	waiting int // of CONNACK or SUBACK
	ready   int
	looked  time.Time // at the server's memory
	// Counters of the whole run.
	sent, acked, delivered int64
	measuring, stopped     bool
	ack, through           []time.Duration
}

type loadPublisher struct {
	*swarm.Client
	message  *swarm.Publish
	id       uint16
	inflight int
	count    uint64
	due      []time.Duration // with a rate: messages that had to wait for room in the window
	sent     []time.Duration // when, by id modulo its length
}

func childLoad(in []byte) (result any, err error) {
	a := loadArgs{Version: packet.V311, Groups: 1, Window: 1}
	if err := json.Unmarshal(in, &a); err != nil {
		return nil, err
	}
	s, err := swarm.New()
	if err != nil {
		return nil, err
	}
	c := &crowd{loadArgs: a, Swarm: s, begin: time.Now()}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := c.connect(); err != nil {
		return nil, fmt.Errorf("%d of %d clients are connected: %w", c.ready, a.Publishers+a.Subscribers, err)
	}
	if a.Seconds > 0 && a.Publishers > 0 {
		if err := c.load(); err != nil {
			return nil, err
		}
	}
	return c.result, nil
}

func (c *crowd) now() time.Duration { return time.Since(c.begin) }

// look reads the server's memory when it is time.
func (c *crowd) look() error {
	if time.Since(c.looked) < 100*time.Millisecond {
		return nil
	}
	c.looked = time.Now()
	n, err := procfs.PID(c.PID).RSS()
	c.result.Peak = max(c.result.Peak, n)
	return err
}

// connect connects all, subscribers first, so many at a time.
func (c *crowd) connect() error {
	all := c.Subscribers + c.Publishers
	before, err := procfs.PID(c.PID).CPU()
	if err != nil {
		return err
	}
	begin, limit := time.Now(), time.Now().Add(loadPatience)
	for n := 0; c.ready < all; {
		for ; n < all && c.waiting < opening; n++ {
			if err := c.open(n); err != nil {
				return err
			}
		}
		if err := errors.Join(c.Turn(time.Now().Add(10*time.Millisecond)), c.look()); err != nil {
			return err
		}
		if time.Now().After(limit) {
			return fmt.Errorf("it takes longer than %v", loadPatience)
		}
	}
	c.result.Connects = float64(all) / time.Since(begin).Seconds()
	after, err := procfs.PID(c.PID).CPU()
	c.result.Opening = (after - before).Seconds() * 1e3 / float64(all)
	if err != nil {
		return err
	}
	c.result.After, err = procfs.PID(c.PID).RSS()
	return err
}

// open connects client n: a subscriber, or a publisher.
func (c *crowd) open(n int) error {
	cl, err := c.Dial(c.Address)
	if err != nil {
		return err
	}
	c.waiting++
	cl.Append(&packet.Connect{Version: c.Version, CleanStart: true, KeepAlive: 300, ClientID: fmt.Sprint(c.Name, n)}, c.Version)
	cl.Take = func(p []byte) error {
		got, err := packet.Decode(p, c.Version, packet.Limits{})
		if err != nil {
			return err
		}
		ack, ok := got.(*packet.Connack)
		switch {
		case !ok || ack.Reason.Failed():
			return fmt.Errorf("CONNECT is answered %+v", got)
		case n < c.Subscribers:
			c.subscribe(cl, n, ack)
		default:
			c.pubs = append(c.pubs, c.publisher(cl, n-c.Subscribers))
			c.waiting--
			c.ready++
		}
		return nil
	}
	return nil
}

func (c *crowd) subscribe(cl *swarm.Client, n int, ack *packet.Connack) {
	filter := fmt.Sprintf("%s/%d/#", c.Topic, n%c.Groups)
	// A server that does not say that it has no shared subscriptions has them (3.2.2.3.13).
	has := c.Version == packet.V5 && (!ack.Properties.Has(packet.SharedAvailable) || ack.Properties.SharedAvailable == 1)
	if c.Share && has {
		c.result.Shared, filter = true, "$share/bench/"+c.Topic+"/#"
	}
	cl.Append(&packet.Subscribe{ID: 1, Filters: []packet.Subscription{{Filter: filter, QoS: 1}}}, c.Version)
	cl.Take = func(p []byte) error {
		got, err := packet.Decode(p, c.Version, packet.Limits{})
		if err != nil {
			return err
		}
		if ack, ok := got.(*packet.Suback); !ok || len(ack.Reasons) != 1 || ack.Reasons[0] != 1 {
			return fmt.Errorf("SUBSCRIBE is answered %+v", got)
		}
		cl.Take = func(p []byte) error { return c.take(cl, p) }
		c.waiting--
		c.ready++
		return nil
	}
}

// take is a subscriber's: it acknowledges what it gets and notes how long it took.
func (c *crowd) take(cl *swarm.Client, p []byte) error {
	if packet.Type(p[0]>>4) != packet.PUBLISH {
		return fmt.Errorf("a subscriber is sent %v", packet.Type(p[0]>>4))
	}
	r, err := swarm.Read(p, c.Version)
	if err != nil {
		return err
	}
	if r.QoS > 0 {
		cl.Puback(r.ID)
	}
	if c.delivered++; c.measuring && c.Rate > 0 && len(r.Payload) >= stampSize && len(c.through) < samplesMax {
		c.through = append(c.through, c.now()-time.Duration(binary.BigEndian.Uint64(r.Payload)))
	}
	return nil
}

func (c *crowd) publisher(cl *swarm.Client, n int) *loadPublisher {
	p := &loadPublisher{
		Client: cl, sent: make([]time.Duration, c.Window),
		message: swarm.NewPublish(c.Version, fmt.Sprintf("%s/%d/%d", c.Topic, n%c.Groups, n), max(c.Payload, stampSize)),
	}
	cl.Take = func(raw []byte) error {
		if packet.Type(raw[0]>>4) != packet.PUBACK {
			return fmt.Errorf("a publisher is sent %v", packet.Type(raw[0]>>4))
		}
		id, reason, err := swarm.Acked(raw)
		if err == nil && reason.Failed() {
			err = fmt.Errorf("a publish is refused: %#x", byte(reason))
		}
		if err != nil {
			return err
		}
		p.inflight--
		if c.acked++; c.measuring && len(c.ack) < samplesMax {
			c.ack = append(c.ack, c.now()-p.sent[int(id)%len(p.sent)])
		}
		if len(p.due) > 0 {
			c.publish(p, p.due[0])
			p.due = p.due[1:]
		} else if c.Rate == 0 && !c.stopped {
			c.publish(p, c.now())
		}
		return nil
	}
	return p
}

func (c *crowd) publish(p *loadPublisher, due time.Duration) {
	if p.id++; p.id == 0 {
		p.id = uint16(len(p.sent)) // not 0, and the same place among those that were sent
	}
	p.inflight++
	c.sent++
	p.sent[int(p.id)%len(p.sent)] = c.now()
	binary.BigEndian.PutUint64(p.message.Payload(), uint64(due))
	binary.BigEndian.PutUint64(p.message.Payload()[8:], p.count)
	p.count++
	p.message.Send(p.Client, p.id)
}

// turn goes on until a moment, publishing what is due.
func (c *crowd) turn(from, until time.Time) error {
	next := from
	pubs := c.pubs
	for k := 0; ; {
		now := time.Now()
		if !now.Before(until) {
			return nil
		}
		for ; c.Rate > 0 && !next.After(now); k++ {
			if p := pubs[k%len(pubs)]; p.inflight < c.Window {
				c.publish(p, next.Sub(c.begin))
			} else {
				p.due = append(p.due, next.Sub(c.begin))
			}
			next = from.Add(time.Duration(float64(k+1) / float64(c.Rate) * float64(time.Second)))
		}
		stop := now.Add(100 * time.Millisecond)
		if c.Rate > 0 && next.Before(stop) {
			stop = next
		}
		if until.Before(stop) {
			stop = until
		}
		if err := errors.Join(c.Turn(stop), c.look()); err != nil {
			return err
		}
	}
}

// load publishes, warms up, measures, and waits for what is on its way.
func (c *crowd) load() error {
	if c.Rate == 0 {
		for _, p := range c.pubs {
			for range c.Window {
				c.publish(p, c.now())
			}
		}
	}
	span := time.Duration(c.Seconds * float64(time.Second))
	from := time.Now()
	if err := c.turn(from, from.Add(span/4)); err != nil {
		return err
	}
	acked, delivered := c.acked, c.delivered
	before, err := procfs.PID(c.PID).CPU()
	if err != nil {
		return err
	}
	c.measuring = true
	from = time.Now()
	if err := c.turn(from, from.Add(span)); err != nil {
		return err
	}
	c.measuring = false
	took := time.Since(from).Seconds()
	after, err := procfs.PID(c.PID).CPU()
	if err != nil {
		return err
	}
	r := &c.result
	r.Published, r.Delivered = float64(c.acked-acked)/took, float64(c.delivered-delivered)/took
	counted := r.Published
	if c.Subscribers > 0 {
		counted = r.Delivered
	}
	if counted > 0 {
		r.CPU = (after - before).Seconds() / (counted * took) * 1e6
	}
	r.AckP50, r.AckP99 = quantile(c.ack, 0.5)/1000, quantile(c.ack, 0.99)/1000
	r.P50, r.P99 = quantile(c.through, 0.5)/1000, quantile(c.through, 0.99)/1000
	return c.drain()
}

// drain waits until everything has been acknowledged and delivered.
func (c *crowd) drain() error {
	copies := int64(0) // of each message
	if c.Subscribers > 0 {
		copies = 1
		if !c.result.Shared {
			copies = int64(c.Subscribers / c.Groups)
		}
	}
	for _, p := range c.pubs {
		p.due = nil
	}
	c.stopped = true
	for limit := time.Now().Add(30 * time.Second); c.acked < c.sent || c.delivered < copies*c.sent; {
		if time.Now().After(limit) {
			break
		}
		if err := errors.Join(c.Turn(time.Now().Add(100*time.Millisecond)), c.look()); err != nil {
			return err
		}
	}
	c.result.Missing = copies*c.acked - c.delivered
	return nil
}
