package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
	"millrace/broker/disk"
	"millrace/platform/config"
)

// plant is a board with links to a Kafka that is not real.
type plant struct {
	t        *testing.T
	unsure   bool // nobody knows the time
	dir      string
	kafka    *upstreamtest.Kafka
	settings *config.Config
	clients  map[string]*upstreamtest.Client // by link
	*Broker
}

// newPlant is one whose links are those of the file.
func newPlant(t *testing.T, file string) *plant {
	t.Helper()
	return newPlantThat(t, false, file)
}

// newPlantThat is one that may not know the time.
func newPlantThat(t *testing.T, unsure bool, file string) *plant {
	t.Helper()
	p := &plant{
		t: t, unsure: unsure, dir: t.TempDir(), kafka: upstreamtest.NewKafka(rand.New(rand.NewPCG(1, 1))), clients: map[string]*upstreamtest.Client{},
	}
	p.settings = linked(t, p.dir, file)
	p.start()
	t.Cleanup(p.stop)
	return p
}

// linked are settings of a board on loopback.
func linked(t *testing.T, dir, file string) *config.Config {
	t.Helper()
	s, err := config.Parse("m.toml", []byte(file), config.Names{Node: "test"}, config.Checks{})
	if err != nil {
		t.Fatal(err)
	}
	s.Broker.LogDirs = dir
	s.Broker.Listeners, s.MQTT.Listeners, s.HTTP.Listener = []string{"PLAINTEXT://127.0.0.1:0"}, []string{"tcp://127.0.0.1:0"}, ""
	return s
}

// aLink is a link of that name with those topics, which are in TOML.
func aLink(name, topics string) string {
	return fmt.Sprintf("[[upstream]]\nname = %q\nbootstrap.servers = ['127.0.0.1:1']\ntopics = [%s]\n", name, topics)
}

func (p *plant) start() {
	p.t.Helper()
	b, err := Open(p.t.Context(), Config{
		Settings: p.settings, Disciplined: func() bool { return !p.unsure },
		remote: func(u *config.Upstream) upstream.Remote {
			p.clients[u.Name] = p.kafka.Client()
			return p.clients[u.Name]
		},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.Broker = b
}

func (p *plant) stop() {
	if p.Broker == nil {
		return
	}
	b := p.Broker
	p.Broker = nil
	if err := b.Close(); err != nil {
		p.t.Error(err)
	}
}

// reload gives the board another file.
func (p *plant) reload(file string) (live, restart []string) {
	p.t.Helper()
	live, restart, err := p.Reload(linked(p.t, p.dir, file))
	if err != nil {
		p.t.Fatal(err)
	}
	return live, restart
}

// until waits for something to come about.
func (p *plant) until(what string, is func() bool) {
	p.t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("not within 30 s: %s; %+v", what, p.Links())
		}
	}
}

// delivered are the values that are committed in partition 0 of a topic of the Kafka's.
func (p *plant) delivered(topic string) (values []string) {
	for _, r := range p.kafka.Committed(topic, 0) {
		values = append(values, string(r.Value))
	}
	return values
}

func (p *plant) wants(topic string, values ...string) {
	p.t.Helper()
	p.until(fmt.Sprintf("%s holds %q", topic, values), func() bool { return slices.Equal(p.delivered(topic), values) })
}

func (p *plant) state(link string) upstream.State { return upstream.State(p.one(link).State) }

func (p *plant) one(link string) LinkStatus {
	for _, s := range p.Links() {
		if s.Name == link {
			return s
		}
	}
	return LinkStatus{}
}

func TestALinkCarriesAndTells(t *testing.T) {
	p := newPlant(t, aLink("hq", "'plant.*'")+"naming = '{cluster}.{topic}'\nprovenance = true\n")
	appendOne(t, p.Broker, "plant.a", "1")
	appendOne(t, p.Broker, "other", "2")
	p.wants("test.plant.a", "1")
	p.until("it knows that all is delivered", func() bool { s := p.one("hq"); return s.State == string(upstream.StateIdle) && s.Sent == 1 })
	s := p.one("hq")
	if s.Records != 0 || s.Partitions != 1 || s.Sent != 1 || s.Transactions < 1 || s.LastSuccess == nil || s.Trouble != "" || s.Paused || s.Direction != config.Up {
		t.Errorf("%+v", s)
	}
	if p.kafka.Partitions("test.other") != 0 || p.kafka.Partitions("test.__consumer_offsets") != 0 {
		t.Error("topics were sent that nobody has chosen")
	}
	if r := p.kafka.Committed("test.plant.a", 0)[0]; len(r.Headers) == 0 {
		t.Error("nothing says where it comes from")
	}
	// What was delivered is not sent again by the next life.
	p.stop()
	p.start()
	appendOne(t, p.Broker, "plant.a", "3")
	p.wants("test.plant.a", "1", "3")
	// A topic of a link makes room where others refuse.
	for topic, want := range map[string]bool{"plant.a": true, "other": false} {
		if list, ok := p.Topic(topic); !ok || list[0].Config().DropOldest != want {
			t.Errorf("%s drops its oldest: %v", topic, !want)
		}
	}
}

// A board serves whether its links get through or not, and says how far they are.
func TestALinkThatIsAwayHoldsUpNothing(t *testing.T) {
	p := newPlant(t, aLink("hq", "'a*'")+aLink("sat", "'b'"))
	p.clients["hq"].Cut(true)
	p.until("nothing is behind", func() bool { return p.state("sat") == upstream.StateIdle })
	appendOne(t, p.Broker, "a", "1")
	appendOne(t, p.Broker, "b", "1")
	p.wants("b", "1")
	p.until("hq says why", func() bool { return p.one("hq").Trouble != "" && p.one("hq").Records == 1 })
	if err := p.takes(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	if s := p.Status(); len(s.Upstream) != 2 || s.Upstream[0].Name != "hq" || s.Upstream[0].Trouble == "" || s.Upstream[1].Trouble != "" || s.Dead+s.NotReady != "" {
		t.Errorf("%+v", s)
	}
	// What it still has to send is needed, what is delivered is not.
	for topic, want := range map[string]int64{"a": 0, "b": -1} {
		list, _ := p.Topic(topic)
		from, _, needed := p.links.Needed(topic, list[0].TopicID(), 0)
		if needed = needed && from < list[0].High(); needed != (want >= 0) || needed && from != want {
			t.Errorf("%s: needed %v from %d", topic, needed, from)
		}
	}
	// So is what comes while it is away, of topics too that it has never seen; another one does not bring them back.
	p.until("it waits", func() bool { return p.state("hq") == upstream.StateConnecting })
	appendOne(t, p.Broker, "a2", "1")
	p.until("what is new is counted", func() bool { return p.one("hq").Records == 2 && p.one("hq").Partitions == 2 })
	list, _ := p.Topic("a2")
	if from, _, needed := p.links.Needed("a2", list[0].TopicID(), 0); !needed || from != 0 {
		t.Errorf("a2: needed %v from %d", needed, from)
	}
	p.clients["hq"].Cut(false)
	if k := p.links.find("hq"); k != nil {
		k.link.Kick()
	}
	p.wants("a", "1")
	p.wants("a2", "1")
}

// A link that a person has paused stays so over a restart, until the person lets it go on.
func TestAPauseIsDurable(t *testing.T) {
	p := newPlant(t, aLink("hq", "'a'")+aLink("sat", "'b'"))
	decide := func(verb, link string) (d Decided, err error) {
		raw, err := Decide(t.Context(), p.dir, verb, url.Values{"link": {link}})
		if err == nil {
			err = json.Unmarshal(raw, &d)
		}
		return d, err
	}
	if d, err := decide("pause", "hq"); err != nil || d != (Decided{Link: "hq"}) {
		t.Fatalf("%+v, %v", d, err)
	}
	if _, err := decide("pause", "nowhere"); !errors.Is(err, ErrNoLink) {
		t.Errorf("a link there is not: %v", err)
	}
	p.until("it is paused", func() bool { return p.state("hq") == upstream.StatePaused })
	for range 2 {
		p.stop()
		p.start()
		p.until("it is paused again", func() bool {
			s := p.one("hq")
			return s.State == string(upstream.StatePaused) && s.Paused && s.Trouble == ""
		})
	}
	appendOne(t, p.Broker, "a", "1")
	appendOne(t, p.Broker, "b", "1")
	p.wants("b", "1")
	if got := p.delivered("a"); got != nil {
		t.Errorf("a paused link has sent %q", got)
	}
	if report, err := fsckOf(p); err != nil || len(report.Findings) != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if _, err := decide("resume", "hq"); err != nil {
		t.Fatal(err)
	}
	p.wants("a", "1")
	p.stop()
	p.start()
	p.until("it goes on", func() bool { return p.state("hq") == upstream.StateIdle && !p.one("hq").Paused })
	// A file that is damaged pauses nobody, and fsck says so.
	if _, err := decide("pause", "sat"); err != nil {
		t.Fatal(err)
	}
	p.stop()
	name := filepath.Join(p.dir, linksDir, heldFile)
	text, err := os.ReadFile(name)
	if err != nil || !strings.HasPrefix(string(text), `["sat"]`) {
		t.Fatalf("%s, %v", text, err)
	}
	text[3] ^= 1
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	report, err := Fsck(disk.OS{}, p.dir, nil)
	if err != nil || len(report.Findings) != 1 || report.Damaged() || report.Findings[0].Path != name {
		t.Errorf("%+v, %v", report, err)
	}
	p.start()
	p.until("it goes on", func() bool { return p.state("sat") == upstream.StateIdle && !p.one("sat").Paused })
}

// fsckOf is what fsck finds after a stop; the board is up again after it.
func fsckOf(p *plant) (*FsckReport, error) {
	p.stop()
	defer p.start()
	return Fsck(disk.OS{}, p.dir, nil)
}

// A pause that cannot be written down holds, and says for how long.
func TestAPauseOnAFailingDisk(t *testing.T) {
	dir := t.TempDir()
	fsys := &unwritable{FS: disk.OS{}}
	s := linked(t, dir, aLink("hq", "'a'"))
	kafka := upstreamtest.NewKafka(rand.New(rand.NewPCG(1, 1)))
	b, err := Open(t.Context(), Config{Settings: s, FS: fsys, remote: func(*config.Upstream) upstream.Remote { return kafka.Client() }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	raw, err := Decide(t.Context(), dir, "pause", url.Values{"link": {"hq"}})
	var d Decided
	if err := errors.Join(err, json.Unmarshal(raw, &d)); err != nil || !strings.Contains(d.Partial, "it is paused, and goes on with the next start") {
		t.Errorf("%+v, %v", d, err)
	}
	if s := b.Links()[0]; !s.Paused {
		t.Errorf("%+v", s)
	}
}

// unwritable is a disk that takes nothing for links.
type unwritable struct{ disk.FS }

func (u *unwritable) OpenFile(name string, flag int, perm os.FileMode) (disk.File, error) {
	if flag&os.O_CREATE != 0 && strings.Contains(name, "/"+linksDir+"/") {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("no")}
	}
	return u.FS.OpenFile(name, flag, perm)
}

// A reload begins and ends links, and leaves alone those that have not changed.
func TestLinksReload(t *testing.T) {
	p := newPlant(t, aLink("hq", "'a'")+aLink("sat", "'b'"))
	appendOne(t, p.Broker, "a", "1")
	appendOne(t, p.Broker, "c", "1")
	p.wants("a", "1")
	hq, sat := p.links.find("hq"), p.links.find("sat")
	live, restart := p.reload("\n" + aLink("third", "'c'") + aLink("hq", "'a'"))
	if !slices.Equal(live, []string{"upstream"}) || restart != nil {
		t.Errorf("%v, %v", live, restart)
	}
	p.wants("c", "1")
	if p.links.find("hq") != hq || p.links.find("sat") != nil || p.Links()[0].Name != "third" {
		t.Errorf("%+v", p.Links())
	}
	if s := sat.link.Status(); s.State != upstream.StateStopped {
		t.Errorf("a link that is not in the file any more is %s", s.State)
	}
	// One that changed is another, which knows where the former was.
	p.reload(aLink("hq", "'a', 'd'"))
	appendOne(t, p.Broker, "a", "2")
	appendOne(t, p.Broker, "d", "1")
	p.wants("a", "1", "2")
	p.wants("d", "1")
	if p.links.find("hq") == hq {
		t.Error("the link is still the former")
	}
	if list, _ := p.Topic("d"); !list[0].Config().DropOldest {
		t.Error("a topic of a link that changed refuses")
	}
	if live, _ := p.reload(""); !slices.Equal(live, []string{"upstream"}) || len(p.Links()) != 0 {
		t.Errorf("%v, %+v", live, p.Links())
	}
}

// A link that cannot be says why, and all that it would carry is kept for it.
func TestALinkThatCannotBe(t *testing.T) {
	p := newPlant(t, aLink("commands", "'c'")+"time.zone = 'Nowhere/Atall'\n")
	appendOne(t, p.Broker, "c", "1")
	s := p.one("commands")
	if s.State != string(upstream.StateRefused) || !strings.Contains(s.Trouble, "Nowhere") {
		t.Errorf("%+v", s)
	}
	if _, err := Decide(t.Context(), p.dir, "resolve", url.Values{"link": {"commands"}, "topic": {"c"}, "partition": {"0"}, "to": {"latest"}}); err == nil || errors.Is(err, ErrSilent) {
		t.Error("something was decided about it")
	}
	if err := p.links.Pause("commands"); err != nil {
		t.Error(err)
	}
	list, _ := p.Topic("c")
	if from, _, needed := p.links.Needed("c", list[0].TopicID(), 0); !needed || from != 0 {
		t.Errorf("needed %v from %d", needed, from)
	}
}

// What has stopped goes on as a person decides.
func TestAPersonDecides(t *testing.T) {
	p := newPlant(t, aLink("hq", "'a'"))
	appendOne(t, p.Broker, "a", "1")
	p.wants("a", "1")
	p.stop()
	p.kafka.Create("a", 1, false) // somebody has made it anew
	p.start()
	p.until("it has stopped", func() bool { return p.one("hq").Stopped == 1 })
	appendOne(t, p.Broker, "a", "2")
	s := p.one("hq")
	if !strings.Contains(s.Trouble, "1 partitions have stopped") || len(s.List) != 1 || s.List[0].Topic != "a" || s.List[0].Reason == "" {
		t.Errorf("%+v", s)
	}
	decide := func(to string, more ...string) error {
		about := url.Values{"link": {"hq"}, "topic": {"a"}, "partition": {"0"}, "to": {to}}
		for i := 0; i < len(more); i += 2 {
			about.Set(more[i], more[i+1])
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := Decide(ctx, p.dir, "resolve", about)
		return err
	}
	for _, bad := range [][]string{{"sideways"}, {"-1"}, {"latest", "partition", "x"}} {
		if err := decide(bad[0], bad[1:]...); err == nil || errors.Is(err, ErrNoLink) || errors.Is(err, ErrSilent) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, missing := range [][]string{{"latest", "link", "x"}, {"latest", "topic", "x"}, {"latest", "partition", "7"}} {
		if err := decide(missing[0], missing[1:]...); !errors.Is(err, ErrNoLink) {
			t.Errorf("%q: %v", missing, err)
		}
	}
	if err := decide("accept"); err != nil {
		t.Fatal(err)
	}
	p.wants("a", "2")
	if err := decide("earliest"); err != nil {
		t.Fatal(err)
	}
	p.wants("a", "2", "1", "2")
}

// What is gone before it could be sent is told at the other end, with its reason: a full disk, a client that deleted it.
func TestAGapIsToldWithItsCause(t *testing.T) {
	p := newPlant(t, aLink("hq", "'a'"))
	p.clients["hq"].Cut(true)
	for range 3 {
		appendOne(t, p.Broker, "a", "x")
	}
	list, _ := p.Topic("a")
	done := make(chan error, 1)
	list[0].DeleteRecords(2, func(_ int64, err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	p.clients["hq"].Cut(false)
	p.links.find("hq").link.Kick()
	p.wants("a", "x")
	var gap upstream.Gap
	told := p.kafka.Committed("__millrace_gaps", 0)
	if len(told) != 1 || json.Unmarshal(told[0].Value, &gap) != nil {
		t.Fatalf("%+v", told)
	}
	gap.Time = 0
	if want := (upstream.Gap{Board: p.Meta().ClusterID, Link: "hq", Topic: "a", First: 0, Last: 1, Count: 2, Cause: "deleted by a client"}); gap != want {
		t.Errorf("%+v, want %+v", gap, want)
	}
	p.until("it is counted", func() bool { s := p.one("hq"); return s.Gaps == 1 && s.Lost == 2 })
}

// Who has put the right secret into its file says so with a reload, and does not wait for the link to try again by itself.
func TestAReloadHasLinksTryAgain(t *testing.T) {
	file := aLink("hq", "'a'") + "reconnect.backoff.ms = '1h'\nreconnect.backoff.max.ms = '1h'\n"
	p := newPlant(t, file)
	p.clients["hq"].Cut(true)
	appendOne(t, p.Broker, "a", "1")
	p.until("it waits", func() bool { return p.one("hq").Trouble != "" && p.one("hq").Records == 1 })
	p.clients["hq"].Cut(false)
	p.reload(file)
	p.wants("a", "1")
}

// A board that begins without its link knows what was delivered all the same, and holds no more than the rest; a file that is
// damaged has it hold everything.
func TestWhatWasDeliveredIsRemembered(t *testing.T) {
	p := newPlant(t, aLink("hq", "'a'"))
	appendOne(t, p.Broker, "a", "1")
	p.wants("a", "1")
	p.until("it knows that all is delivered", func() bool { s := p.one("hq"); return s.State == string(upstream.StateIdle) && s.Sent == 1 })
	p.stop()
	p.kafka.Fail(upstreamtest.Faults{Lost: 1})
	name := filepath.Join(p.dir, linksDir, "hq"+deliveredFile)
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int64{1, 0} {
		p.start()
		appendOne(t, p.Broker, "a", "2")
		list, _ := p.Topic("a")
		if from, _, needed := p.links.Needed("a", list[0].TopicID(), 0); !needed || from != want {
			t.Errorf("needed %v from %d, want %d", needed, from, want)
		}
		p.stop()
		damaged := append([]byte(nil), text...)
		damaged[3] ^= 1
		if err := os.WriteFile(name, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if report, err := Fsck(disk.OS{}, p.dir, nil); err != nil || len(report.Findings) != 1 || !strings.Contains(report.Findings[0].Text, "holds what was delivered") {
			t.Errorf("%+v, %v", report, err)
		}
	}
}
