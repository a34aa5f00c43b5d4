package mosquitto

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/testbench/client/talk"
	"millrace/testbench/lane"
	"millrace/testbench/process"
)

func TestMain(m *testing.M) {
	talk.Parallel()
	os.Exit(process.Main(m))
}

// patience ends a test that hangs; nothing is expected to take a fraction of it.
const patience = 30 * time.Second

var versions = []string{"mqttv311", "mqttv5"}

// start starts a board, where the tools are.
func start(t *testing.T, configuration string) *process.Process {
	t.Helper()
	lane.Need(t, "mosquitto_pub", "mosquitto_sub", "kcat", "stdbuf")
	return process.Start(t, configuration)
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// at is the broker's address as mosquitto's clients want it.
func at(t *testing.T, p *process.Process) []string {
	t.Helper()
	host, port, err := net.SplitHostPort(p.MQTT)
	if err != nil {
		t.Fatal(err)
	}
	return []string{"-h", host, "-p", port}
}

// tool makes a command of one of mosquitto's clients.
func tool(t *testing.T, p *process.Process, name string, args ...string) *exec.Cmd {
	t.Helper()
	return exec.CommandContext(within(t), name, append(at(t, p), args...)...)
}

// run runs a command to its end with input and returns what it printed. It must succeed.
func run(t *testing.T, cmd *exec.Cmd, input []byte) []byte {
	t.Helper()
	cmd.Stdin = bytes.NewReader(input)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil || complaints.Len() > 0 {
		t.Fatalf("%v: %v\n%s%s", cmd.Args, err, out, complaints.Bytes())
	}
	return out
}

// pub publishes: with QoS 1, mosquitto_pub returns when all is acknowledged.
func pub(t *testing.T, p *process.Process, input string, args ...string) {
	t.Helper()
	run(t, tool(t, p, "mosquitto_pub", args...), []byte(input))
}

func kcat(t *testing.T, p *process.Process, input string, args ...string) string {
	t.Helper()
	return string(run(t, exec.CommandContext(within(t), "kcat", append([]string{"-b", p.Kafka}, args...)...), []byte(input)))
}

// message is one message as a subscriber has it.
type message struct {
	topic, qos, retain, payload string
	rest                        string // what a test's own format adds
}

// subscriber is a running mosquitto_sub.
type subscriber struct {
	t    *testing.T
	cmd  *exec.Cmd
	errs bytes.Buffer
	done chan struct{} // closed when it has ended
	err  error         // how; set before done is closed

	subscribed chan struct{}
	messages   chan message
	// What it said of CONNACK and of the first SUBACK; set before subscribed or done is closed.
	connack int
	granted []int
}

// layout is one line a message: payloads in hex, so that every byte of them is seen.
const layout = "MESSAGE\t%t\t%q\t%r\t%x\t"

// sub starts mosquitto_sub and returns when the broker has acknowledged its subscriptions. It is ended with the test.
func sub(t *testing.T, p *process.Process, args ...string) *subscriber {
	t.Helper()
	return subWith(t, p, "", args...)
}

// subWith is sub with something more in the layout.
func subWith(t *testing.T, p *process.Process, more string, args ...string) *subscriber {
	t.Helper()
	return subAt(t, at(t, p), more, args...)
}

// subAt is subWith at a broker that is named by mosquitto_sub's own arguments.
func subAt(t *testing.T, where []string, more string, args ...string) *subscriber {
	t.Helper()
	s := startSub(t, where, more, args)
	select {
	case <-s.subscribed:
	case <-s.done:
		t.Fatalf("mosquitto_sub %v ended: %v\n%s", args, s.err, s.errs.Bytes())
	}
	return s
}

// startSub starts mosquitto_sub and ends it with the test.
func startSub(t *testing.T, where []string, more string, args []string) *subscriber {
	t.Helper()
	s := &subscriber{t: t, done: make(chan struct{}), subscribed: make(chan struct{}), messages: make(chan message, 10_000)}
	// stdbuf becomes mosquitto_sub, with what -d prints (SUBACK) on its way at the end of each line.
	args = slices.Concat([]string{"-oL", "mosquitto_sub"}, where, []string{"-d", "-F", layout + more}, args)
	s.cmd = exec.CommandContext(within(t), "stdbuf", args...)
	s.cmd.Stderr = &s.errs
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	go func() {
		defer close(s.done)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 4<<20)
		var once sync.Once
		for lines.Scan() {
			fields := strings.Split(lines.Text(), "\t")
			switch {
			case strings.Contains(lines.Text(), "received CONNACK ("):
				s.connack = last(lines.Text(), "(")[0]
			case strings.HasPrefix(lines.Text(), "Subscribed (mid: "):
				once.Do(func() {
					s.granted = last(lines.Text(), ": ")
					close(s.subscribed)
				})
			case fields[0] == "MESSAGE" && len(fields) == 6:
				payload, err := hex.DecodeString(fields[4])
				if err != nil {
					payload = []byte(err.Error())
				}
				s.messages <- message{fields[1], fields[2], fields[3], string(payload), fields[5]}
			}
		}
		s.err = s.cmd.Wait()
	}()
	return s
}

// last are the numbers after the last mark of a line, with commas between them; -1 is none.
func last(line, mark string) (numbers []int) {
	for _, word := range strings.Split(line[strings.LastIndex(line, mark)+len(mark):], ", ") {
		n, err := strconv.Atoi(strings.TrimRight(word, ")"))
		if err != nil {
			n = -1
		}
		numbers = append(numbers, n)
	}
	return numbers
}

// next waits for the next message.
func (s *subscriber) next() message {
	s.t.Helper()
	select {
	case m := <-s.messages:
		return m
	default:
	}
	select {
	case m := <-s.messages:
		return m
	case <-s.done:
		select {
		case m := <-s.messages:
			return m
		default:
		}
		s.t.Fatalf("mosquitto_sub ended and has no more messages: %v\n%s", s.err, s.errs.Bytes())
	case <-time.After(patience):
		s.t.Fatalf("no message for %v", patience)
	}
	return message{}
}

// want checks that exactly these messages come next, in this order.
func (s *subscriber) want(messages ...message) {
	s.t.Helper()
	for i, want := range messages {
		if got := s.next(); got != want {
			s.t.Fatalf("message %d of %d:\ngot  %s\nwant %s", i, len(messages), got, want)
		}
	}
}

// stop disconnects and waits until the program is gone.
func (s *subscriber) stop() {
	s.asleep()
	s.end(syscall.SIGTERM)
}

// asleep waits until the program waits for something, for two seconds at most: its signal handler takes locks of libmosquitto
// (2.0.21), and where a signal finds it at work it holds one of them once in a thousand, and hangs.
func (s *subscriber) asleep() {
	for range 2000 {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
		if _, state, ok := bytes.Cut(stat, []byte(") ")); err != nil || !ok || state[0] == 'S' || state[0] == 'Z' {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// crash ends the program without a DISCONNECT.
func (s *subscriber) crash() { s.end(syscall.SIGKILL) }

func (s *subscriber) end(how os.Signal) {
	s.t.Helper()
	_ = s.cmd.Process.Signal(how) // fails when it has ended, which is what is wanted
	s.left()
}

// left waits until the program is gone.
func (s *subscriber) left() {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(patience / 2):
		s.t.Errorf("%v did not end", s.cmd.Args)
		_ = s.cmd.Process.Kill() // as above
		<-s.done
	}
}

func (m message) String() string {
	if len(m.payload) > 80 {
		m.payload = fmt.Sprintf("%.80s… (%d bytes)", m.payload, len(m.payload))
	}
	return fmt.Sprintf("%s qos=%s retain=%s %q %s", m.topic, m.qos, m.retain, m.payload, m.rest)
}

// client is a franz-go client of the board.
func client(t *testing.T, p *process.Process, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(p.Kafka)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// consume reads the first n records of a topic in the order of offsets; there must be no gap between them.
func consume(t *testing.T, p *process.Process, topic string, n int) []*kgo.Record {
	t.Helper()
	c := client(t, p, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.UnknownTopicRetries(-1), kgo.MetadataMinAge(10*time.Millisecond))
	ctx := within(t)
	var got []*kgo.Record
	next := map[int32]int64{}
	for len(got) < n {
		f := c.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatalf("%s: after %d of %d records: %v", topic, len(got), n, err)
		}
		for _, r := range f.Records() {
			if r.Offset != next[r.Partition] {
				t.Fatalf("%s-%d goes from offset %d to %d", topic, r.Partition, next[r.Partition]-1, r.Offset)
			}
			next[r.Partition]++
			got = append(got, r)
		}
	}
	if len(got) != n {
		t.Fatalf("%s has %d records, want %d", topic, len(got), n)
	}
	return got
}

// lines are n different payloads, and the same as the input of mosquitto_pub -l.
func lines(prefix string, n int) (payloads []string, input string) {
	for i := range n {
		payloads = append(payloads, fmt.Sprintf("%s %d é %s", prefix, i, strings.Repeat("x", i%200)))
	}
	return payloads, strings.Join(payloads, "\n") + "\n"
}

func messages(topic, qos, retain string, payloads []string) (list []message) {
	for _, payload := range payloads {
		list = append(list, message{topic: topic, qos: qos, retain: retain, payload: payload})
	}
	return list
}

func values(records []*kgo.Record, key string) (list []string) {
	for _, r := range records {
		if string(r.Key) == key {
			list = append(list, string(r.Value))
		}
	}
	return list
}

func equal(t *testing.T, what string, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("%s: number %d of %d is %.80q, want %.80q of %d", what, i, len(got), got[i], want[i], len(want))
		}
	}
	t.Fatalf("%s: %d, want %d", what, len(got), len(want))
}
