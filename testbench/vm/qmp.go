package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

// qmp is one conversation in QEMU's machine protocol (QMP). It is for one goroutine.
type qmp struct {
	conn    net.Conn
	answers chan answer
	events  chan string  // names
	bites   atomic.Int64 // of the hardware watchdog
	ended   chan struct{}
}

// answer is what QEMU says: the answer to a command, or an event.
type answer struct {
	Return json.RawMessage
	Error  *struct{ Class, Desc string }
	Event  string
}

// eventsMax is how many events may wait to be looked at; a board makes a few in its life.
const eventsMax = 1000

// accept takes the connection of a QEMU that has just been started.
func accept(l *net.UnixListener) (*qmp, error) {
	if err := l.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	conn, err := l.Accept()
	if err != nil {
		return nil, err
	}
	q := &qmp{conn: conn, answers: make(chan answer, 16), events: make(chan string, eventsMax), ended: make(chan struct{})}
	in := json.NewDecoder(conn)
	var greeting struct{ QMP json.RawMessage }
	if err := in.Decode(&greeting); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	go q.read(in)
	if _, err := q.command("qmp_capabilities", nil); err != nil {
		return nil, errors.Join(err, q.close())
	}
	return q, nil
}

// read ends with the connection.
func (q *qmp) read(in *json.Decoder) {
	defer close(q.ended)
	defer close(q.answers)
	for {
		var a answer
		if in.Decode(&a) != nil {
			return
		}
		if a.Event == "" {
			q.answers <- a
			continue
		}
		if a.Event == "WATCHDOG" {
			q.bites.Add(1)
		}
		select {
		case q.events <- a.Event:
		default:
		}
	}
}

// command returns what QEMU answers to a command.
func (q *qmp) command(name string, args map[string]any) (json.RawMessage, error) {
	request := map[string]any{"execute": name}
	if args != nil {
		request["arguments"] = args
	}
	if err := json.NewEncoder(q.conn).Encode(request); err != nil {
		return nil, err
	}
	select {
	case a, open := <-q.answers:
		switch {
		case !open:
			return nil, errors.New("the board is off")
		case a.Error != nil:
			return nil, fmt.Errorf("%s: %s", a.Error.Class, a.Error.Desc)
		}
		return a.Return, nil
	case <-time.After(patience):
		return nil, errors.New("no answer")
	}
}

// event waits until something has happened since it was last asked, and says whether it has within the limit.
func (q *qmp) event(name string, limit time.Duration) bool {
	late := time.NewTimer(limit)
	defer late.Stop()
	for {
		select {
		case event := <-q.events:
			if event == name {
				return true
			}
		case <-q.ended:
			return false
		case <-late.C:
			return false
		}
	}
}

func (q *qmp) close() error {
	err := q.conn.Close()
	<-q.ended
	return err
}
