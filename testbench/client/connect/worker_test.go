package connect

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
)

const class = "org.apache.kafka.connect.cli.ConnectDistributed"

// worker is a process of Connect.
type worker struct {
	w   *world
	at  string // of its REST door, and so its name
	cmd *exec.Cmd
	out bytes.Buffer
}

// start starts a worker with the defaults, but for what makes a test quick: how often the source notes how far it is, how
// soon a worker that says nothing is given up, and that its tasks are then not kept for it.
func (w *world) start() *worker {
	w.t.Helper()
	k := &worker{w: w, at: lane.FreeAddress(w.t)}
	text := strings.Join([]string{
		"bootstrap.servers=" + w.board.Kafka(),
		"group.id=connect",
		"config.storage.topic=connect-configs", "config.storage.replication.factor=1",
		"offset.storage.topic=connect-offsets", "offset.storage.replication.factor=1",
		"status.storage.topic=connect-status", "status.storage.replication.factor=1",
		"key.converter=org.apache.kafka.connect.storage.StringConverter",
		"value.converter=org.apache.kafka.connect.storage.StringConverter",
		"listeners=http://" + k.at,
		"plugin.discovery=service_load",
		"offset.flush.interval.ms=500",
		"session.timeout.ms=6000", "heartbeat.interval.ms=1000",
		"scheduled.rebalance.max.delay.ms=0",
		"task.shutdown.graceful.timeout.ms=60000",
	}, "\n") + "\n"
	file := filepath.Join(w.t.TempDir(), "worker.properties")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	k.cmd = kafka.Command(w.t, class, file)
	k.cmd.Stdout, k.cmd.Stderr = &k.out, &k.out
	if err := k.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		kafka.End(w.t, k.cmd, os.Kill)
		if w.t.Failed() {
			w.t.Logf("a worker said:\n%s", k.out.Bytes())
		}
	})
	lane.Until(w.t, "the worker answers", func(ctx context.Context) error {
		_, err := k.ask(ctx, http.MethodGet, "/connectors", nil)
		return err
	})
	return k
}

// ask sends one request to the worker's REST door, and returns a body of status 2xx.
func (k *worker) ask(ctx context.Context, method, path string, body any) ([]byte, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+k.at+path, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err = io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s %s", method, path, resp.Status, raw)
	}
	return raw, err
}

// do sends a request until it succeeds: in the middle of a rebalance it is refused.
func (k *worker) do(method, path string, body any) {
	k.w.t.Helper()
	lane.Until(k.w.t, method+" "+path, func(ctx context.Context) error {
		_, err := k.ask(ctx, method, path, body)
		return err
	})
}

// status waits until a connector and its one task are in a state, and returns the workers they run at.
func (k *worker) status(connector, state string) (at []string) {
	k.w.t.Helper()
	lane.Until(k.w.t, connector+" is "+state, func(ctx context.Context) error {
		var is struct {
			Connector placed
			Tasks     []placed
		}
		raw, err := k.ask(ctx, http.MethodGet, "/connectors/"+connector+"/status", nil)
		if err == nil {
			err = json.Unmarshal(raw, &is)
		}
		right := is.Connector.State == state && (state != "RUNNING" || len(is.Tasks) == 1)
		at = []string{is.Connector.Worker}
		for _, task := range is.Tasks {
			right = right && task.State == state
			at = append(at, task.Worker)
		}
		if err == nil && !right {
			err = fmt.Errorf("%s", raw)
		}
		return err
	})
	return at
}

// placed is where something runs.
type placed struct {
	State  string
	Worker string `json:"worker_id"`
}

// noted is how far a connector has noted to be: the source in bytes of its file, the sink in records of the topic.
func (k *worker) noted(ctx context.Context, connector string) (int, error) {
	var is struct {
		Offsets []struct {
			Offset struct {
				Position int
				Kafka    int `json:"kafka_offset"`
			}
		}
	}
	raw, err := k.ask(ctx, http.MethodGet, "/connectors/"+connector+"/offsets", nil)
	if err == nil {
		err = json.Unmarshal(raw, &is)
	}
	if err != nil || len(is.Offsets) != 1 {
		return 0, fmt.Errorf("%s: %v", raw, err)
	}
	return is.Offsets[0].Offset.Position + is.Offsets[0].Offset.Kafka, nil
}
