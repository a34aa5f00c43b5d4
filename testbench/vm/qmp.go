package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// qmp is one conversation in QEMU's machine protocol (QMP). It is for one goroutine; events are passed over.
type qmp struct {
	conn net.Conn
	in   *json.Decoder
}

// accept takes the connection of a QEMU that has just been started.
func accept(l *net.UnixListener) (*qmp, error) {
	if err := l.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	conn, err := l.Accept()
	if err != nil {
		return nil, err
	}
	q := &qmp{conn, json.NewDecoder(conn)}
	var greeting struct{ QMP json.RawMessage }
	if err := errors.Join(conn.SetDeadline(time.Now().Add(patience)), q.in.Decode(&greeting)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if _, err := q.command("qmp_capabilities", nil); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return q, nil
}

// command returns what QEMU answers to a command.
func (q *qmp) command(name string, args map[string]any) (json.RawMessage, error) {
	request := map[string]any{"execute": name}
	if args != nil {
		request["arguments"] = args
	}
	if err := q.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if err := json.NewEncoder(q.conn).Encode(request); err != nil {
		return nil, err
	}
	for {
		var answer struct {
			Return json.RawMessage
			Error  *struct{ Class, Desc string }
			Event  string
		}
		if err := q.in.Decode(&answer); err != nil {
			return nil, err
		}
		switch {
		case answer.Event != "":
		case answer.Error != nil:
			return nil, fmt.Errorf("%s: %s", answer.Error.Class, answer.Error.Desc)
		default:
			return answer.Return, nil
		}
	}
}

func (q *qmp) close() error { return q.conn.Close() }
