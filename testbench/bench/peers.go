package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"millrace/testbench/client/kafka"
)

// natsVersion is what the goals were measured with.
const natsVersion = "v2.15.2"

func (b *bench) millrace() *peer {
	return &peer{name: us, command: func(s *server, _ bool) (*exec.Cmd, error) {
		http := ""
		if s.options.figures {
			http = s.http
		}
		args := []string{"serve", "--data", filepath.Join(s.dir, "data"), "--kafka", s.kafka, "--http", http, "--log-level", "warn"}
		config := s.options.config
		if p := s.options.tls; p != nil {
			config += tlsConfig(s.mqtt, p)
		} else {
			args = append(args, "--mqtt", s.mqtt)
		}
		if config != "" {
			file := filepath.Join(s.dir, "millrace.toml")
			if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
				return nil, err
			}
			args = append(args, "--config", file)
		}
		return exec.Command(b.binary, args...), nil
	}}
}

// tlsConfig is Millrace's MQTT door over TLS.
func tlsConfig(address string, p *pair) string {
	return fmt.Sprintf("\n[mqtt]\nlisteners = [%q]\n[security]\ntls.cert.file = %q\ntls.key.file = %q\n", "tls://"+address, p.cert, p.key)
}

// mosquitto is Debian's with its defaults and a database that is saved, which is not the same as durable.
func (b *bench) mosquitto() (*peer, error) {
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/mosquitto"); err != nil {
			return nil, fmt.Errorf("not installed (make test-deps): %w", err)
		}
	}
	return &peer{name: "mosquitto", command: func(s *server, _ bool) (*exec.Cmd, error) {
		host, port, err := net.SplitHostPort(s.mqtt)
		if err != nil {
			return nil, err
		}
		file := filepath.Join(s.dir, "mosquitto.conf")
		config := fmt.Sprintf("listener %s %s\nallow_anonymous true\npersistence true\npersistence_location %s/\nmax_queued_messages 0\n", port, host, s.dir)
		if p := s.options.tls; p != nil {
			config += fmt.Sprintf("certfile %s\nkeyfile %s\n", p.cert, p.key)
		}
		if os.Getuid() == 0 {
			config += "user root\n" // the directory is root's
		}
		return exec.Command(path, "-c", file), os.WriteFile(file, []byte(config), 0o600)
	}}, nil
}

// nats is JetStream with its MQTT door and every write synced.
func (b *bench) nats() (*peer, error) {
	dir := filepath.Join(b.cache, "nats-"+natsVersion)
	path := filepath.Join(dir, "nats-server")
	if _, err := os.Stat(path); err != nil {
		b.say("building nats-server %s", natsVersion)
		cmd := exec.CommandContext(b.ctx, "go", "install", "github.com/nats-io/nats-server/v2@"+natsVersion)
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go install: %w\n%s", err, out)
		}
	}
	return &peer{name: "nats", command: func(s *server, _ bool) (*exec.Cmd, error) {
		file := filepath.Join(s.dir, "nats.conf")
		secure := ""
		if p := s.options.tls; p != nil {
			secure = fmt.Sprintf(", tls { cert_file: %q, key_file: %q }", p.cert, p.key)
		}
		config := fmt.Sprintf("server_name: bench\nlisten: %q\njetstream { store_dir: %q, sync_interval: always }\nmqtt { listen: %q%s }\n",
			s.kafka, filepath.Join(s.dir, "data"), s.mqtt, secure)
		return exec.Command(path, "-c", file), os.WriteFile(file, []byte(config), 0o600)
	}}, nil
}

// kafka is Apache Kafka in KRaft mode with every append synced and a heap of 256 MiB.
func (b *bench) kafka() (*peer, error) {
	if _, err := exec.LookPath("java"); err != nil {
		return nil, fmt.Errorf("not installed (make test-deps): %w", err)
	}
	jars := filepath.Join(b.cache, "kafka")
	if _, err := os.Stat(filepath.Join(jars, "complete")); err != nil {
		return nil, fmt.Errorf("no jars (testbench/client/kafka/install.sh): %w", err)
	}
	// What bin/kafka-server-start.sh sets, with the heap of a small machine.
	java := []string{
		"-Xmx256m", "-Xms256m", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
		"-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true",
		"-cp", filepath.Join(jars, "*"),
	}
	return &peer{name: "kafka", command: func(s *server, fresh bool) (*exec.Cmd, error) {
		file := filepath.Join(s.dir, "server.properties")
		if fresh {
			place := kafka.Place{
				ID: 1, Dir: filepath.Join(s.dir, "data"), Controllers: []string{s.mqtt}, // the port that has no MQTT here
				Listeners: []kafka.Listener{
					{Name: "PLAINTEXT", Protocol: "PLAINTEXT", Address: s.kafka, Advertised: s.kafka},
					{Name: "COUNTED", Protocol: "PLAINTEXT", Address: s.http, Advertised: s.counted},
				},
			}
			lines := append(place.Properties(), "log.flush.interval.messages=1", s.options.config)
			if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
				return nil, err
			}
			if err := kafka.Format(b.ctx, append([]string{"java"}, java...), file, kafka.NewID()); err != nil {
				return nil, err
			}
		}
		return exec.Command("java", append(append([]string{}, java...), "kafka.Kafka", file)...), nil
	}}, nil
}
