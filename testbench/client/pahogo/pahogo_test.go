// Package pahogo drives a whole board with paho.mqtt.golang, Eclipse's client for Go.
package pahogo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"millrace/testbench/client/talk"
)

const patience = 30 * time.Second

func TestMain(m *testing.M) {
	talk.Parallel()
	os.Exit(m.Run())
}

func TestTalk(t *testing.T) {
	talk.Run(t, &talk.Client{Name: "paho.mqtt.golang", Transports: talk.Transports, Versions: []int{4}, Dial: dial})
}

// conn is one connection.
type conn struct {
	t        *testing.T
	c        paho.Client
	wire     atomic.Pointer[net.Conn]
	messages chan talk.Message
	closed   chan talk.Answer
	gone     chan struct{} // closed with the connection

	mu      sync.Mutex
	held    bool
	waiting []paho.Message
}

func dial(t *testing.T, c talk.Connect) (talk.Conn, talk.Answer) {
	t.Helper()
	conn := &conn{t: t, messages: make(chan talk.Message, 10_000), closed: make(chan talk.Answer, 1), gone: make(chan struct{})}
	secrets, err := secretsOf(&c)
	if err != nil {
		t.Fatal(err)
	}
	scheme := map[string]string{"tls": "ssl"}[c.Transport]
	if scheme == "" {
		scheme = c.Transport
	}
	broker := scheme + "://" + net.JoinHostPort(c.Host, c.Port) + "/mqtt"
	if c.Path != "" {
		broker = "unix://" + c.Path
	}
	o := paho.NewClientOptions().AddBroker(broker).SetClientID(c.ClientID).SetCleanSession(c.Clean).SetKeepAlive(time.Duration(c.KeepAlive) * time.Second).
		SetUsername(c.User).SetPassword(c.Password).SetProtocolVersion(4).SetAutoReconnect(false).SetConnectTimeout(patience).SetAutoAckDisabled(true).
		SetOrderMatters(true).SetDefaultPublishHandler(conn.take).
		SetConnectionLostHandler(func(_ paho.Client, err error) {
			conn.closed <- talk.Answer{Code: -1, Reason: err.Error()}
			close(conn.gone)
		}).
		SetCustomOpenConnectionFn(func(to *url.URL, _ paho.ClientOptions) (net.Conn, error) {
			wire, err := open(to, secrets)
			if err == nil {
				conn.wire.Store(&wire)
			}
			return wire, err
		})
	if w := c.Will; w != nil {
		o.SetWill(w.Topic, w.Payload, byte(w.QoS), w.Retain)
	}
	conn.c = paho.NewClient(o)
	token := conn.c.Connect().(*paho.ConnectToken)
	conn.finished(token)
	if err := token.Error(); err != nil {
		answer := talk.Answer{Code: int(token.ReturnCode()), Reason: err.Error()}
		if errors.Is(err, packets.ErrorNetworkError) || answer.Code == 0 || answer.Code > 5 {
			answer.Code = -1
		}
		return nil, answer
	}
	answer := talk.Answer{Present: token.SessionPresent()}
	if len(c.Filters) == 0 {
		return conn, answer
	}
	filters := map[string]byte{}
	for _, f := range c.Filters {
		filters[f.Filter] = byte(f.QoS)
	}
	granted := conn.c.SubscribeMultiple(filters, nil).(*paho.SubscribeToken)
	conn.finished(granted) // a refusal is an error, and in the result too
	for _, f := range c.Filters {
		answer.Codes = append(answer.Codes, int(granted.Result()[f.Filter]))
	}
	return conn, answer
}

func secretsOf(c *talk.Connect) (*tls.Config, error) {
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, err
	}
	secrets := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: c.Host}
	if !secrets.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", c.CA)
	}
	if c.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, err
		}
		secrets.Certificates = []tls.Certificate{pair}
	}
	return secrets, nil
}

// open is what paho.mqtt.golang does itself for each scheme; here the connection is known, so that it can be cut.
func open(to *url.URL, secrets *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	switch to.Scheme {
	case "unix":
		return new(net.Dialer).DialContext(ctx, "unix", to.Path)
	case "ssl":
		return (&tls.Dialer{Config: secrets}).DialContext(ctx, "tcp", to.Host)
	case "ws", "wss":
		return paho.NewWebsocket(to.String(), secrets, patience, nil, nil)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", to.Host)
}

func (c *conn) finished(token paho.Token) {
	c.t.Helper()
	if !token.WaitTimeout(patience) {
		c.t.Fatalf("no answer in %v", patience)
	}
}

func (c *conn) take(_ paho.Client, m paho.Message) {
	c.mu.Lock()
	held := c.held
	if held {
		c.waiting = append(c.waiting, m)
	}
	c.mu.Unlock()
	if !held {
		m.Ack()
	}
	c.messages <- talk.Message{Topic: m.Topic(), Payload: string(m.Payload()), QoS: int(m.Qos()), Retain: m.Retained()}
}

func (c *conn) Publish(m talk.Message, payloads []string) (answers []talk.Answer) {
	c.t.Helper()
	var tokens []paho.Token
	for _, payload := range payloads {
		tokens = append(tokens, c.c.Publish(m.Topic, byte(m.QoS), m.Retain, payload))
	}
	for _, token := range tokens {
		// A publish of a connection that ended waits for the next one, and here there is none.
		select {
		case <-token.Done():
		case <-c.gone:
		case <-time.After(patience):
			c.t.Fatalf("no answer in %v", patience)
		}
		select {
		case <-token.Done():
		default:
			answers = append(answers, talk.Answer{Code: -1})
			continue
		}
		answer := talk.Answer{}
		if err := token.Error(); err != nil {
			answer = talk.Answer{Code: -1, Reason: err.Error()}
		}
		answers = append(answers, answer)
	}
	return answers
}

func (c *conn) Hold(on bool) {
	c.mu.Lock()
	c.held = on
	var waiting []paho.Message
	if !on {
		waiting, c.waiting = c.waiting, nil
	}
	c.mu.Unlock()
	for _, m := range waiting {
		m.Ack()
	}
}

func (c *conn) End(how string) {
	c.t.Helper()
	if how != "kill" {
		c.c.Disconnect(100)
		return
	}
	_ = (*c.wire.Load()).Close() // fails where it is closed, which is what is wanted
}

func (c *conn) Messages() <-chan talk.Message { return c.messages }

func (c *conn) Closed() <-chan talk.Answer { return c.closed }
