package group

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

var rewrite = flag.Bool("rewrite", false, "write what the stories say now; read the difference before it is committed")

// TestStories runs the stories in testdata. A story is commands, a line of dashes, and what they lead to; blocks are
// separated by an empty line. The group is written out after each block.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d stories, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := &story{clients: map[string]*client{}}
			s.begin(t, standardLimits())
			var out strings.Builder
			for i, block := range strings.Split(strings.TrimSpace(string(raw)), "\n\n") {
				commands, want, found := strings.Cut(block, "\n----")
				if !found {
					t.Fatalf("block %d has no line of dashes:\n%s", i+1, block)
				}
				s.said.Reset()
				for line := range strings.SplitSeq(commands, "\n") {
					if line != "" && !strings.HasPrefix(line, "#") {
						s.run(t, line)
					}
				}
				fmt.Fprintf(&s.said, "= %s\n", s.describe())
				if have := strings.TrimSpace(s.said.String()); have != strings.TrimSpace(want) && !*rewrite {
					t.Errorf("block %d:\n%s\nsays\n%s\nwant\n%s", i+1, commands, have, strings.TrimSpace(want))
				}
				if i > 0 {
					out.WriteString("\n")
				}
				fmt.Fprintf(&out, "%s\n----\n%s", commands, s.said.String())
			}
			for _, c := range s.asked {
				t.Errorf("%s was never answered", c.name)
			}
			if *rewrite {
				if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// story is a world that understands words.
type story struct {
	*world
	clients map[string]*client
	said    strings.Builder
}

func (s *story) begin(t *testing.T, l Limits) {
	s.world = newWorld(t, l)
	s.told = s.tell
}

// words are a command's key=value arguments.
type words map[string]string

func (w words) text(key, fallback string) string {
	if v, ok := w[key]; ok {
		return v
	}
	return fallback
}

func (s *story) span(w words, key, fallback string) int64 {
	d, err := time.ParseDuration(w.text(key, fallback))
	if err != nil {
		s.t.Fatalf("%s: %v", key, err)
	}
	return d.Milliseconds()
}

func (s *story) client(name string) *client {
	if s.clients[name] == nil {
		s.clients[name] = &client{name: name, generation: -1}
	}
	return s.clients[name]
}

// run does one command: "join A protocols=range session=10s".
func (s *story) run(t *testing.T, line string) {
	t.Helper()
	fields := strings.Fields(line)
	verb, who, w := fields[0], "", words{}
	for _, f := range fields[1:] {
		if k, v, ok := strings.Cut(f, "="); ok {
			w[k] = v
		} else {
			who = f
		}
	}
	switch verb {
	case "limits":
		l := standardLimits()
		l.InitialDelayMS = s.span(w, "initial-delay", "3s")
		if n, ok := w["members"]; ok {
			l.Members, _ = strconv.Atoi(n)
		}
		s.begin(t, l)
	case "join":
		s.join(s.client(who), w)
	case "forget": // the client forgets who it is, as one that was restarted
		c := s.client(who)
		c.member, c.generation = "", -1
	case "sync":
		s.sync(s.client(who), w)
	case "heartbeat":
		c := s.as(who, w)
		s.do(Heartbeat{Member: c.member, Instance: c.instance, Generation: c.generation, tell: s.ask(c)})
	case "leave":
		s.leave(who, w)
	case "commit":
		s.commit(s.as(who, w), w)
	case "delete-group":
		s.do(DeleteGroup{tell: s.ask(s.client("admin"))})
	case "delete-offsets":
		s.do(DeleteOffsets{Places: s.places(who), tell: s.ask(s.client("admin"))})
	case "delete-topic":
		s.do(forget{gone: func(topic string, _ [16]byte) bool { return topic == who }, tell: s.ask(s.client("admin"))})
	case "advance":
		s.advance(s.span(words{"d": who}, "d", ""))
	case "sweep":
		s.do(sweep{})
	case "hold":
		s.hold = true
	case "durable":
		s.hold = false
		s.flush()
	case "fail":
		s.fail = true
	case "work":
		s.fail = false
	case "restart":
		s.hold = false
		s.restart()
	case "log":
		s.dump(t)
	default:
		t.Fatalf("command %q", line)
	}
}

// as is a client that may speak under another generation or name, for one command.
func (s *story) as(who string, w words) *client {
	c := *s.client(who)
	if g, ok := w["generation"]; ok {
		n, err := strconv.Atoi(g)
		if err != nil {
			s.t.Fatal(err)
		}
		c.generation = int32(n)
	}
	c.member = w.text("member", c.member)
	return &c
}

func (s *story) join(c *client, w words) {
	var protocols []Protocol
	for p := range strings.SplitSeq(w.text("protocols", "range"), ",") {
		if p != "" {
			protocols = append(protocols, Protocol{p, subscription(strings.Split(w.text("topics", "t"), ",")...)})
		}
	}
	c.instance = w.text("instance", c.instance)
	s.ids++
	version, _ := strconv.Atoi(w.text("v", "9"))
	name := c.name
	if c.instance != "" {
		name = c.instance
	}
	s.do(Join{
		Group: "g", Member: w.text("member", c.member), Instance: c.instance, ClientID: c.name, ClientHost: "/10.0.0.1",
		SessionMS: int32(s.span(w, "session", "10s")), RebalanceMS: int32(s.span(w, "rebalance", "60s")),
		ProtocolType: w.text("type", "consumer"), Protocols: protocols,
		RequireID: version >= 4 && c.instance == "", CanSkip: version >= 9,
		newID: fmt.Sprintf("%s-%d", name, s.ids), tell: s.ask(c),
	})
}

func (s *story) sync(c *client, w words) {
	e := Sync{Member: c.member, Instance: c.instance, Generation: s.as(c.name, w).generation}
	if p, ok := w["protocol"]; ok {
		e.Protocol = &p
	}
	if list, ok := w["assign"]; ok {
		e.Assignments = map[string][]byte{}
		for one := range strings.SplitSeq(list, ",") {
			name, what, _ := strings.Cut(one, ":")
			e.Assignments[s.client(name).member] = []byte(what)
		}
	}
	e.tell = s.ask(c)
	s.do(e)
}

func (s *story) leave(who string, w words) {
	var leavers []Leaver
	for name := range strings.SplitSeq(who, ",") {
		c := s.client(name)
		leavers = append(leavers, Leaver{c.member, ""})
	}
	if instance, ok := w["instance"]; ok {
		leavers = []Leaver{{"", instance}}
	}
	s.do(Leave{Members: leavers, tell: s.ask(s.client(strings.Split(who, ",")[0]))})
}

// places reads "t-0,t-1".
func (s *story) places(list string) (places []Place) {
	for one := range strings.SplitSeq(list, ",") {
		topic, p, _ := strings.Cut(one, "-")
		n, err := strconv.Atoi(p)
		if err != nil {
			s.t.Fatal(err)
		}
		places = append(places, Place{topic, int32(n)})
	}
	return places
}

func (s *story) commit(c *client, w words) {
	e := Commit{Member: c.member, Instance: c.instance, Generation: c.generation}
	retain := int64(-1)
	if _, ok := w["retain"]; ok {
		retain = s.span(w, "retain", "")
	}
	for one := range strings.SplitSeq(w.text("at", "t-0@1"), ",") {
		place, at, _ := strings.Cut(one, "@")
		n, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			s.t.Fatal(err)
		}
		e.Offsets = append(e.Offsets, Committed{Place: s.places(place)[0], Offset: n, Epoch: -1, RetainMS: retain})
	}
	e.tell = s.ask(c)
	s.do(e)
}

// tell writes an answer down, and lets the client remember it.
func (s *story) tell(c *client, body any) {
	known := s.client(c.name)
	switch r := body.(type) {
	case JoinReply:
		if r.Err != nil {
			fmt.Fprintf(&s.said, "%s: join %s", c.name, word(r.Err))
			if word(r.Err) == "MEMBER_ID_REQUIRED" {
				known.member = r.Member
				fmt.Fprintf(&s.said, " %s", r.Member)
			}
			s.said.WriteString("\n")
			return
		}
		known.member, known.generation = r.Member, r.Generation
		fmt.Fprintf(&s.said, "%s: joined as %s generation=%d leader=%s protocol=%s", c.name, r.Member, r.Generation, r.Leader, r.Protocol)
		if r.SkipAssignment {
			s.said.WriteString(" skip-assignment")
		}
		if len(r.Members) > 0 {
			var ids []string
			for _, m := range r.Members {
				topics, _ := topicsOf(m.Metadata)
				ids = append(ids, m.ID+":"+strings.Join(topics, ","))
			}
			fmt.Fprintf(&s.said, " members=(%s)", strings.Join(ids, " "))
		}
		s.said.WriteString("\n")
	case SyncReply:
		if r.Err != nil {
			fmt.Fprintf(&s.said, "%s: sync %s\n", c.name, word(r.Err))
			return
		}
		fmt.Fprintf(&s.said, "%s: has %q\n", c.name, r.Assignment)
	case LeaveReply:
		fmt.Fprintf(&s.said, "%s: leave", c.name)
		if r.Err != nil {
			fmt.Fprintf(&s.said, " %s", word(r.Err))
		}
		for _, err := range r.Errors {
			fmt.Fprintf(&s.said, " %s", word(err))
		}
		s.said.WriteString("\n")
	case DeleteReply:
		fmt.Fprintf(&s.said, "%s: deleted", c.name)
		if r.Err != nil {
			fmt.Fprintf(&s.said, " %s", word(r.Err))
		}
		for _, err := range r.Errors {
			fmt.Fprintf(&s.said, " %s", word(err))
		}
		s.said.WriteString("\n")
	default:
		fmt.Fprintf(&s.said, "%s: %s\n", c.name, word(asError(body)))
	}
}

// dump writes the log down, compacted.
func (s *story) dump(t *testing.T) {
	type row struct {
		key  string
		line string
	}
	var rows []row
	for _, r := range s.log {
		rows = slices.DeleteFunc(rows, func(o row) bool { return o.key == string(r.key) })
		if r.key[1] == versionMetadataKey {
			if r.value == nil {
				rows = append(rows, row{string(r.key), "group ended"})
				continue
			}
			v := kmsg.NewGroupMetadataValue()
			if err := v.ReadFrom(r.value); err != nil {
				t.Fatal(err)
			}
			line := fmt.Sprintf("group v%d type=%s generation=%d at=%d", v.Version, v.ProtocolType, v.Generation, v.CurrentStateTimestamp)
			for _, m := range v.Members {
				line += fmt.Sprintf(" %s session=%d rebalance=%d has=%q", m.MemberID, m.SessionTimeoutMillis, m.RebalanceTimeoutMillis, m.Assignment)
			}
			rows = append(rows, row{string(r.key), line})
			continue
		}
		k := kmsg.NewOffsetCommitKey()
		if err := k.ReadFrom(r.key); err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("offset %s-%d ended", k.Topic, k.Partition)
		if r.value != nil {
			v := kmsg.NewOffsetCommitValue()
			if err := v.ReadFrom(r.value); err != nil {
				t.Fatal(err)
			}
			line = fmt.Sprintf("offset v%d %s-%d@%d committed=%d expires=%d", v.Version, k.Topic, k.Partition, v.Offset, v.CommitTimestamp, v.ExpireTimestamp)
		}
		rows = append(rows, row{string(r.key), line})
	}
	for _, r := range rows {
		fmt.Fprintf(&s.said, "log: %s\n", r.line)
	}
}
