// Package talk has foreign MQTT clients talk to a whole board: every feature of MQTT a client can express, over every
// transport and in every version it speaks. A feature is written once, in Go, for all of them; what a client cannot express
// it says, and the table in testbench/client/README.md is held against both.
package talk

import (
	"flag"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/platform/config"
	"millrace/testbench/client/board"
)

// patience ends a client that hangs.
const patience = 30 * time.Second

// Transports are all there are.
var Transports = []string{"tcp", "tls", "ws", "wss", "unix"}

// Needs of a feature, which a client may lack.
const (
	Connack   = "connack"   // it shows the properties of CONNACK
	Reasons   = "reasons"   // it shows reason strings
	Window    = "window"    // it shows messages that it has not acknowledged, more than one of them
	Both      = "both"      // it publishes and subscribes on one connection
	Handling  = "handling"  // it can ask for a retain handling
	AliasesIn = "aliases"   // it understands the topic aliases of a server
	Assigns   = "assigns"   // it makes up topic aliases itself
	Auth      = "auth"      // it speaks enhanced authentication
	Quiet     = "quiet"     // it can send a DISCONNECT that takes its will back
	Asks      = "asks"      // it can send a DISCONNECT that asks for its will
	StaysAway = "staysAway" // it does not come back when its session is taken over
)

// Client is a foreign client.
type Client struct {
	Name       string // as the table has it
	Transports []string
	Versions   []int             // 4 is 3.1.1
	Lacks      map[string]string // need to why it is not met
	// Dial opens a connection and makes its subscriptions. Without a connection Answer says why.
	Dial func(t *testing.T, c Connect) (Conn, Answer)
}

// Conn is one connection of a client. Publish sends one message for each payload, all at once, and waits for what becomes of
// them. Hold has it acknowledge nothing from now on, or again all. End is "leave", "will" (a DISCONNECT that asks for it) or
// "kill", and does nothing where the connection has ended.
type Conn interface {
	Publish(m Message, payloads []string) []Answer
	Hold(on bool)
	End(how string)
	Messages() <-chan Message
	Closed() <-chan Answer // one, when the server ends the connection
}

// Connect is what a connection is made with. Zero values are left out of CONNECT.
type Connect struct {
	Transport, Host, Port string
	Path                  string // of a Unix socket
	CA, Cert, Key         string // files
	Version               int
	ClientID              string
	Clean                 bool
	KeepAlive             int
	User, Password        string
	Method                string // of enhanced authentication
	Expiry                int    // of the session, in seconds
	ReceiveMaximum        int
	MaximumPacketSize     int
	TopicAliasMaximum     int
	AssignAliases         bool // to all topics that are published
	RequestResponse       bool
	NoProblem             bool // request problem information is 0
	Will                  *Message
	Filters               []Filter
	SubscriptionID        int
}

// Filter is one subscription.
type Filter struct {
	Filter      string
	QoS         int
	NoLocal     bool
	AsPublished bool
	Handling    int
}

// Message is one message, as it is published or as a client got it. Properties of MQTT 5 are empty with 3.1.1.
type Message struct {
	Topic       string
	Payload     string
	QoS         int
	Retain      bool
	Text        bool // payload format indicator
	Expiry      int  // seconds
	ContentType string
	Response    string
	Correlation string
	User        string // name=value,name=value
	IDs         string // subscription identifiers, with commas
	Alias       int    // published: the first with its topic, the others without
	Delay       int    // of a will
}

// Answer is what became of CONNECT or PUBLISH. Code is -1 where the connection ended instead. Of CONNECT, where it is shown:
// Codes are those of SUBACK, the rest is CONNACK's.
type Answer struct {
	Code      int
	Reason    string
	Codes     []int
	Present   bool
	Assigned  string
	Response  string
	KeepAlive int
	Receive   int
	Packet    int
	Aliases   int // topic alias maximum; of PUBLISH the alias that stood for the topic
}

// Parallel has more tests run at once than there are cores: nearly all of the time they wait, for an expiry or a refusal. It is
// called from TestMain.
func Parallel() {
	if err := flag.Set("test.parallel", "24"); err != nil {
		panic(err) // there is such a flag
	}
}

// Run has a client go through all features.
func Run(t *testing.T, c *Client) {
	s := openBoard(t)
	var places []*lane
	for _, transport := range c.Transports {
		for _, version := range c.Versions {
			places = append(places, &lane{client: c, board: s, transport: transport, version: version})
		}
	}
	t.Run("features", func(t *testing.T) {
		for _, f := range features {
			for _, at := range places {
				if f.five && at.version != 5 || f.cannot(c, at.version) != "" || f.only != nil && !slices.Contains(f.only, at.transport) {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/%d", f.name, at.transport, at.version), func(t *testing.T) {
					t.Parallel() // most of the time they wait
					f.try(at.in(t, f.name))
				})
			}
		}
	})
	for i, at := range places {
		places[i] = at.in(t, restarted)
		places[i].beforeRestart()
	}
	s.Restart()
	for _, at := range places {
		at.afterRestart()
	}
	judgeTable(t, c)
}

// openBoard opens a board where Ann may read and write open/# and see $SYS, and nobody shut/#, with two listeners of each
// transport: the second lets its clients do less.
func openBoard(t *testing.T) *board.Secure {
	t.Helper()
	dir := t.TempDir()
	url := func(transport, name string) string {
		if transport == "unix" {
			return "unix://" + filepath.Join(dir, name)
		}
		return transport + "://127.0.0.1:0"
	}
	parsed, err := config.Parse("narrow.toml", []byte(narrow(url)), config.Names{}, config.Checks{})
	if err != nil {
		t.Fatal(err)
	}
	return board.StartSecure(t, func(c *config.Config) {
		c.Broker.ClientAuth = "requested"
		c.MQTT.AllowAnonymous = false
		c.Broker.FailureDelay = 0 // many are refused here, and how that is dampened is no matter of a client
		c.MQTT.ResponseInformation = "open/answers/%u"
		c.MQTT.Places = parsed.MQTT.Places
		c.MQTT.Listeners = nil
		for _, transport := range Transports {
			c.MQTT.Listeners = append(c.MQTT.Listeners, url(transport, "wide"))
		}
		for _, topic := range []string{"open", "shut"} {
			c.MQTT.Routes = append(c.MQTT.Routes, config.Route{Filter: topic + "/#", Topic: topic, Key: "{mqtt.topic}", Partition: -1})
		}
	})
}

// What the second listeners let their clients do.
const (
	narrowKeepAlive, narrowReceive, narrowPacket, narrowAliases = 30, 4, 4096, 2
)

func narrow(url func(transport, name string) string) string {
	var b strings.Builder
	b.WriteString("[security]\ntls.cert.file = \"those\"\ntls.key.file = \"of the board\"\n")
	for _, transport := range Transports {
		fmt.Fprintf(&b, "[[mqtt.listener]]\nurl = %q\nmax_keepalive = %d\nreceive_maximum = %d\nmax_packet_size = %d\nmax_topic_alias = %d\n",
			url(transport, "narrow"), narrowKeepAlive, narrowReceive, narrowPacket, narrowAliases)
	}
	return b.String()
}

// lane is one feature of one client over one transport in one version.
type lane struct {
	*testing.T
	client    *Client
	board     *board.Secure
	transport string
	version   int
	base      string // of topics and client identifiers, its own
}

func (l *lane) in(t *testing.T, feature string) *lane {
	of := *l
	of.T = t
	of.base = fmt.Sprintf("open/%s/%s/%d", strings.NewReplacer(" ", "-", "$", "").Replace(feature), l.transport, l.version)
	return &of
}

func (l *lane) five() bool { return l.version == 5 }

// shows says whether the client shows what CONNACK says.
func (l *lane) shows() bool { return l.client.Lacks[Connack] == "" }

// connect is Ann's CONNECT.
func (l *lane) connect(name string) Connect {
	c := Connect{
		Transport: l.transport, Version: l.version, ClientID: strings.ReplaceAll(l.base, "/", "-") + "-" + name, Clean: true, KeepAlive: narrowKeepAlive,
		User: board.Ann, Password: board.Password, CA: filepath.Join(l.board.Certs, "ca.crt"),
	}
	l.at(&c, false)
	return c
}

// at has a connection go to the first or second listener of its transport.
func (l *lane) at(c *Connect, second bool) {
	l.Helper()
	i := slices.Index(Transports, l.transport)
	if second {
		i += len(Transports)
	}
	c.Host, c.Port, c.Path = "", "", ""
	address := l.board.Addresses().MQTT[i]
	if l.transport == "unix" {
		c.Path = address
		return
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		l.Fatal(err)
	}
	c.Host, c.Port = "localhost", port
}

// dial opens a connection of Ann's that subscribes with QoS 2 to all of the lane's topics, unless change says otherwise.
func (l *lane) dial(name string, change ...func(*Connect)) *peer {
	l.Helper()
	c := l.connect(name)
	c.Filters = []Filter{{Filter: l.base + "/#", QoS: 2}}
	for _, fn := range change {
		fn(&c)
	}
	p := l.try(c)
	if p.Conn == nil || p.answer.Code != 0 || slices.ContainsFunc(p.answer.Codes, func(code int) bool { return code > 2 }) {
		l.Fatalf("%s is answered with %+v", name, p.answer)
	}
	return p
}

func (l *lane) try(c Connect) *peer {
	l.Helper()
	conn, answer := l.client.Dial(l.T, c)
	if conn != nil {
		l.Cleanup(func() { conn.End("kill") })
	}
	return &peer{Conn: conn, l: l, answer: answer, topics: map[int]string{}}
}

// writer is a connection that only publishes.
func (l *lane) writer() *peer { return l.dial("writer", func(c *Connect) { c.Filters = nil }) }

// publish publishes below the lane's topics, each with its own answer, which must be a success.
func (p *peer) publish(m Message, payloads ...string) {
	p.l.Helper()
	m.Topic = p.l.base + "/" + m.Topic
	for i, a := range p.Publish(m, payloads) {
		if a.Code != 0 && a.Code != 0x10 { // 0x10: nobody subscribes
			p.l.Fatalf("publish %d of %d to %s is answered with %+v", i, len(payloads), m.Topic, a)
		}
	}
}

// peer is a connection and what a test knows of it.
type peer struct {
	Conn
	l      *lane
	answer Answer
	topics map[int]string // by alias
	bare   int            // messages that came with an alias in the place of their topic
}

func (p *peer) next() Message {
	p.l.Helper()
	select {
	case m := <-p.Messages():
		if m.Topic == "" {
			m.Topic = p.topics[m.Alias]
			p.bare++
		}
		p.topics[m.Alias] = m.Topic
		return m
	case a := <-p.Closed():
		if len(p.Messages()) > 0 { // they came before
			return p.next()
		}
		p.l.Fatalf("the connection ended with %+v", a)
	case <-time.After(patience):
		p.l.Fatalf("no message for %v", patience)
	}
	return Message{}
}

// wants checks that exactly these come next, below the lane's topics. A message may have waited for a while: what is left of
// its expiry is up to a minute less.
func (p *peer) wants(all ...Message) {
	p.l.Helper()
	for i, want := range all {
		want.Topic, want.Alias, want.Delay = p.l.base+"/"+want.Topic, 0, 0
		got := p.next()
		got.Alias = 0
		if got.Expiry > 0 && got.Expiry <= want.Expiry && got.Expiry > want.Expiry-60 {
			got.Expiry = want.Expiry
		}
		if got != want {
			p.l.Fatalf("message %d of %d:\ngot  %+v\nwant %+v", i, len(all), got, want)
		}
	}
}

// ended waits for the server to end the connection, and checks why where the version tells.
func (p *peer) ended(code int) {
	p.l.Helper()
	select {
	case a := <-p.Closed():
		if p.l.five() && a.Code != code {
			p.l.Errorf("the connection ended with %+v, want %#x", a, code)
		}
	case <-time.After(patience):
		p.l.Errorf("the connection did not end in %v", patience)
	}
}
