package broker

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/contract"
	"millrace/broker/disk"
)

// window is one of three hours that begins so many hours from now, in UTC.
func window(from int) string {
	hour := func(n int) int { return ((time.Now().UTC().Hour()+n)%24 + 24) % 24 }
	return fmt.Sprintf("window = ['%02d:00-%02d:00']\n", hour(from), hour(from+3))
}

// Outside its windows a link does not even log in, and says when it will.
func TestALinkKeepsItsWindows(t *testing.T) {
	p := newPlant(t, aLink("hq", "'a'")+window(5))
	appendOne(t, p.Broker, "a", "1")
	p.until("it waits for its window", func() bool {
		s := p.one("hq")
		return s.State == string(upstream.StateWaiting) && strings.HasPrefix(s.Reason, "no window is open; the next opens ") && s.Trouble == "" && s.Records == 1
	})
	if p.kafka.Partitions("__millrace_cursors") != 0 {
		t.Error("it has logged in outside its window")
	}
	if s := p.Status(); s.NotReady != "" || s.Upstream[0].Trouble != "" {
		t.Errorf("%+v", s)
	}
	p.reload(aLink("hq", "'a'") + window(-1))
	p.wants("a", "1")
	// A class may have windows of its own.
	p.reload(aLink("hq", "'a', 'b'") + window(5) + "[[upstream.class]]\ntopics = ['b']\nwindow = []\n")
	appendOne(t, p.Broker, "a", "2")
	appendOne(t, p.Broker, "b", "1")
	p.wants("b", "1")
	if got := p.delivered("a"); len(got) != 1 {
		t.Errorf("sent outside the window: %q", got)
	}
}

// A board that nobody tells the time is in no window, and sends where there is none.
func TestNoWindowOpensBeforeTheTimeIsKnown(t *testing.T) {
	p := newPlantThat(t, true, aLink("hq", "'a'")+window(-1)+aLink("sat", "'b'"))
	appendOne(t, p.Broker, "a", "1")
	appendOne(t, p.Broker, "b", "1")
	p.wants("b", "1")
	p.until("it says so", func() bool { return p.one("hq").Reason == "no window opens before the time is known" })
	if got := p.delivered("a"); got != nil {
		t.Errorf("sent %q", got)
	}
}

// Over a link that is paid for by the byte only what is urgent goes, and what says so.
func TestAMeteredLink(t *testing.T) {
	const classes = "metered = true\n[[upstream.class]]\ntopics = ['alarm']\n[[upstream.class]]\ntopics = ['daily']\npriority = 5\nmetered = true\n"
	p := newPlant(t, aLink("hq", "'alarm', 'daily', 'bulk'")+classes)
	for _, topic := range []string{"bulk", "daily", "alarm"} {
		appendOne(t, p.Broker, topic, "1")
	}
	p.wants("daily", "1")
	p.wants("alarm", "1")
	p.until("the rest waits", func() bool { s := p.one("hq"); return s.Records == 1 && s.Trouble == "" })
	if got := p.delivered("bulk"); got != nil {
		t.Errorf("sent %q", got)
	}
	list, _ := p.Topic("bulk")
	if _, priority, needed := p.links.Needed("bulk", list[0].TopicID(), 0); !needed || priority != 6 {
		t.Errorf("needed %v, of priority %d", needed, priority)
	}
}

// exhaust has a link send bytes over a connection of its own, until it may not.
func exhaust(t *testing.T, p *plant, link string, n int) (sent int, err error) {
	t.Helper()
	ours, theirs := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, theirs)
	}()
	conn := p.links.find(link).meter.Conn(ours)
	for sent < n && err == nil {
		var m int
		m, err = conn.Write(make([]byte, 4<<10))
		sent += m
	}
	if err := errors.Join(conn.Close(), theirs.Close()); err != nil {
		t.Fatal(err)
	}
	<-ended
	return sent, err
}

// What is in a transaction already counts as used when more is put into it: one that is larger than what is left of the day
// could never be committed.
func TestATransactionIsNoLargerThanWhatIsLeftOfTheDay(t *testing.T) {
	p := newPlant(t, aLink("hq", "'a'")+"rate.bytes.per.day = '1MiB'\n")
	if n, err := exhaust(t, p, "hq", 900<<10); err != nil {
		t.Fatal(n, err)
	}
	k, at, ready := p.links.find("hq"), time.Unix(1, 0), []bool{true}
	class, room, _ := k.Next(at, upstream.Live, ready)
	if class != 0 || room < 8<<10 || int64(room) > k.budget.Day().Left {
		t.Fatalf("class %d may send %d bytes of %+v", class, room, k.budget.Day())
	}
	k.Sent(at, upstream.Live, class, room-6<<10)
	if class, more, _ := k.Next(at, upstream.Live, ready); class != 0 || more > 6<<10 {
		t.Errorf("with 6 KiB left class %d may put %d bytes more into the transaction", class, more)
	}
	k.Sent(at, upstream.Live, class, 6<<10)
	if class, more, _ := k.Next(at, upstream.Live, ready); class >= 0 {
		t.Errorf("with nothing left class %d may put %d bytes more into the transaction", class, more)
	}
	if class, again, _ := k.Next(at.Add(time.Second), upstream.Live, ready); class != 0 || again < room/2 {
		t.Errorf("class %d may put %d bytes into the next", class, again)
	}
}

// The bytes of a day are kept over a restart, a link that has spent them waits for the next and troubles nobody, and a file that
// is damaged gives none away.
func TestALinkKeepsItsDay(t *testing.T) {
	p := newPlant(t, aLink("hq", "'a'")+"rate.bytes.per.day = '1MiB'\n")
	if n, err := exhaust(t, p, "hq", 512<<10); err != nil {
		t.Fatal(n, err)
	}
	day := func() *LinkDay { return p.one("hq").Day }
	used := day().Used
	if d := day(); d.Budget != 1<<20 || used < 512<<10 || used > 600<<10 || d.Renews == nil {
		t.Errorf("%+v", d)
	}
	p.stop()
	p.start()
	if d := day(); d.Used < used || d.Used > used+(1<<20)/100 {
		t.Errorf("%d bytes were used, after a restart %d", used, d.Used)
	}
	// A reload that changes the link keeps it too.
	p.reload(aLink("hq", "'a*'") + "rate.bytes.per.day = '1MiB'\n")
	if d := day(); d.Used < used {
		t.Errorf("%d bytes were used, after a reload %d", used, d.Used)
	}
	if n, err := exhaust(t, p, "hq", 2<<20); !errors.Is(err, contract.ErrDaySpent) || n > 600<<10 {
		t.Errorf("%d bytes more went out, %v", n, err)
	}
	appendOne(t, p.Broker, "a", "1")
	spent := func() bool {
		s := p.one("hq")
		return s.State == string(upstream.StateWaiting) && strings.HasPrefix(s.Reason, "the bytes of the day are spent; the next begins ") && s.Trouble == "" && s.Records == 1
	}
	p.until("it waits for the next day", spent)
	p.stop()
	name := filepath.Join(p.dir, linksDir, "hq"+dayFile)
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		wrong []int // bytes
		found string
	}{
		{"whole", nil, ""},
		{"half", []int{20}, "a hundredth of the day counts as spent"},
		{"between", []int{2000}, "nothing is lost"},
		{"all", []int{20, len(text) - 1}, "the bytes of the day count as spent"},
	} {
		damaged := append([]byte(nil), text...)
		for _, at := range tt.wrong {
			damaged[at] ^= 1
		}
		if err := os.WriteFile(name, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		report, err := Fsck(disk.OS{}, p.dir, nil)
		switch {
		case err != nil:
			t.Fatal(err)
		case report.Damaged() || (len(report.Findings) > 0) != (tt.found != ""):
			t.Errorf("%s: %+v", tt.name, report)
		case tt.found != "" && !strings.Contains(report.Findings[0].Text, tt.found):
			t.Errorf("%s: %+v", tt.name, report.Findings)
		}
		p.start()
		p.until(tt.name+": it still waits", spent)
		if got := p.delivered("a"); got != nil {
			t.Errorf("%s: sent %q", tt.name, got)
		}
		p.stop()
	}
}

// A class gathers records for as long as it says, and one that may not go now hurries nobody.
func TestAClassGathersForATimeOfItsOwn(t *testing.T) {
	p := newPlant(t, aLink("hq", "'a', 'b', 'c'")+"metered = true\n"+
		"class = [{topics = ['a'], linger.ms = 0}, {topics = ['b'], linger.ms = '1m'}, {topics = ['c'], priority = 1, linger.ms = 50}]\n")
	k := p.links.find("hq")
	for class, want := range []time.Duration{0, time.Minute, time.Second, time.Second} {
		if got := k.Linger(class, time.Second); got != want {
			t.Errorf("class %d gathers for %s, want %s", class, got, want)
		}
	}
}

// Each class is told of by itself: the first is not held up by what comes after it but for minimum shares, and the last waits for
// what goes before, or has its own.
func TestALinkEstimatesItsClasses(t *testing.T) {
	p := newPlant(t, aLink("hq", "'a', 'b', 'c'")+
		"class = [{topics = ['a'], priority = 0}, {topics = ['b'], priority = 1, minimum.share = 0.2}]\n")
	p.clients["hq"].Cut(true)
	for topic, size := range map[string]int{"a": 8_000, "b": 100_000, "c": 40_000} {
		appendOne(t, p.Broker, topic, strings.Repeat("x", size))
	}
	p.until("it is behind", func() bool { return p.one("hq").Records == 3 })
	k := p.links.find("hq")
	for range 20 { // as if it had carried a thousand bytes a second
		k.mu.Lock()
		k.speed.Add(1000, 300, time.Second)
		k.mu.Unlock()
	}
	list := p.one("hq").Classes
	if len(list) != 3 || len(list[2].Topics) != 0 || list[1].Topics[0] != "b" || list[0].Records != 1 {
		t.Fatalf("%+v", list)
	}
	for i, want := range []float64{8 / 0.8, 108, 148} {
		if got := list[i].Estimate; got == nil || *got < want || *got > want*1.1 {
			t.Errorf("class %d: %+v, want %.0f s", i, list[i], want)
		}
	}
	is := upstream.Status{Classes: []upstream.Lag{{Records: 90, Bytes: 900_000}, {Records: 1, Bytes: 10_000}, {}}}
	sure := k.classes(&is)[1] // its share is sooner than its turn
	if sure.Estimate == nil || *sure.Estimate < 45 || *sure.Estimate > 55 || sure.Told != "10 kB behind, less than a minute" {
		t.Errorf("%+v", sure)
	}
	p.clients["hq"].Cut(false)
	k.link.Kick()
	p.until("it is delivered", func() bool {
		s := p.one("hq")
		return s.Told == "up to date" && len(s.Classes) == 2 && s.Classes[1].Told == "up to date"
	})
}

// What is behind is told with how long it will take, once that is known.
func TestALinkEstimates(t *testing.T) {
	p := newPlant(t, aLink("hq", "'a'"))
	p.clients["hq"].Cut(true)
	appendOne(t, p.Broker, "a", strings.Repeat("x", 5000))
	p.until("it is behind", func() bool { return p.one("hq").Records == 1 })
	if s := p.one("hq"); s.Estimate != nil || !strings.HasSuffix(s.Told, " behind, for an unknown time") {
		t.Errorf("%+v", s)
	}
	k := p.links.find("hq")
	for range 20 { // as if it had carried a thousand bytes a second
		k.mu.Lock()
		k.speed.Add(1000, 300, time.Second)
		k.mu.Unlock()
	}
	if s := p.one("hq"); s.Estimate == nil || *s.Estimate < 4 || *s.Estimate > 7 || s.Told != "5.1 kB behind, less than a minute" {
		t.Errorf("%+v", s)
	}
	p.clients["hq"].Cut(false)
	k.link.Kick()
	p.until("it is delivered", func() bool { s := p.one("hq"); return s.Told == "up to date" && *s.Estimate == 0 })
	p.links.step()
	is := k.link.Status()
	if k.line.step(&is) || k.speed.PerSecond() == 0 {
		t.Errorf("it has carried something and knows no speed")
	}
}
