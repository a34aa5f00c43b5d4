package mosquitto

import (
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"millrace/testbench/client/talk"
	"millrace/testbench/lane"
)

// Over every transport Debian's mosquitto-clients can speak; WebSocket came with 2.1.
func TestTalk(t *testing.T) {
	lane.Need(t, "mosquitto_pub", "mosquitto_sub", "stdbuf")
	talk.Run(t, &talk.Client{
		Name: "mosquitto_pub/sub", Transports: []string{"tcp", "tls", "unix"}, Versions: []int{4, 5}, Dial: dial,
		Lacks: map[string]string{
			talk.Connack: "shows no properties of CONNACK", talk.Reasons: "shows no reason strings", talk.Both: "publishes with one program and subscribes with another",
			talk.Handling: "has no option for it", talk.Auth: "has no AUTH packet", talk.AliasesIn: "libmosquitto knows none", talk.Assigns: "assigns none",
			talk.Quiet: "stopped by a signal it asks for its will", talk.StaysAway: "comes back at once, and takes over in turn",
			talk.Window: "prints a message when it has acknowledged it",
		},
	})
}

// conn is a mosquitto_sub that runs, or the options of a mosquitto_pub that does when there is something to publish.
type conn struct {
	t        *testing.T
	options  []string
	five     bool
	sub      *subscriber // nil: it only publishes
	messages chan talk.Message
	closed   chan talk.Answer
}

// properties are the options of a message's properties; kind is publish or will.
func properties(kind string, m *talk.Message) (options []string) {
	number := func(n int) string { return map[bool]string{true: strconv.Itoa(n)}[n > 0] }
	format := ""
	if m.Text {
		format = "1"
	}
	for _, p := range [][2]string{
		{"payload-format-indicator", format},
		{"message-expiry-interval", number(m.Expiry)},
		{"content-type", m.ContentType},
		{"response-topic", m.Response},
		{"correlation-data", m.Correlation},
		{"topic-alias", number(m.Alias)},
		{"will-delay-interval", number(m.Delay)},
	} {
		if p[1] != "" {
			options = append(options, "-D", kind, p[0], p[1])
		}
	}
	for _, pair := range strings.Split(m.User, ",") {
		if name, value, ok := strings.Cut(pair, "="); ok {
			options = append(options, "-D", kind, "user-property", name, value)
		}
	}
	return options
}

func options(c *talk.Connect) []string {
	list := []string{"-h", c.Host, "-p", c.Port}
	if c.Path != "" {
		list = []string{"--unix", c.Path}
	}
	for _, o := range [][2]string{{"--cafile", c.CA}, {"--cert", c.Cert}, {"--key", c.Key}} {
		if o[1] != "" && c.Transport == "tls" {
			list = append(list, o[0], o[1])
		}
	}
	if c.User != "" {
		list = append(list, "-u", c.User, "-P", c.Password)
	}
	list = append(list, "-V", map[int]string{4: "mqttv311", 5: "mqttv5"}[c.Version], "-k", strconv.Itoa(c.KeepAlive), "-i", c.ClientID)
	for _, p := range []struct {
		name string
		n    int
	}{
		{"receive-maximum", c.ReceiveMaximum}, {"maximum-packet-size", c.MaximumPacketSize}, {"topic-alias-maximum", c.TopicAliasMaximum},
	} {
		if p.n > 0 {
			list = append(list, "-D", "connect", p.name, strconv.Itoa(p.n))
		}
	}
	return list
}

func dial(t *testing.T, c talk.Connect) (talk.Conn, talk.Answer) {
	t.Helper()
	p := &conn{t: t, options: options(&c), five: c.Version == 5, messages: make(chan talk.Message, 10_000), closed: make(chan talk.Answer, 1)}
	if len(c.Filters) == 0 {
		return p, talk.Answer{}
	}
	var args []string
	if !c.Clean {
		args = append(args, "-c")
	}
	if c.Expiry > 0 {
		args = append(args, "-x", strconv.Itoa(c.Expiry))
	}
	for _, f := range c.Filters {
		args = append(args, "-t", f.Filter, "-q", strconv.Itoa(f.QoS))
		if f.AsPublished {
			args = append(args, "--retain-as-published")
		}
	}
	if c.SubscriptionID > 0 {
		args = append(args, "-D", "subscribe", "subscription-identifier", strconv.Itoa(c.SubscriptionID))
	}
	if w := c.Will; w != nil {
		args = append(args, "--will-topic", w.Topic, "--will-payload", w.Payload, "--will-qos", strconv.Itoa(w.QoS))
		if w.Retain {
			args = append(args, "--will-retain")
		}
		if p.five {
			args = append(args, properties("will", w)...)
		}
	}
	p.sub = startSub(t, p.options, "%F|%E|%C|%R|%D|%S|%A|%P", args)
	select {
	case <-p.sub.subscribed:
	case <-p.sub.done:
	}
	answer := talk.Answer{Code: p.sub.connack, Codes: p.sub.granted}
	if answer.Code == 0 && len(answer.Codes) == 0 {
		return nil, talk.Answer{Code: -1, Reason: p.sub.errs.String()}
	}
	go p.take()
	return p, answer
}

// take hands on what mosquitto_sub prints.
func (c *conn) take() {
	for {
		select {
		case m := <-c.sub.messages:
			c.messages <- c.message(&m)
			continue
		case <-c.sub.done:
		}
		for len(c.sub.messages) > 0 {
			m := <-c.sub.messages
			c.messages <- c.message(&m)
		}
		c.closed <- talk.Answer{Code: -1, Reason: c.sub.errs.String()}
		return
	}
}

func (c *conn) message(m *message) talk.Message {
	qos, _ := strconv.Atoi(m.qos) // what is no number is 0, and no test's
	got := talk.Message{Topic: m.topic, Payload: m.payload, QoS: qos, Retain: m.retain == "1"}
	if rest := strings.SplitN(m.rest, "|", 8); len(rest) == 8 && c.five {
		got.Text = rest[0] == "1"
		got.Expiry, _ = strconv.Atoi(rest[1]) // as above
		got.ContentType, got.Response, got.Correlation, got.IDs = rest[2], rest[3], rest[4], rest[5]
		got.Alias, _ = strconv.Atoi(rest[6]) // as above
		got.User = strings.ReplaceAll(strings.ReplaceAll(rest[7], " ", ","), ":", "=")
	}
	return got
}

func (c *conn) Publish(m talk.Message, payloads []string) (answers []talk.Answer) {
	c.t.Helper()
	if len(payloads) > 1 && slices.Contains(payloads, "") { // no line has nothing in it
		for _, payload := range payloads {
			answers = append(answers, c.Publish(m, []string{payload})...)
		}
		return answers
	}
	args := append(slices.Clip(c.options), "-d", "-t", m.Topic, "-q", strconv.Itoa(m.QoS))
	if m.Retain {
		args = append(args, "-r")
	}
	if c.five {
		args = append(args, properties("publish", &m)...)
	}
	input := ""
	switch {
	case len(payloads) > 1:
		args, input = append(args, "-l"), strings.Join(payloads, "\n")+"\n"
	case payloads[0] == "":
		args = append(args, "-n")
	default:
		args, input = append(args, "-s"), payloads[0]
	}
	cmd := exec.CommandContext(within(c.t), "mosquitto_pub", args...)
	cmd.Stdin = bytes.NewReader([]byte(input))
	out, err := cmd.CombinedOutput() // its status is 0 where a publish is refused
	text := string(out)
	answers = make([]talk.Answer, len(payloads))
	sent := strings.Count(text, "sending PUBLISH (")
	for i := range answers {
		if err != nil || i >= sent || strings.Contains(text, "connection was lost") {
			answers[i] = talk.Answer{Code: -1, Reason: text}
		}
		for _, kind := range []string{"PUBACK", "PUBREC"} {
			var code int
			if _, rest, ok := strings.Cut(text, fmt.Sprintf("received %s (Mid: %d, RC:", kind, i+1)); ok {
				if _, err := fmt.Sscanf(rest, "%d", &code); err == nil && code != 0 {
					answers[i] = talk.Answer{Code: code, Reason: text}
				}
			}
		}
	}
	return answers
}

// Hold stops the program: what is sent to it is read by nobody.
func (c *conn) Hold(on bool) {
	c.t.Helper()
	how := syscall.SIGCONT
	if on {
		how = syscall.SIGSTOP
	}
	if err := c.sub.cmd.Process.Signal(how); err != nil {
		c.t.Fatal(err)
	}
}

func (c *conn) End(how string) {
	c.t.Helper()
	switch {
	case c.sub == nil:
	case how == "kill":
		c.sub.crash()
	default: // with MQTT 5 a DISCONNECT that asks for the will
		c.sub.stop()
	}
}

func (c *conn) Messages() <-chan talk.Message { return c.messages }

func (c *conn) Closed() <-chan talk.Answer { return c.closed }
