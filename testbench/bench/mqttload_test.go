package main

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"testing"

	"millrace/bridge/mqtt"
	"millrace/bridge/mqtt/mqtttest"
	"millrace/bridge/mqtt/packet"
)

// A crowd that counted wrongly, or left clients out, would measure less than it says.
func TestTheCrowdCountsWhatItPublishesAndGets(t *testing.T) {
	s, err := mqtt.New(mqtt.Config{Log: &mqtttest.Log{}, AllowAnonymous: true})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	defer func() {
		if err := errors.Join(s.Close()); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, mqtt.ErrClosed) {
			t.Error(err)
		}
	}()
	for name, a := range map[string]loadArgs{
		"publish":  {Version: packet.V311, Publishers: 9, Groups: 1, Topic: "publish", Window: 8, Payload: 128},
		"fan-out":  {Version: packet.V311, Publishers: 2, Subscribers: 5, Groups: 1, Topic: "out", Window: 16, Rate: 500},
		"p2p":      {Version: packet.V5, Publishers: 4, Subscribers: 4, Groups: 4, Topic: "p2p", Window: 1},
		"sharesub": {Version: packet.V5, Publishers: 6, Subscribers: 3, Groups: 3, Topic: "in", Window: 16, Rate: 600, Share: true},
	} {
		t.Run(name, func(t *testing.T) {
			a.Address, a.PID, a.Name, a.Seconds = l.Addr().String(), os.Getpid(), name+"-", 0.2
			in, err := json.Marshal(a)
			if err != nil {
				t.Fatal(err)
			}
			got, err := childLoad(in)
			if err != nil {
				t.Fatal(err)
			}
			r := got.(loadResult)
			switch {
			case r.Missing != 0 || r.Published <= 0 || r.Connects <= 0 || r.Peak <= 0 || r.AckP99 <= 0:
			case a.Subscribers > 0 && r.Delivered <= 0:
			case a.Rate > 0 && (r.P99 <= 0 || r.Published > 2*float64(a.Rate)):
			case a.Subscribers == 0 && r.Delivered != 0:
			default:
				return
			}
			t.Errorf("%+v", r)
		})
	}
}

// Waiting for half a message, or for a refusal that came, would hang the bench.
func TestTheCrowdSaysThatItIsRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = c.Write((&packet.Connack{Reason: packet.ServerUnavailable}).Append(nil, packet.V5))
		}
		served <- err
		<-t.Context().Done()
	}()
	in, err := json.Marshal(loadArgs{Address: l.Addr().String(), PID: os.Getpid(), Name: "x", Version: packet.V5, Publishers: 1, Groups: 1})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := childLoad(in); err == nil {
		t.Errorf("%+v", r)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}
