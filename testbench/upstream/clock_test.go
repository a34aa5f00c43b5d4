package upstream

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/bridge/upstream"
	"millrace/broker"
	"millrace/testbench/client/drill"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
)

// wall is the system's clock of a board, so far from the right time; told says that NTP keeps it.
type wall struct {
	off  atomic.Int64
	told atomic.Bool
}

func (w *wall) now() time.Time { return time.Now().Add(time.Duration(w.off.Load())) }

// cold has the board come up as one without a battery does: it is 1970.
func (w *wall) cold() {
	w.told.Store(false)
	w.off.Store(int64(time.Until(time.Unix(20, 0))))
}

// right has somebody tell the time.
func (w *wall) right() {
	w.off.Store(0)
	w.told.Store(true)
}

// news is a log that tells of the line that the time is known.
type news chan struct{}

// Write implements io.Writer.
func (n news) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("the time is known now")) {
		select {
		case n <- struct{}{}:
		default:
		}
	}
	return len(line), nil
}

// span is when something happened, as far as the test can tell.
type span struct{ from, to time.Time }

// publish publishes n messages with QoS 1 and says between when.
func (b *insider) publish(topic, text string, n int) (when span) {
	b.t.Helper()
	client := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + b.MQTT).SetClientID(text))
	await := func(what string, token paho.Token) {
		b.t.Helper()
		if !token.WaitTimeout(lane.Patience) || token.Error() != nil {
			b.t.Fatalf("%s: %v", what, token.Error())
		}
	}
	await("connect", client.Connect())
	defer client.Disconnect(0)
	when.from = time.Now()
	for i := range n {
		await("publish", client.Publish(topic, 1, false, fmt.Sprintf("%s %d", text, i)))
	}
	when.to = time.Now()
	return when
}

// What a board has stamped that did not know the time leaves with the right stamp where the time became known in that life,
// and marked where it never did; nothing leaves with the 1970 that its clock has shown.
func TestStampsOfABoardThatDoesNotKnowTheTime(t *testing.T) {
	t.Parallel()
	const n, slack = 3, 2 * time.Second // what reading two clocks may take on a loaded machine
	c := kafka.Shared(t)
	var w wall
	learned := make(news, 1)
	b := inside(t, c, "timeless", broker.Config{Wall: w.now, Disciplined: w.told.Load, Logger: slog.New(slog.NewTextHandler(learned, nil))}, "[[mqtt.route]]\nfilter = \"clock/#\"\ntopic = \"timeless.a\"")
	epoch := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) // no clock before that is believed

	w.cold()
	b.begin()
	live := b.publish("clock/a", "live", n) // it leaves while nobody knows the time
	b.delivered()
	b.end()

	b.way.Cut()
	w.cold()
	b.begin()
	never := b.publish("clock/a", "never", n) // nobody has told this life, and it is over
	b.end()

	w.cold()
	b.begin()
	later := b.publish("clock/a", "later", n)
	b.admit("timeless.a", "a client's 1970", time.Unix(5, 0)) // who does not know the time either
	later.to = time.Now()
	w.right()
	select { // the line comes when stamps are right, figures while that is being written
	case <-learned:
	case <-time.After(lane.Patience):
		t.Fatal("the board does not say that it knows the time")
	}
	known := b.publish("clock/a", "known", n)
	if is := b.is("the link is away", func(is *broker.LinkStatus) bool { return is.State != string(upstream.StateConnecting) }); is.Sent > 0 {
		t.Fatalf("the link was not cut: %+v", is)
	}
	b.heal()
	b.delivered()

	// Local stamps show that the board was fooled: else nothing is proved.
	for _, r := range logOf(t, []string{"timeless.a"}, b.Kafka) {
		if at := time.UnixMilli(r.Timestamp); strings.HasPrefix(string(r.Value), "later") && !at.Before(later.from.Add(-24*time.Hour)) {
			t.Fatalf("%s is stamped %v on the board, which should not have known", r.Value, at)
		}
	}
	var got []string
	for _, r := range logOf(t, []string{"timeless.a"}, c.Direct()...) {
		copied, err := takeApart(r)
		if err != nil {
			t.Fatal(err)
		}
		text := string(copied.Value)
		got = append(got, text)
		kind, _, _ := strings.Cut(text, " ")
		in, unsure := map[string]span{
			"live": {epoch, live.to}, "never": {epoch, never.to}, "later": later, "known": known, "a": {epoch, later.to},
		}[kind], kind == "live" || kind == "never" || kind == "a"
		at := time.UnixMilli(copied.Timestamp)
		t.Logf("%s: %v, unsure %v", text, at.UTC(), copied.unsure)
		if at.Before(in.from.Add(-slack)) || at.After(in.to.Add(slack)) {
			t.Errorf("%s has the stamp %v, want one from %v to %v", text, at.UTC(), in.from.UTC(), in.to.UTC())
		}
		if copied.unsure != unsure || unsure && !marked(r) {
			t.Errorf("%s: unsure is %v, want %v: %q", text, copied.unsure, unsure, r.Headers)
		}
	}
	want := slices.Concat(texts(n, "live", n, "never", n, "later"), []string{"a client's 1970"}, texts(n, "known"))
	if !slices.Equal(got, want) {
		t.Errorf("upstream are %q, want %q", got, want)
	}
}

// marked says whether a record has the header of one whose time is not known, once.
func marked(r drill.Record) bool {
	n := 0
	for _, h := range r.Headers {
		if h.Key == upstream.HeaderClock && string(h.Value) == "unsure" {
			n++
		}
	}
	return n == 1
}

// admit writes a record of a Kafka client with its own stamp.
func (b *insider) admit(topic, value string, at time.Time) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), lane.Patience)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Kafka), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		b.t.Fatal(err)
	}
	defer client.Close()
	if err := client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte(value), Timestamp: at}).FirstErr(); err != nil {
		b.t.Fatal(err)
	}
}
