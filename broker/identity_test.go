package broker

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/platform/config"
	"millrace/platform/identity"
)

// A cut at any operation of the first start, or of a renewal, leaves the key that was there, or the new one where nobody was
// told of it yet; never a stranger, and never nothing where something was durable.
func TestAKeySurvivesPowerCuts(t *testing.T) {
	names := func() identity.Names { return identity.Names{DNS: []string{"board"}} }
	told, untold := 0, 0
	for seed := range uint64(60) {
		root := t.TempDir()
		dir := filepath.Join(root, "disk", "data")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		fs := disktest.New(disk.OS{})
		if err := fs.Record(filepath.Dir(dir)); err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(seed, 21))
		files := IdentityFiles(fs, dir)
		fs.StopAt(1 + rng.Int64N(24))
		var first, next *identity.Identity // what was said to be durable
		if i, found, err := identity.Open(files, names); err == nil && found.Unsaved == nil {
			first = i
			if n, err := identity.New(names(), i.Key()); err != nil {
				t.Fatal(err)
			} else if err := identity.Save(files, n); err == nil {
				next = n
			}
		}
		fs.Stop()
		for range 4 {
			left := filepath.Join(root, "left")
			if err := fs.Cut(rng, left); err != nil {
				t.Fatal(err)
			}
			i, found, err := identity.Open(IdentityFiles(disk.OS{}, filepath.Join(left, "data")), names)
			switch {
			case err != nil || found.Unsaved != nil:
				t.Fatalf("seed %d: %+v, %v", seed, found, err)
			case next != nil && i.Fingerprint() != next.Fingerprint():
				t.Fatalf("seed %d: the renewed certificate is gone", seed)
			case first != nil && i.Pin() != first.Pin():
				t.Fatalf("seed %d: the board has another key: %+v", seed, found)
			case first != nil:
				told++
			default:
				untold++
			}
			if err := os.RemoveAll(left); err != nil {
				t.Fatal(err)
			}
		}
	}
	if told < 20 || untold < 20 {
		t.Errorf("%d cuts came after the key was durable, %d before", told, untold)
	}
}

// The key is the owner's alone to read, is made once, in 1970 too, and clients that have its certificate are served at
// every door without a file being named.
func TestABoardHasACertificateOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	known := x509.NewCertPool() // what clients were given
	start := func(now func() time.Time) *Broker {
		s := config.Default()
		s.Broker.LogDirs, s.Broker.ClusterAlias = dir, "test"
		s.Broker.Listeners, s.MQTT.Listeners, s.HTTP.Listener = []string{"SASL_SSL://127.0.0.1:0"}, []string{"tls://127.0.0.1:0", "wss://127.0.0.1:0"}, "https://127.0.0.1:0"
		b, err := Open(t.Context(), Config{
			Settings: s, Now: now, Logger: slog.New(slog.NewTextHandler(&log, nil)),
			Reveal: func(string, string) error { return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		known.AddCert(b.identity.Leaf())
		return b
	}
	shows := func(b *Broker) (fingerprint string) {
		for _, address := range append(append(b.Addresses().Kafka, b.Addresses().MQTT...), b.Addresses().HTTP...) {
			conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: known, ServerName: "localhost", NextProtos: []string{"http/1.1"}})
			if err != nil {
				t.Errorf("%s: %v", address, err)
				continue
			}
			fingerprint = identity.Fingerprint(conn.ConnectionState().PeerCertificates[0])
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		}
		return fingerprint
	}
	b := start(func() time.Time { return time.Unix(100, 0) })
	first := b.identity.Fingerprint()
	if n := bytes.Count(log.Bytes(), []byte(first)); n != 2 { // made, and shown
		t.Errorf("the fingerprint is in the log %d times:\n%s", n, log.Bytes())
	}
	closed(t, b) // its doors set deadlines by that clock, and the kernel's is right
	b = start(nil)
	if shows(b) != first {
		t.Error("the second start shows another certificate")
	}
	for _, name := range []string{identity.File, identity.Copy} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	// What `millrace cert` writes is shown after a reload, what is damaged never.
	renewed, err := identity.New(b.identityNames(), nil)
	if err != nil {
		t.Fatal(err)
	}
	known.AddCert(renewed.Leaf())
	if err := identity.Save(IdentityFiles(disk.OS{}, dir), renewed); err != nil {
		t.Fatal(err)
	}
	if shows(b) != first {
		t.Error("it is shown without a reload")
	}
	if _, _, err := b.Reload(b.settings); err != nil || shows(b) != renewed.Fingerprint() {
		t.Errorf("the renewed certificate is not shown: %v", err)
	}
	for _, name := range []string{identity.File, identity.Copy} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := b.Reload(b.settings); err != nil || shows(b) != renewed.Fingerprint() || !strings.Contains(log.String(), "certificates not taken") {
		t.Errorf("a damaged certificate is taken: %v", err)
	}
	closed(t, b)
	// A board that lost its key for good starts with another, and says so.
	b = start(nil)
	defer closed(t, b)
	if now := shows(b); now == renewed.Fingerprint() || !strings.Contains(log.String(), "was damaged") {
		t.Errorf("%s is shown", now)
	}
	if strings.Contains(log.String(), "PRIVATE") {
		t.Error("the key is in the log")
	}
}

// A board with one file for a fleet finds its own secret and certificate by its serial number, and who is the admin of one
// is nobody to the other.
func TestOneFileServesTwoBoards(t *testing.T) {
	boot := t.TempDir()
	file := "[broker]\nlisteners = ['SASL_PLAINTEXT://127.0.0.1:0']\ncluster.alias = '{node}'\ncluster.id = 'MkU3OEVBNTcwNTJENDM2Qg'\nconnection.failed.authentication.delay.ms = 0\n" +
		"log.dirs = '" + boot + "/data-{serial}'\n[mqtt]\nlisteners = ['tcp://127.0.0.1:0']\n[http]\nlistener = 'https://127.0.0.1:0'\n" +
		"[security]\nadmin.scram.file = '" + boot + "/{serial}.scram'\ntls.cert.file = '" + boot + "/{mac}.crt'\ntls.key.file = '" + boot + "/{mac}.key'\n"
	fleet := map[string]*Broker{}
	shown := map[string]string{}
	for _, node := range []string{"a", "b"} {
		own, err := identity.New(identity.Names{DNS: []string{"localhost"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := own.Encode()
		if err != nil {
			t.Fatal(err)
		}
		shown[node] = own.Fingerprint()
		for name, raw := range map[string][]byte{
			"M" + node + ".crt": own.PEM(), "M" + node + ".key": text,
			"S" + node + ".scram": []byte(`SCRAM-SHA-512=[name=admin,password="secret of ` + node + `"]`),
		} {
			if err := os.WriteFile(filepath.Join(boot, name), raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := config.Parse("m.toml", []byte(file), config.Names{Serial: "S" + node, MAC: "M" + node, Node: node}, config.Checks{})
		if err != nil {
			t.Fatal(err)
		}
		b, err := Open(t.Context(), Config{Settings: s})
		if err != nil {
			t.Fatal(err)
		}
		defer closed(t, b)
		made(t, b, "t", 1, nil)
		fleet[node] = b
	}
	if fleet["a"].Meta().ClusterID != "MkU3OEVBNTcwNTJENDM2Qg" || fleet["a"].identity.Pin() == fleet["b"].identity.Pin() {
		t.Errorf("%+v", fleet["a"].Meta())
	}
	for node, b := range fleet {
		seen := ""
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(c tls.ConnectionState) error {
			seen = identity.Fingerprint(c.PeerCertificates[0])
			return nil
		}}, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, b.Addresses().HTTP[0])
		}}
		client := &http.Client{Transport: transport}
		for _, of := range []string{"a", "b"} {
			status, _ := asked(t, client, "https://localhost", "/topics/t/records", func(r *http.Request) { r.SetBasicAuth("admin", "secret of "+of) })
			if (status == http.StatusOK) != (of == node) {
				t.Errorf("board %s answers the admin of %s with %d", node, of, status)
			}
		}
		client.CloseIdleConnections()
		if seen != shown[node] {
			t.Errorf("board %s shows %s", node, seen)
		}
	}
	// A directory is its cluster's: a file that says another is refused by name.
	s := *fleet["a"].config.Settings
	s.Broker.ClusterID = "AAAAAAAAAAAAAAAAAAAAAA"
	s.Broker.LogDirs = t.TempDir()
	if _, err := Format(disk.OS{}, s.Broker.LogDirs, "", s.Broker.NodeID); err != nil {
		t.Fatal(err)
	}
	if b, err := Open(t.Context(), Config{Settings: &s}); err == nil || !strings.Contains(err.Error(), "cluster.id in [broker] is AAAAAAAAAAAAAAAAAAAAAA") {
		t.Error(err, errors.Join(b.Close()))
	}
}
