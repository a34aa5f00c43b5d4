package kafka

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Place is what makes a process a node of a cluster in KRaft mode, broker and controller at once.
type Place struct {
	// ID is the node's number in its cluster, from 1.
	ID int
	// Dir is where its log is.
	Dir string
	// Controllers are the addresses of the controllers of all nodes, in the order of their numbers.
	Controllers []string
	// Listeners are its doors. The brokers talk to each other through the first, which must be PLAINTEXT.
	Listeners []Listener
}

// Listener is a door of a node.
type Listener struct {
	Name string
	// Protocol is PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
	Protocol string
	// Address is where it listens, and Advertised where it says that it does: "host:port".
	Address, Advertised string
}

// Properties are lines of server.properties. Kafka's own topics have as many replicas as a cluster of this size can give
// them, at most three.
func (p Place) Properties() []string {
	var voters, listeners, advertised []string
	for i, at := range p.Controllers {
		voters = append(voters, fmt.Sprintf("%d@%s", i+1, at))
	}
	protocols := []string{"CONTROLLER:PLAINTEXT"}
	for _, l := range p.Listeners {
		listeners = append(listeners, l.Name+"://"+l.Address)
		advertised = append(advertised, l.Name+"://"+l.Advertised)
		protocols = append(protocols, l.Name+":"+l.Protocol)
	}
	listeners = append(listeners, "CONTROLLER://"+p.Controllers[p.ID-1])
	replicas := min(len(p.Controllers), 3)
	synced := (replicas + 1) / 2
	return []string{
		"process.roles=broker,controller", fmt.Sprint("node.id=", p.ID),
		"controller.quorum.voters=" + strings.Join(voters, ","),
		"listeners=" + strings.Join(listeners, ","),
		"advertised.listeners=" + strings.Join(advertised, ","),
		"controller.listener.names=CONTROLLER", "inter.broker.listener.name=" + p.Listeners[0].Name,
		"listener.security.protocol.map=" + strings.Join(protocols, ","),
		"log.dirs=" + p.Dir,
		fmt.Sprint("offsets.topic.replication.factor=", replicas),
		fmt.Sprint("transaction.state.log.replication.factor=", replicas), fmt.Sprint("transaction.state.log.min.isr=", synced),
	}
}

// Format prepares the directory of a node, as Kafka must be told to: java and its arguments, the node's properties file,
// the cluster's id, and what else its storage tool is to be told.
func Format(ctx context.Context, java []string, file, cluster string, args ...string) error {
	words := append(append([]string{}, java...), "kafka.tools.StorageTool", "format", "-t", cluster, "-c", file)
	cmd := exec.CommandContext(ctx, words[0], append(words[1:], args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("format: %w\n%s", err, bytes.TrimSpace(out))
	}
	return nil
}

// formatted are the files that the storage tool has made of its arguments: all but the names of cluster and node is in them,
// and to start it takes as long as some tests.
var formatted sync.Map // of []byte

// format is Format for a node of a test, but that what was made once is made by copying.
func format(t testing.TB, jars, file, dir, cluster string, id int, args []string) error {
	checkpoint, key := filepath.Join(dir, "bootstrap.checkpoint"), strings.Join(args, "\n")
	made, ok := formatted.Load(key)
	if !ok {
		if err := Format(t.Context(), serverCommand(jars, heap), file, cluster, args...); err != nil {
			return err
		}
		raw, err := os.ReadFile(checkpoint)
		if err == nil {
			formatted.Store(key, raw)
		}
		return err
	}
	var directory [16]byte
	_, _ = rand.Read(directory[:]) // never fails
	properties := fmt.Sprintf("version=1\ncluster.id=%s\nnode.id=%d\ndirectory.id=%s\n", cluster, id, base64.RawURLEncoding.EncodeToString(directory[:]))
	return errors.Join(
		os.Mkdir(dir, 0o700),
		os.WriteFile(checkpoint, made.([]byte), 0o600),
		os.WriteFile(filepath.Join(dir, "meta.properties"), []byte(properties), 0o600),
	)
}

// NewID is the id of a new cluster. It never begins with a hyphen, which tools take for an option.
func NewID() string {
	var raw [8]byte
	_, _ = rand.Read(raw[:]) // never fails
	return base64.RawURLEncoding.EncodeToString([]byte(hex.EncodeToString(raw[:])))
}
