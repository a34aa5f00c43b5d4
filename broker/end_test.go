package broker

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/broker/record"
	"millrace/platform/config"
)

// born opens a board in a life of its own.
func born(t *testing.T, dir, boot, reset string) *Broker {
	t.Helper()
	s := config.Default()
	s.Broker.LogDirs, s.Broker.ClusterAlias = dir, "test"
	s.Broker.Listeners, s.MQTT.Listeners, s.HTTP.Listener = []string{"PLAINTEXT://127.0.0.1:0"}, []string{"tcp://127.0.0.1:0"}, ""
	b, err := Open(t.Context(), Config{Settings: s, Boot: boot, Reset: reset, Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// lastEvent is the last event of a board.
func lastEvent(t *testing.T, b *Broker) (e event) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("nothing was published in a minute")
		}
		list, ok := b.Topic(EventsTopic)
		if !ok || list[0].High() == 0 {
			continue
		}
		span, err := list[0].Read(list[0].High()-1, 1)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := span.Append(nil)
		span.Release()
		if err != nil {
			t.Fatal(err)
		}
		for r, err := range record.Batch(raw).Records(1 << 20) {
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(r.Value, &e); err != nil {
				t.Fatal(err)
			}
		}
		return e
	}
}

func TestHowTheLastLifeEndedIsKnownAndPublished(t *testing.T) {
	for _, of := range []struct {
		name        string
		end         func(b *Broker)
		boot, reset string // of the next life
		want        End
	}{
		{"a stop", func(*Broker) {}, "two", "watchdog", End{How: EndClean}},
		{"a kill", func(b *Broker) { b.writeLife(lifeState{State: "running", Boot: "one"}) }, "one", "", End{How: EndCrash}},
		{"power", func(b *Broker) { b.writeLife(lifeState{State: "running", Boot: "one"}) }, "two", "power under", End{How: EndReset, Hardware: "power under"}},
		{"a watchdog nobody starved", func(b *Broker) { b.writeLife(lifeState{State: "running", Boot: "one"}) }, "two", "watchdog", End{How: EndWatchdog, Hardware: "watchdog"}},
		{"a watchdog", func(b *Broker) { b.writeLife(lifeState{State: "hung", Boot: "one", Why: "the committer"}) }, "two", "watchdog", End{How: EndHung, Why: "the committer", Hardware: "watchdog"}},
		{"a service manager's watchdog", func(b *Broker) { b.writeLife(lifeState{State: "hung", Boot: "one", Why: "the committer"}) }, "one", "", End{How: EndHung, Why: "the committer"}},
		{"an unreadable file", func(b *Broker) {
			if err := os.WriteFile(filepath.Join(b.dir(), endName), []byte("{"), 0o600); err != nil {
				t.Error(err)
			}
		}, "two", "", End{How: EndUnknown}},
	} {
		t.Run(of.name, func(t *testing.T) {
			dir := t.TempDir()
			b := born(t, dir, "one", "")
			if b.End().How != EndUnknown {
				t.Errorf("the first life follows %+v", b.End())
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			of.end(b)
			b = born(t, dir, of.boot, of.reset)
			got := b.End()
			got.BeganMS = 0
			if got != of.want {
				t.Errorf("%+v, want %+v", got, of.want)
			}
			if _, told := b.Topic(EventsTopic); of.want.How == EndClean || of.want.How == EndUnknown {
				if told {
					t.Error("nothing happened, and an event is published")
				}
			} else if e := lastEvent(t, b); e.Event != "start" || e.Last != b.End() || e.Version != "v1" || e.Node != 1 {
				t.Errorf("published %+v", e)
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			b = born(t, dir, of.boot, "")
			if b.End().How != EndClean {
				t.Errorf("and then %+v", b.End())
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// What starves the watchdogs is on the disk before they bite.
func TestWhyABoardHungIsWrittenDown(t *testing.T) {
	l := newLife(t, func(c *Config) { c.Boot = "one" })
	l.lives(0, "before")
	block := make(chan struct{})
	timer := l.b.pulse.NewTimer(func() { <-block })
	timer.Reset(0)
	l.dies("the reaper")
	var state lifeState
	for began := time.Now(); state.State != "hung"; time.Sleep(5 * time.Millisecond) {
		var err error
		if state, err = readLife(l.fs, filepath.Join(l.b.dir(), endName)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("%+v", state)
		}
	}
	if !strings.Contains(state.Why, "the reaper") || state.Boot != "one" {
		t.Errorf("%+v", state)
	}
	close(block)
	timer.Close()
	for began := time.Now(); state.State != "running"; time.Sleep(5 * time.Millisecond) { // it goes on, after all
		var err error
		if state, err = readLife(l.fs, filepath.Join(l.b.dir(), endName)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("%+v", state)
		}
	}
}

// A start that does not come as far as to publish how the last life ended leaves that to the next.
func TestHowALifeEndedOutlivesAStartThatFails(t *testing.T) {
	dir := t.TempDir()
	b := born(t, dir, "one", "")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.writeLife(lifeState{State: "hung", Boot: "one", Why: "the committer"})
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s := config.Default()
	s.Broker.LogDirs, s.Broker.ClusterAlias = dir, "test"
	s.Broker.Listeners, s.MQTT.Listeners, s.HTTP.Listener = []string{"PLAINTEXT://" + taken.Addr().String()}, []string{"tcp://127.0.0.1:0"}, ""
	for range 2 {
		if _, err := Open(t.Context(), Config{Settings: s, Boot: "two"}); err == nil {
			t.Fatal("it has taken the address of somebody else")
		}
	}
	b = born(t, dir, "two", "")
	if e := b.End(); e.How != EndHung || e.Why != "the committer" {
		t.Errorf("%+v", e)
	}
	if e := lastEvent(t, b); e.Last != b.End() {
		t.Errorf("published %+v", e)
	}
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) { // it is told: once is enough
		l, err := readLife(b.config.FS, filepath.Join(dir, endName))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if err == nil && l.Untold == nil {
			break
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("%+v", l)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if b = born(t, dir, "two", ""); b.End().How != EndClean {
		t.Errorf("and then %+v", b.End())
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// A life that the service manager ends says so, whatever its parts say of themselves until it is over.
func TestACondemnedLifeIsHung(t *testing.T) {
	dir := t.TempDir()
	b := born(t, dir, "boot 1", "")
	b.Condemn(errors.New("no sign of life"))
	b.tellHung(nil) // the parts go on again
	l, err := readLife(b.config.FS, filepath.Join(dir, endName))
	if end := endOf(l, err == nil, "boot 2", ""); end.How != EndHung || end.Why != "no sign of life" {
		t.Errorf("the next life is told %+v, %v", end, err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = readLife(b.config.FS, filepath.Join(dir, endName)); err != nil || l.State != "stopped" {
		t.Errorf("after a clean stop: %+v, %v", l, err)
	}
}
