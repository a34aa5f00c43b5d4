package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/pbkdf2"
	"crypto/sha512"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/broker/auth"
	"millrace/broker/auth/authtest"
)

// inProcess is a broker in this process.
type inProcess struct {
	kafka, mqtt string
	stop        func() int
}

// started runs `millrace serve -o json` with the arguments.
func started(t *testing.T, args ...string) *inProcess {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	code := make(chan int, 1)
	var log bytes.Buffer
	go func() {
		code <- run(ctx, append([]string{"serve", "-o", "json"}, args...), strings.NewReader(""), in, &log)
		_ = in.Close()
	}()
	line, err := bufio.NewReader(out).ReadBytes('\n')
	var ready struct{ Kafka, MQTT []string }
	if err := errors.Join(err, json.Unmarshal(line, &ready)); err != nil {
		cancel()
		t.Fatalf("it did not start: %v, exit code %d\n%s", err, <-code, &log)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }() // ends with the pipe
	b := &inProcess{kafka: ready.Kafka[0], mqtt: ready.MQTT[0]}
	b.stop = func() int {
		cancel()
		c := <-code
		code <- c
		return c
	}
	t.Cleanup(func() {
		if c := b.stop(); c != 0 {
			t.Errorf("the broker ended with %d\n%s", c, &log)
		}
	})
	return b
}

// cli runs a command and returns what it printed; it must end well.
func cli(t *testing.T, in string, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(t.Context(), args, strings.NewReader(in), &out, &errs); code != 0 {
		t.Fatalf("millrace %s ended with %d\n%s", strings.Join(args, " "), code, &errs)
	}
	return out.String()
}

// field is a string, or bytes, as MQTT writes one.
func field(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }

func framed(kind byte, body string) []byte {
	return append([]byte{kind, byte(len(body)&0x7f | 0x80), byte(len(body) >> 7)}, body...)
}

// conversed sends packets to an MQTT listener and waits for the first bytes of an answer to each. The connection stays.
func conversed(t *testing.T, address string, packets ...[]byte) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	for _, p := range packets {
		answer := make([]byte, 64)
		_, err := c.Write(p)
		n, readErr := c.Read(answer)
		if err := errors.Join(err, readErr); err != nil || n == 0 {
			t.Fatalf("%x was not answered: %v", p[0], err)
		}
	}
	return c
}

// unpacked are the files of an archive.
func unpacked(t *testing.T, name string) map[string]string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Mode() != 0o600 {
		t.Errorf("%s has mode %v, want only its owner to read it", name, info.Mode())
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(h.Name, "millrace-support/")] = string(text)
	}
}

// forms are how bytes can be written: as they are, in hex, and in base64 wherever in it they stand.
func forms(secret string) (all []string) {
	all = append(all, secret, hex.EncodeToString([]byte(secret)), strings.ToUpper(hex.EncodeToString([]byte(secret))), fmt.Sprint([]byte(secret)))
	for shift := range 3 {
		for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			text := e.EncodeToString(append(make([]byte, shift), secret...))
			all = append(all, text[2*shift:len(text)-2]) // without the letters that hold bits of what is beside it
		}
	}
	return all
}

// planted is a board with secrets in every place that has any.
type planted struct {
	dir, data, config string
	login             []string
	secrets           map[string]string
	broker            *inProcess
}

func plant(t *testing.T) *planted {
	p := &planted{dir: t.TempDir()}
	p.data, p.config = filepath.Join(p.dir, "data"), filepath.Join(p.dir, "board.toml")
	write := func(name, text string) string {
		path := filepath.Join(p.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca := authtest.NewAuthority(t)
	root := ca.WriteAuthority(p.dir)
	cert, key := ca.Write(p.dir, "board", ca.Issue(pkix.Name{CommonName: "board"}, time.Now().Add(time.Hour)))
	pem, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}

	const password, salt = "admin-password-planted-1", "salt-planted-sixteen"
	salted, err := pbkdf2.Key(sha512.New, password, []byte(salt), 4096, 64)
	if err != nil {
		t.Fatal(err)
	}
	credential, err := auth.FromSalted(auth.ScramSHA512, []byte(salt), 4096, salted)
	if err != nil {
		t.Fatal(err)
	}
	scram := write("scram", fmt.Sprintf("SCRAM-SHA-512=[name=admin,iterations=4096,salt=%q,saltedpassword=%q]\n",
		base64.StdEncoding.EncodeToString([]byte(salt)), base64.StdEncoding.EncodeToString(salted)))
	write("board.toml", fmt.Sprintf("[broker]\nlisteners = [\"SASL_SSL://127.0.0.1:0\"]\nlog.dirs = %q\n[mqtt]\nlisteners = [\"tcp://127.0.0.1:0\"]\n"+
		"[http]\nlistener = \"\"\n[security]\nadmin.scram.file = %q\ntls.cert.file = %q\ntls.key.file = %q\n[log]\nlevel = \"debug\"\n"+
		"[[mqtt.route]]\nfilter = \"x/#\"\ntopic = \"x\"\nheaders = { api_token = \"header-planted-token\" }\n", p.data, scram, cert, key))
	p.login = []string{"--user", "admin", "--password-file", write("password", password), "--tls-ca", root}
	p.secrets = map[string]string{
		"the admin's password": password, "the admin's salt": salt, "the salted password": string(salted), "the stored key": string(credential.StoredKey),
		"the server key": string(credential.ServerKey), "the private key": strings.Split(string(pem), "\n")[1][:40], "a header of a route": "header-planted-token",
		"a user's password": "ann-password-planted-2", "a record's value": "record-value-planted-3", "a record's key": "record-key-planted-4",
		"a will": "will-payload-planted-5", "an MQTT password": "mqtt-password-planted-6", "a retained message": "retained-planted-7", "what a session waits for": "queued-planted-8",
		"a wrong password": "wrong-password-planted-9",
	}

	p.broker = started(t, "--config", p.config)
	login := func(args ...string) []string { return append(append(args, "-b", p.broker.kafka), p.login...) }
	cli(t, p.secrets["a user's password"]+"\n", login("user", "add", "ann")...)
	cli(t, "", login("acl", "add", "--allow", "*", "--operation", "read,write", "--topic-filter", "#")...)
	cli(t, p.secrets["a record's key"]+"="+p.secrets["a record's value"]+"\n", login("produce", "plain", "-K", "=")...)
	wrong := append(login("topic", "list")[:4:4], "--user", "admin", "--tls-ca", root, "--password-file", write("wrong", p.secrets["a wrong password"]))
	var none bytes.Buffer
	if run(t.Context(), wrong, strings.NewReader(""), &none, &none) == 0 {
		t.Fatal("a wrong password is good")
	}
	// MQTT 3.1.1: a session that stays, with a will, and a subscription that has messages waiting.
	connect := func(id string) []byte {
		return framed(0x10, field("MQTT")+"\x04\xe4\x00\x3c"+field(id)+field("will/topic")+field(p.secrets["a will"])+field("bob")+field(p.secrets["an MQTT password"]))
	}
	conversed(t, p.broker.mqtt, connect("refused")) // its password is nobody's
	anonymous := framed(0x10, field("MQTT")+"\x04\x24\x00\x3c"+field("sensor")+field("will/topic")+field(p.secrets["a will"]))
	// A clean disconnect would take the will with it.
	c := conversed(t, p.broker.mqtt, anonymous, framed(0x82, "\x00\x01"+field("q/#")+"\x01"))
	if err := c.Close(); err != nil { // the will is published, the session waits
		t.Fatal(err)
	}
	c = conversed(t, p.broker.mqtt, framed(0x10, field("MQTT")+"\x04\x26\x00\x3c"+field("other")+field("will/topic")+field(p.secrets["a will"])),
		framed(0x33, field("r/t")+"\x00\x01"+p.secrets["a retained message"]), framed(0x32, field("q/1")+"\x00\x02"+p.secrets["what a session waits for"]))
	t.Cleanup(func() { _ = c.Close() })
	return p
}

// clean looks for the secrets in an archive's files.
func (p *planted) clean(t *testing.T, files map[string]string) {
	t.Helper()
	for name, text := range files {
		for what, secret := range p.secrets {
			for _, form := range forms(secret) {
				if strings.Contains(text, form) {
					t.Errorf("%s is in %s, as %.60q", what, name, form)
				}
			}
		}
	}
}

func holds(t *testing.T, files map[string]string, want map[string]string) {
	t.Helper()
	for name, text := range want {
		if !strings.Contains(files[name], text) {
			t.Errorf("%s does not hold %q:\n%.3000s", name, text, files[name])
		}
	}
}

func TestSupportHelpsAndTellsNoSecret(t *testing.T) {
	p := plant(t)
	file := filepath.Join(p.dir, "support.tar.gz")
	cli(t, "", "support", "--config", p.config, "-f", file)
	files := unpacked(t, file)
	p.clean(t, files)
	holds(t, files, map[string]string{
		"status.json": `"state":"serving"`, "config.toml": "admin.scram.file = ", "catalog.json": `"name":"ann"`, "metrics.txt": "millrace_mqtt_publishes_total",
		"log.txt": "a user of admin.scram.file was made", "meta.json": "ClusterID", "files.txt": "topics/plain-0", "doctor.json": `"check": "memory"`,
		"index.txt": "missing  fsck.json: a broker has the directory",
	})
	holds(t, files, map[string]string{"catalog.json": `"name":"__mqtt_retained"`, "config.toml": `"api_token" = "(hidden)"`})
	// The search finds what is there: the same secrets are in the data, and in the file that made the first user.
	found := 0
	var all bytes.Buffer
	if err := filepath.Walk(p.dir, func(name string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(name)
		all.Write(raw)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, secret := range p.secrets {
		for _, form := range forms(secret) {
			if bytes.Contains(all.Bytes(), []byte(form)) {
				found++
				break
			}
		}
	}
	if found < len(p.secrets)-3 { // of passwords there is only what they can be checked with
		t.Errorf("only %d of %d secrets were planted", found, len(p.secrets))
	}

	if p.broker.stop() != 0 {
		t.Fatal("it did not stop")
	}
	cli(t, "", "support", "--config", p.config, "-f", file)
	files = unpacked(t, file)
	p.clean(t, files)
	holds(t, files, map[string]string{
		"index.txt": "status.json, metrics.txt: no broker runs", "fsck.json": `"findings": []`, "catalog.json": `"name": "ann"`, "config.toml": "admin.scram.file = ",
	})

	// Damage everywhere, and a configuration with a secret in the wrong place.
	if err := filepath.Walk(p.data, func(name string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() || info.Size() < 8 {
			return err
		}
		raw, err := os.ReadFile(name)
		for i := 7; i < len(raw); i += 512 {
			raw[i] ^= 0x20
		}
		return errors.Join(err, os.WriteFile(name, raw, 0o600))
	}); err != nil {
		t.Fatal(err)
	}
	p.secrets["a password where none belongs"] = "misplaced-planted-10"
	raw, err := os.ReadFile(p.config)
	if err := errors.Join(err, os.WriteFile(p.config, append(raw, "\n[watchdog]\ntimeout = \"misplaced-planted-10\"\n"...), 0o600)); err != nil {
		t.Fatal(err)
	}
	cli(t, "", "support", "--config", p.config, "--data", p.data, "-f", file)
	files = unpacked(t, file)
	p.clean(t, files)
	holds(t, files, map[string]string{"index.txt": "missing  config.toml: the configuration has mistakes at " + p.config + ":"})
	holds(t, files, map[string]string{"files.txt": "topics/plain-0"})
	t.Log(files["index.txt"])
}

func TestWhatLooksLikeASecretIsHidden(t *testing.T) {
	for text, want := range map[string]string{
		`sasl.jaas.config=org.Module required password="x y" ;`:                            `sasl.jaas.config="(hidden)" required password="(hidden)" ;`,
		`"password": "a\"b", "name": "ann"`:                                                `"password": "(hidden)", "name": "ann"`,
		"SCRAM-SHA-256=[name=ann,salt=c2FsdA==,saltedpassword=abc=,iterations=4096]":       `SCRAM-SHA-256=[name=ann,salt="(hidden)",saltedpassword="(hidden)",iterations=4096]`,
		`password.file = "/etc/p" tls.key.file = "k"`:                                      `password.file = "/etc/p" tls.key.file = "k"`,
		"a\n-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----\nb":          "a\n(hidden)\nb",
		"cut -----BEGIN PRIVATE KEY-----\nMHc\nno end":                                     "cut (hidden)",
		`level=WARN msg="a login failed" component=http remote=127.0.0.1:1 StoredKey=AAA=`: `level=WARN msg="a login failed" component=http remote=127.0.0.1:1 StoredKey="(hidden)"`,
	} {
		if have := string(redacted([]byte(text))); have != want {
			t.Errorf("%q became %q, want %q", text, have, want)
		}
	}
}
