package mqtt_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt"
	"millrace/bridge/mqtt/mqtttest"
	"millrace/bridge/mqtt/packet"
	"millrace/bridge/mqtt/packet/packettest"
	"millrace/broker/record"
)

// dialogue is a few connections that speak to one server, byte by byte.
type dialogue struct {
	versions, name string
	holds          string // the statements, as a citation
	steps          []step
}

type step struct{ line, text string }

// conversations reads testdata/conversations.txt, whose head describes it.
func conversations(t *testing.T) (all []dialogue) {
	t.Helper()
	file, err := os.ReadFile("testdata/conversations.txt")
	if err != nil {
		t.Fatal(err)
	}
	for i, row := range strings.Split(string(file), "\n") {
		text, at := strings.TrimSpace(row), fmt.Sprint("conversations.txt:", i+1)
		title, isTitle := strings.CutPrefix(text, "== ")
		holds, isHolds := strings.CutPrefix(text, "= ")
		switch last := len(all) - 1; {
		case text == "" || text[0] == '#':
		case isTitle:
			versions, name, _ := strings.Cut(title, " ")
			all = append(all, dialogue{versions: versions, name: name})
		case last < 0:
			t.Fatalf("%s is before the first conversation", at)
		case isHolds:
			all[last].holds += holds + " "
		default:
			all[last].steps = append(all[last].steps, step{at, text})
		}
	}
	return all
}

// TestConversations plays every conversation in each of its versions: what the server says to whom, and when, and nothing
// else.
func TestConversations(t *testing.T) {
	for _, c := range conversations(t) {
		t.Run(c.name, func(t *testing.T) {
			for _, v := range c.versions {
				t.Run(string(v), func(t *testing.T) {
					story(t, func(w *world) {
						s := &stage{w: w, v: packet.Version(v - '0'), voices: make(map[string]*voice)}
						for _, step := range c.steps {
							s.play(step)
						}
						s.quiet("the end")
					})
				})
			}
		})
	}
}

// stage is a conversation being played.
type stage struct {
	w      *world
	v      packet.Version
	voices map[string]*voice
}

// voice is one connection of a conversation.
type voice struct {
	*peer
	said chan []byte // what the server says, a packet at a time; closed with the connection
}

var (
	onlyFive  = regexp.MustCompile(`\{([^}]*)\}`)
	levelByte = regexp.MustCompile(`\bV\b`)
)

func (s *stage) play(st step) {
	text := st.text
	if only, rest, ok := strings.Cut(text, ": "); ok && (only == "4" || only == "5") {
		if only[0]-'0' != byte(s.v) {
			return
		}
		text = rest
	}
	name, rest, _ := strings.Cut(text, " ")
	what, rest, _ := strings.Cut(rest, " ")
	if name == "wait" {
		d, err := time.ParseDuration(what)
		if err != nil {
			s.w.t.Fatalf("%s: %v", st.line, err)
		}
		s.quiet(st.line)
		time.Sleep(d) // the bubble's time
		return
	}
	switch what {
	case ">":
		s.quiet(st.line)
		s.says(name, s.bytes(st, rest))
	case "<":
		s.hears(st, name, s.bytes(st, rest))
	case "connects":
		s.quiet(st.line)
		s.says(name, (&packet.Connect{Version: s.v, CleanStart: true, ClientID: name}).Append(nil, s.v))
		s.hears(st, name, s.bytes(st, "20 [ 00 00 {00} ]"))
	case "closed":
		synctest.Wait()
		if p, open := s.next(name); open || p != nil {
			s.w.t.Errorf("%s: %s got %x, open: %v", st.line, name, p, open)
		}
		delete(s.voices, name)
	case "cut":
		s.quiet(st.line)
		s.voices[name].conn.Close()
		delete(s.voices, name)
		synctest.Wait()
	default:
		s.w.t.Fatalf("%s is no step: %s", st.line, st.text)
	}
}

func (s *stage) bytes(st step, text string) []byte {
	five := "$1"
	if s.v != packet.V5 {
		five = ""
	}
	text = onlyFive.ReplaceAllString(text, five)
	text = levelByte.ReplaceAllString(text, fmt.Sprintf("%02x", byte(s.v)))
	p, err := packettest.Assemble(text)
	if err != nil {
		s.w.t.Fatalf("%s: %v", st.line, err)
	}
	return p
}

// says sends, on a new connection where there is none of that name.
func (s *stage) says(name string, p []byte) {
	v := s.voices[name]
	if v == nil {
		v = &voice{s.w.pipe(s.v), make(chan []byte, 100)}
		s.voices[name] = v
		go v.listen()
	}
	v.raw(p)
	synctest.Wait()
}

func (v *voice) listen() {
	defer close(v.said)
	var all []byte
	for part := make([]byte, 4096); ; {
		for {
			n, err := packet.Frame(all)
			if err != nil {
				v.t.Error(err)
				return
			}
			if n == 0 || n > len(all) {
				break
			}
			v.said <- bytes.Clone(all[:n])
			all = all[n:]
		}
		n, err := v.conn.Read(part)
		all = append(all, part[:n]...)
		if err != nil {
			if len(all) > 0 || err != io.EOF && err != io.ErrClosedPipe {
				v.t.Errorf("%x and %v", all, err)
			}
			return
		}
	}
}

// next is the next packet the server said to name; open is false when the connection has ended.
func (s *stage) next(name string) (p []byte, open bool) {
	v := s.voices[name]
	if v == nil {
		s.w.t.Fatalf("%s has no connection", name)
	}
	select {
	case p, open = <-v.said:
		return p, open
	default:
		return nil, true
	}
}

func (s *stage) hears(st step, name string, want []byte) {
	synctest.Wait()
	p, _ := s.next(name)
	if p != nil {
		p = s.plain(st, p)
	}
	if !bytes.Equal(p, want) {
		s.w.t.Errorf("%s: %s got %x, want %x", st.line, name, p, want)
	}
}

// quiet sees to it that nobody was told anything the conversation does not have.
func (s *stage) quiet(line string) {
	synctest.Wait()
	for name := range s.voices {
		if p, open := s.next(name); p != nil || !open {
			s.w.t.Errorf("before %s: %s got %x, open: %v", line, name, p, open)
		}
	}
}

// plain is a packet without what a table cannot know: what CONNACK says of limits, and the words of a reason and the
// characters of an assigned identifier, for which there is "why" and "id".
func (s *stage) plain(st step, p []byte) []byte {
	pkt, err := packet.Decode(p, s.v, packet.Limits{})
	if err != nil {
		s.w.t.Fatalf("%s: the server said %x: %v", st.line, p, err)
	}
	var list *packet.Properties
	switch pkt := pkt.(type) {
	case *packet.Connack:
		list = pkt.Properties
	case *packet.Ack:
		list = pkt.Properties
	case *packet.Disconnect:
		list = pkt.Properties
	}
	if list == nil {
		return p
	}
	if pkt.Type() == packet.CONNACK {
		list.Present &^= packet.Of(packet.ReceiveMaximum, packet.MaximumPacketSize, packet.TopicAliasMaximum, packet.SharedAvailable)
	}
	if list.Has(packet.ReasonString) && list.ReasonString != "" {
		list.ReasonString = "why"
	}
	if list.Has(packet.AssignedClientID) && list.AssignedClientID != "" {
		list.AssignedClientID = "id"
	}
	return pkt.Append(nil, s.v)
}

// Every identifier the server assigns is another [MQTT-3.2.2-16].
func TestAssignedIdentifiersDiffer(t *testing.T) {
	story(t, func(w *world) {
		seen := make(map[string]bool)
		for range 50 {
			p := w.connect(packet.V5, "")
			synctest.Wait()
			seen[(<-p.got).(*packet.Connack).Properties.AssignedClientID] = true
		}
		if len(seen) != 50 || seen[""] {
			t.Errorf("%d identifiers for 50 clients", len(seen))
		}
	})
}

// A topic is at most 65,535 bytes, whoever made it [MQTT-4.7.3-3]: by configuration, and where a Kafka client's key would
// be more.
func TestTopicsAreNoLongerThanTheFormatAllows(t *testing.T) {
	if _, err := mqtt.New(mqtt.Config{Log: &mqtttest.Log{}, MaxTopicBytes: 65536}); err == nil {
		t.Error("max_topic_bytes may be 65536")
	}
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a").send(sub(1, "#"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		longest := strings.Repeat("k", 65535)
		w.log.Produce("mqtt", 0, record.Record{Key: []byte(longest), Value: []byte("fits")})
		w.log.Produce("mqtt", 0, record.Record{Key: []byte(longest + "k"), Value: []byte("does not")})
		a.wants("publish "+longest+` "fits" q1 id1`, `publish mqtt "does not" q1 id2`)
	})
}

// Where the remaining length takes two bytes an answer is a byte more [MQTT-3.1.2-24].
func TestAnAnswerOfTwoLengthBytes(t *testing.T) {
	filters := func(n int) *packet.Subscribe {
		s := &packet.Subscribe{ID: 1}
		for i := range n {
			s.Filters = append(s.Filters, packet.Subscription{Filter: fmt.Sprint(i)})
		}
		return s
	}
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a", func(c *packet.Connect) { props(c, packet.MaximumPacketSize).MaximumPacketSize = 130 })
		a.wants("connack 0x00")
		a.send(filters(124)) // 127 bytes after the fixed header of two
		a.wants("suback 1 [" + strings.Repeat("0x00 ", 123) + "0x00]")
		a.send(filters(125)) // 128 after one of three
		a.wants("disconnect 0x95", "closed")
	})
}

// A session is its identifier's, whatever version the client speaks next [MQTT-3.1.3-2].
func TestASessionChangesItsVersion(t *testing.T) {
	story(t, func(w *world) {
		w.connect(packet.V5, "s", keep).send(sub(1, "t"), &packet.Disconnect{}).wants("connack 0x00", "suback 1 [0x01]", "closed")
		m := pub("t", "x", 1, 1)
		m.Properties = &packet.Properties{Present: packet.Of(packet.ContentType, packet.MessageExpiry), ContentType: "c", MessageExpiry: 100}
		w.connect(packet.V5, "p").send(m).wants("connack 0x00", "puback 1 0x00")
		w.connect(packet.V311, "s", keep).wants("connack 0x00 present", `publish t "x" q1 id1`)
		w.connect(packet.V5, "s", keep).wants("connack 0x00 present", `publish t "x" q1 id1 dup expiry100`)
	})
}

// An AUTH the client would not take ends the connection [MQTT-3.1.2-24].
func TestAnAuthPacketTheClientDoesNotTake(t *testing.T) {
	story(t, func(w *world) {
		w.guarded()
		_, first := conversation(t, "SCRAM-SHA-256", "ann", "open sesame")
		p := w.connect(packet.V5, "a", method("SCRAM-SHA-256", first), func(c *packet.Connect) {
			props(c, packet.MaximumPacketSize).MaximumPacketSize = 40
		})
		p.wants("connack 0x95", "closed")
	})
}
