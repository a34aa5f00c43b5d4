package mqtt_test

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"go.uber.org/goleak"

	"millrace/bridge/mqtt"
	"millrace/bridge/mqtt/mqtttest"
	"millrace/broker/poll/polltest"
	"millrace/broker/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a server on a loopback port until the test ends.
func serve(t testing.TB, cfg mqtt.Config) (s *mqtt.Server, address string) {
	t.Helper()
	cfg.AllowAnonymous = true
	if cfg.Poller == nil {
		// Whoever says nothing for a millisecond waits without a goroutine: every test is one of that too.
		cfg.Poller, cfg.Silence = polltest.Open(t), time.Millisecond
	}
	s, err := mqtt.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, mqtt.ErrClosed) {
			t.Error(err)
		}
	})
	return s, l.Addr().String()
}

func pahoClient(t *testing.T, address, id string, clean bool) paho.Client {
	t.Helper()
	o := paho.NewClientOptions().AddBroker("tcp://" + address).SetClientID(id).SetCleanSession(clean).
		SetAutoReconnect(false).SetOrderMatters(true).SetConnectTimeout(5 * time.Second)
	c := paho.NewClient(o)
	wait(t, c.Connect())
	return c
}

func wait(t *testing.T, tok paho.Token) {
	t.Helper()
	if !tok.WaitTimeout(10 * time.Second) {
		t.Fatal("no answer in 10 s")
	}
	if tok.Error() != nil {
		t.Fatal(tok.Error())
	}
}

func TestPaho(t *testing.T) {
	log := &mqtttest.Log{NumPartitions: 2}
	_, address := serve(t, mqtt.Config{Log: log})
	got := make(chan string, 1000)
	sub := pahoClient(t, address, "sub", false)
	wait(t, sub.Subscribe("plant/#", 1, func(_ paho.Client, m paho.Message) {
		got <- fmt.Sprintf("%s=%s", m.Topic(), m.Payload())
	}))
	pub := pahoClient(t, address, "pub", true)
	const n = 500
	var tokens []paho.Token
	for i := range n {
		tokens = append(tokens, pub.Publish("plant/line1", 1, false, fmt.Sprint(i)))
	}
	for _, tok := range tokens {
		wait(t, tok)
	}
	next := func() string {
		select {
		case s := <-got:
			return s
		case <-time.After(10 * time.Second):
			t.Fatal("nothing came in 10 s")
			return ""
		}
	}
	for i := range n {
		if s := next(); s != fmt.Sprintf("plant/line1=%d", i) {
			t.Fatalf("message %d is %s", i, s)
		}
	}
	log.Produce("mqtt", 0, record.Record{Key: []byte("plant/kafka"), Value: []byte("k")})
	if s := next(); s != "plant/kafka=k" {
		t.Errorf("from Kafka: %s", s)
	}
	sub.Disconnect(250)
	wait(t, pub.Publish("plant/line1", 1, true, "while away"))
	back := make(chan string, 10)
	o := paho.NewClientOptions().AddBroker("tcp://" + address).SetClientID("sub").SetCleanSession(false).
		SetAutoReconnect(false).SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { back <- string(m.Payload()) })
	sub = paho.NewClient(o)
	wait(t, sub.Connect())
	for s := ""; s != "while away"; {
		select {
		case s = <-back:
			// Others may come again: their acknowledgements may not have been sent before the disconnection.
		case <-time.After(10 * time.Second):
			t.Fatal("the message published while away never came")
		}
	}
	sub.Disconnect(250)
	pub.Disconnect(250)
}
