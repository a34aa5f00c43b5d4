package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/broker"
	"millrace/broker/disk"
)

// ends runs a command and wants its exit code; it returns what it said.
func ends(t *testing.T, code int, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if have := run(t.Context(), args, strings.NewReader(""), &out, &out); have != code {
		t.Fatalf("millrace %s ended with %d, want %d\n%s", strings.Join(args, " "), have, code, &out)
	}
	return out.String()
}

// publish sends one MQTT message and returns when it is acknowledged.
func publish(t *testing.T, address, topic, payload string, flags byte) {
	t.Helper()
	c := conversed(t, address, framed(0x10, field("MQTT")+"\x04\x02\x00\x3c"+field("publisher")), framed(0x32|flags, field(topic)+"\x00\x01"+payload))
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// furnished is a board with topics, offsets, a session and a retained message.
func furnished(t *testing.T) (data, config string, b *inProcess) {
	dir := t.TempDir()
	data, config = filepath.Join(dir, "data"), filepath.Join(dir, "board.toml")
	scram := filepath.Join(dir, "scram")
	if err := errors.Join(os.WriteFile(scram, []byte("SCRAM-SHA-512=[name=admin,password=secret]\n"), 0o600),
		os.WriteFile(config, []byte("[broker]\nnode.id = 7\ngroup.initial.rebalance.delay.ms = 0\nlog.dirs = \""+data+"\"\n[http]\nlistener = \"\"\n[security]\nadmin.scram.file = \""+scram+"\"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	b = started(t, "--config", config, "--kafka", "127.0.0.1:0", "--mqtt", "127.0.0.1:0")
	cli(t, "", "topic", "create", "whole", "-b", b.kafka, "--config", "retention.ms=123456789")
	cli(t, "", "topic", "create", "empty", "-b", b.kafka)
	for _, topic := range []string{"whole", "empty"} {
		cli(t, "one\ntwo\nthree\n", "produce", topic, "-b", b.kafka)
		cli(t, "", "consume", topic, "-b", b.kafka, "--group", "readers", "-n", "2")
	}
	c := conversed(t, b.mqtt, framed(0x10, field("MQTT")+"\x04\x00\x00\x3c"+field("sleeper")), framed(0x82, "\x00\x01"+field("q/#")+"\x01"))
	if _, err := c.Write([]byte{0xe0, 0}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) { // gone, and its session with what it waits for stays
		t.Fatal(err)
	}
	publish(t, b.mqtt, "q/1", "it waits", 0)
	publish(t, b.mqtt, "r/1", "it stays", 1)
	return data, config, b
}

// restored looks at a board that was made of a backup, which has the records of the topics whole and mqtt.
func restored(t *testing.T, was broker.Meta, data string) {
	t.Helper()
	if out := ends(t, 0, "fsck", data); !strings.Contains(out, " 0 findings") {
		t.Errorf("fsck: %s", out)
	}
	is, err := broker.ReadMeta(disk.OS{}, data)
	if err != nil || is.ClusterID != was.ClusterID || is.NodeID != was.NodeID || is.DirectoryID == was.DirectoryID {
		t.Errorf("%+v was %+v, %v: want another directory id and nothing else", is, was, err)
	}
	// The board's key comes along, for nobody else to read.
	if info, err := os.Stat(filepath.Join(data, "identity.pem")); err != nil || info.Mode() != 0o600 || info.Size() == 0 {
		t.Errorf("the board's identity: %v, %v", info, err)
	}
	config := filepath.Join(filepath.Dir(data), "restored.toml")
	raw, err := os.ReadFile(filepath.Join(data, "restored", "millrace.toml"))
	if err := errors.Join(err, os.WriteFile(config, raw, 0o600)); err != nil {
		t.Fatal(err)
	}
	if scram, err := os.ReadFile(filepath.Join(data, "restored", "1-scram")); err != nil || !strings.Contains(string(scram), "secret") {
		t.Errorf("admin.scram.file: %q, %v", scram, err)
	}
	b := started(t, "--config", config, "--data", data, "--kafka", "127.0.0.1:0", "--mqtt", "127.0.0.1:0")
	if out := cli(t, "", "consume", "whole", "-b", b.kafka, "--until-end"); out != "one\ntwo\nthree\n" {
		t.Errorf("the topic that was asked for has %q", out)
	}
	if out := cli(t, "", "topic", "describe", "whole", "-b", b.kafka); !strings.Contains(out, "123456789") {
		t.Errorf("its settings are gone:\n%s", out)
	}
	if out := cli(t, "", "topic", "describe", "empty", "-b", b.kafka, "-o", "json"); !strings.Contains(out, `"end":3`) || !strings.Contains(out, `"start":3`) {
		t.Errorf("the other topic does not go on where it was: %s", out)
	}
	// The group goes on: a record of one topic is left to it, and what comes to the other.
	cli(t, "four\n", "produce", "empty", "-b", b.kafka)
	out := cli(t, "", "consume", "whole", "-b", b.kafka, "--group", "readers", "-n", "1") + cli(t, "", "consume", "empty", "-b", b.kafka, "--group", "readers", "-n", "1", "-o", "json")
	if !strings.HasPrefix(out, "three\n") || !strings.Contains(out, `"offset":3`) {
		t.Errorf("the group read %q", out)
	}
	// The session is there, with the message that waited; so is the retained one.
	c, err := net.Dial("tcp", b.mqtt)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(append(framed(0x10, field("MQTT")+"\x04\x00\x00\x3c"+field("sleeper")), framed(0x82, "\x00\x02"+field("r/#")+"\x01")...)); err != nil {
		t.Fatal(err)
	}
	connack := make([]byte, 4)
	if _, err := io.ReadFull(c, connack); err != nil || !bytes.Equal(connack, []byte{0x20, 2, 1, 0}) {
		t.Errorf("CONNACK %x, %v: want that the session is present", connack, err)
	}
	first, second := "it waits", "it stays"
	untilBoth(t, c, first, second)
	if b.stop() != 0 {
		t.Error("it did not stop")
	}
}

func untilBoth(t *testing.T, c net.Conn, texts ...string) {
	t.Helper()
	var all []byte
	for p := make([]byte, 512); !bytes.Contains(all, []byte(texts[0])) || !bytes.Contains(all, []byte(texts[1])); {
		n, err := c.Read(p)
		if err != nil {
			t.Fatalf("after %q: %v", all, err)
		}
		all = append(all, p[:n]...)
	}
}

func TestABoardIsBackedUpAndRestored(t *testing.T) {
	data, config, b := furnished(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "board.tar.gz")
	args := []string{"backup", "--config", config, "-f", file, "--topic", "whole,mqtt"}
	if out := ends(t, 1, args...); !strings.Contains(out, "is in use by another millrace; stop it") {
		t.Errorf("of a running board: %s", out)
	}
	// As a power cut leaves it: what was acknowledged last is in the journal alone.
	cut := filepath.Join(dir, "cut")
	if err := errors.Join(os.Remove(filepath.Join(data, "control.sock")), os.CopyFS(cut, os.DirFS(data))); err != nil {
		t.Fatal(err)
	}
	if b.stop() != 0 {
		t.Fatal("it did not stop")
	}
	was, err := broker.ReadMeta(disk.OS{}, data)
	if err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{"stopped": args, "cut off": append(args, "--data", cut)} {
		t.Run(name, func(t *testing.T) {
			if out := ends(t, 0, args...); !strings.Contains(out, "whole, no other topic") {
				t.Errorf("it says %s", out)
			}
			if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
				t.Errorf("%v, %v: others may read it", info.Mode(), err)
			}
			to := filepath.Join(t.TempDir(), "data")
			var said map[string]any
			if err := json.Unmarshal([]byte(cli(t, "", "restore", "-f", file, "--data", to, "-o", "json")), &said); err != nil || said["node.id"] != 7.0 {
				t.Errorf("%v, %v", said, err)
			}
			restored(t, was, to)
		})
	}

	// Root would leave files there that the owner cannot write.
	if os.Geteuid() == 0 {
		if err := os.Chown(data, 1, 1); err != nil {
			t.Fatal(err)
		}
		if out := ends(t, 1, args...); !strings.Contains(out, "belongs to user 1, and this is user 0") {
			t.Errorf("of another user's directory: %s", out)
		}
		if err := os.Chown(data, 0, 0); err != nil {
			t.Fatal(err)
		}
	}

	// The second board of one backup is another one than the first.
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	cli(t, "", "restore", "-f", file, "--data", one)
	cli(t, "", "restore", "-f", file, "--data", two)
	a, errA := broker.ReadMeta(disk.OS{}, one)
	z, errZ := broker.ReadMeta(disk.OS{}, two)
	if errors.Join(errA, errZ) != nil || a.DirectoryID == z.DirectoryID {
		t.Errorf("%+v and %+v, %v, %v", a, z, errA, errZ)
	}

	// What is there is nobody's by accident.
	if out := ends(t, 1, "restore", "-f", file, "--data", one); !strings.Contains(out, "restore into an empty one") {
		t.Errorf("over another board: %s", out)
	}
	ends(t, 4, "backup", "--config", config, "-f", file, "--topic", "nowhere")
	ends(t, 4, "backup", "--data", filepath.Join(dir, "nowhere"), "-f", file)
	ends(t, 4, "restore", "-f", filepath.Join(dir, "nowhere"), "--data", filepath.Join(dir, "three"))
	ends(t, 2, "restore", "-f", file)
	ends(t, 2, "backup", "--config", config)
	if _, err := os.Stat(file); err != nil {
		t.Errorf("a backup that failed took the one before with it: %v", err)
	}
}

func unzipped(t *testing.T, raw []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestADamagedBackupRestoresNothing(t *testing.T) {
	_, config, b := furnished(t)
	if b.stop() != 0 {
		t.Fatal("it did not stop")
	}
	dir := t.TempDir()
	to := filepath.Join(dir, "data")
	for _, name := range []string{"board.tar", "board.tar.gz"} {
		file := filepath.Join(dir, name)
		cli(t, "", "backup", "--config", config, "-f", file, "--all-topics")
		good, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		bad := func(what string, at int, raw []byte) {
			t.Helper()
			if err := os.WriteFile(file, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			code := run(t.Context(), []string{"restore", "-f", file, "--data", to}, strings.NewReader(""), &out, &out)
			_, err := os.Stat(to)
			if code == 0 { // padding: nothing of the board is there
				if err := os.RemoveAll(to); err != nil {
					t.Fatal(err)
				}
				// Other bits may mean the same: a run of zeros can be copied from anywhere in it.
				if what != "flipped" || name == "board.tar.gz" && !bytes.Equal(unzipped(t, raw), unzipped(t, good)) {
					t.Errorf("%s %s at %d of %d was restored", name, what, at, len(good))
				}
				return
			}
			if code != exitDamage || err == nil {
				t.Errorf("%s %s at %d of %d: exit code %d, and the directory is there: %v\n%s", name, what, at, len(good), code, err == nil, &out)
			}
		}
		for i := range 40 {
			at := i * (len(good) - 1) / 39
			raw := bytes.Clone(good)
			raw[at] ^= 4
			bad("flipped", at, raw)
			if cut := i * (len(good) - 2048) / 40; cut >= 0 {
				bad("cut", cut, good[:cut])
			}
		}
	}
}
