package broker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"millrace/broker/disk"
	"millrace/broker/record"
)

// endName is the file that says how the life of a board goes on, and so how the last one ended.
const endName = "life.json"

// endMax bounds what is read of it.
const endMax = 64 << 10

// EventsTopic is where a board tells what happened to it. It is internal: no client writes there, and no MQTT subscriber gets it
// with "#".
const EventsTopic = "__millrace_events"

// What became of the last life of a board.
const (
	EndClean    = "clean"    // it was stopped
	EndCrash    = "crash"    // the process ended and the machine did not: killed, or out of memory
	EndHung     = "hung"     // it stood still, and the watchdogs were not fed
	EndWatchdog = "watchdog" // the machine was reset by its watchdog, and nobody knew why
	EndReset    = "reset"    // the machine went down: power, or a reset
	EndUnknown  = "unknown"  // the first start, or nothing is left that would tell
)

// End is how the last life of a board ended.
type End struct {
	How string `json:"how"`
	// Why says what stood still, for EndHung.
	Why string `json:"why,omitempty"`
	// Hardware is what the watchdog device says of the machine's last reset: "watchdog", "power under", …; "" nothing.
	Hardware string `json:"hardware,omitempty"`
	// BeganMS is when that life began, by the clock it had, ms; 0 where that is not known.
	BeganMS int64 `json:"began,omitempty"`
}

// lifeState is the content of the file, JSON with a checksum on a line of its own.
type lifeState struct {
	State   string `json:"state"` // "running", "stopped" or "hung"
	Why     string `json:"why,omitempty"`
	Boot    string `json:"boot"`
	BeganMS int64  `json:"began"`
	// Untold is how the life before ended, until that is published.
	Untold *End `json:"untold,omitempty"`
}

// openEnd finds out how the last life ended, and begins this one. A file that is not there, or not readable, says nothing
// and stops nobody.
func (b *Broker) openEnd(context.Context) error {
	name := filepath.Join(b.dir(), endName)
	last, err := readLife(b.config.FS, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.log.Warn("how the last life ended is not known", "err", err)
	}
	b.end = endOf(last, err == nil, b.config.Boot, b.config.Reset)
	if b.end.How == EndClean && last.Untold != nil {
		b.end = *last.Untold // a start in between did not come as far as to publish it
	}
	b.changeLife(func(l *lifeState) {
		*l = lifeState{State: "running", Boot: b.config.Boot, BeganMS: b.clock.Now().UnixMilli()}
		if b.end.How != EndClean && b.end.How != EndUnknown {
			l.Untold = &b.end
		}
	})
	b.owns(func() error {
		b.changeLife(func(l *lifeState) { l.State = "stopped" })
		return nil
	})
	switch b.end.How {
	case EndClean, EndUnknown:
	default:
		b.log.Error("the last life of this board did not end well", "how", b.end.How, "why", b.end.Why, "hardware", b.end.Hardware)
	}
	return nil
}

// endOf says how a life ended whose last state is known, when another begins.
func endOf(last lifeState, known bool, boot, hardware string) End {
	e := End{How: EndUnknown, Hardware: hardware}
	if !known {
		return e
	}
	e.BeganMS = last.BeganMS
	switch same := boot != "" && boot == last.Boot; {
	case last.State == "stopped":
		e.How, e.Hardware = EndClean, ""
	case last.State == "hung":
		e.How, e.Why = EndHung, last.Why
	case same:
		e.How, e.Hardware = EndCrash, ""
	case hardware == "watchdog":
		e.How = EndWatchdog
	default:
		e.How = EndReset
	}
	return e
}

func readLife(fsys disk.FS, name string) (l lifeState, err error) {
	body, err := readChecked(fsys, name, endMax)
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(body, &l); err != nil {
		return l, fmt.Errorf("%s: %w", name, err)
	}
	switch l.State {
	case "running", "stopped", "hung":
		return l, nil
	}
	return l, fmt.Errorf("%s: state %q", name, l.State)
}

// readChecked reads a file of at most most bytes that ends in the checksum of what is before, which it returns.
func readChecked(fsys disk.FS, name string, most int64) (body []byte, err error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	raw := make([]byte, min(info.Size(), most))
	if _, err := f.ReadAt(raw, 0); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	body = raw[:max(0, bytes.LastIndex(raw, []byte("checksum=")))]
	if !bytes.Equal(raw, appendChecksum(bytes.Clone(body))) {
		return nil, fmt.Errorf("%s: the checksum does not fit the text", name)
	}
	return body, nil
}

// Condemn writes down why the process is about to be ended by force, with what stands still as far as that is known: the
// next start tells it. It returns when that is on flash, and never where the disk hangs.
func (b *Broker) Condemn(why error) {
	if err := b.vitals.Check(); err != nil {
		why = fmt.Errorf("%w: %w", why, err)
	}
	b.changeLife(func(*lifeState) { b.doom = why })
}

// changeLife changes the state of this life, and writes it down. What fails is logged: the file explains, and nothing
// depends on it. A life that is over, or has not begun, is not changed by what hangs.
func (b *Broker) changeLife(change func(*lifeState)) {
	b.writingLife.Lock()
	defer b.writingLife.Unlock()
	if b.life.State == "stopped" {
		return // who comes late must not write over what the next life says
	}
	if change(&b.life); b.life.State == "" {
		return
	}
	if b.life.State != "stopped" {
		b.life.State, b.life.Why = "running", ""
		why := b.doom
		if still := b.why.Load(); why == nil && still != nil {
			why = *still
		}
		if why != nil {
			b.life.State, b.life.Why = "hung", why.Error()
		}
	}
	b.writeLife(b.life)
}

func (b *Broker) writeLife(l lifeState) {
	text, err := json.Marshal(l)
	if err == nil {
		err = writeWhole(cmp.Or(b.vitals.unwatched, b.config.FS), filepath.Join(b.dir(), endName), appendChecksum(append(text, '\n')), 0o644)
	}
	if err != nil {
		b.log.Warn("the state of this life is not written: the next start will not know how it ended", "err", err)
	}
}

// event is a record of EventsTopic.
type event struct {
	Event   string `json:"event"` // "start"
	AtMS    int64  `json:"at"`
	Node    int32  `json:"node"`
	Version string `json:"version,omitempty"`
	Last    End    `json:"last"`
}

// retryEvent is the time between two tries to publish an event that had no room.
const retryEvent = time.Minute

// openEvents publishes how the last life ended, where it did not end well: once, as soon as there is room for a record.
func (b *Broker) openEvents(context.Context) error {
	if b.end.How == EndClean || b.end.How == EndUnknown {
		return nil
	}
	value, err := json.Marshal(event{"start", b.clock.Now().UnixMilli(), b.meta.NodeID, b.config.Version, b.end})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			done := make(chan error, 1)
			b.appendKeyed(ctx, EventsTopic, record.Record{Key: []byte("start"), Value: value}, func(err error) { done <- err })
			select {
			case err := <-done:
				if err == nil {
					b.changeLife(func(l *lifeState) { l.Untold = nil })
					return
				}
				b.log.Warn("an event is not published; tried again", "topic", EventsTopic, "err", err, "after", retryEvent)
			case <-ctx.Done():
				return
			}
			wait := time.NewTimer(retryEvent)
			select {
			case <-wait.C:
			case <-ctx.Done():
				wait.Stop()
				return
			}
		}
	}()
	b.owns(func() error {
		stop()
		<-ended
		return nil
	})
	return nil
}

// End says how the last life of this board ended.
func (b *Broker) End() End { return b.end }
