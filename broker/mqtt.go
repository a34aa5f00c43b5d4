package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"millrace/bridge/mqtt"
	"millrace/broker/auth"
	"millrace/platform/config"
)

func (b *Broker) openMQTT(ctx context.Context) error {
	s := b.config.Settings
	router, err := NewRouter(&s.MQTT)
	if err != nil {
		return err
	}
	rules, err := auth.ParseRules(s.Broker.MappingRules)
	if err != nil {
		return fmt.Errorf("ssl.principal.mapping.rules in [broker]: %w", err)
	}
	sysInterval := s.MQTT.SysInterval
	if sysInterval == 0 {
		sysInterval = -1 // none, where the door means its default
	}
	if b.mqtt, err = mqtt.New(mqtt.Config{
		Log: mqtt.FromBroker(b), Router: router, Logger: b.log.With("component", "mqtt"), Now: b.config.Now, Clock: b.clock,
		Poller: b.poller, Connections: b.memory.connections, Inflight: b.memory.mqtt, Reading: b.memory.reading, ReadingSmall: b.memory.readingSmall, Output: b.memory.output, State: b.memory.state,
		Users: b.users(), Mechanisms: mechanisms(s.Broker.Mechanisms), Damper: b.damper, Principal: rules.Principal, Authorizer: b.authorizer(),
		MaxConnections: s.MQTT.MaxConnections, MaxSessions: s.MQTT.MaxSessions, Limits: mqttLimits(&s.MQTT.MQTTLimits),
		ResponseInformation: s.MQTT.ResponseInformation, ConnectTimeout: s.MQTT.ConnectTimeout, SysInterval: sysInterval, Version: b.config.Version,
	}); err != nil {
		return err
	}
	b.ownsDoor(b.mqtt.Close)
	for _, l := range s.MQTT.All() {
		if err := b.serveMQTT(ctx, &l); err != nil {
			return err
		}
	}
	return nil
}

// mqttLimits are the settings' limits as the door has them.
func mqttLimits(l *config.MQTTLimits) mqtt.Limits {
	limits := mqtt.Limits{
		MaxPacketSize: l.MaxPacketSize, MaxSubscriptions: l.MaxSubscriptions, MaxTopicLevels: l.MaxTopicDepth, ReceiveMaximum: l.ReceiveMaximum,
		MaxInflight: l.MaxInflight, MaxKeepAlive: l.MaxKeepAlive, TopicAliases: l.MaxTopicAlias, TopicAliasesBroker: l.MaxTopicAliasBroker,
	}
	if limits.MaxKeepAlive == 0 {
		limits.MaxKeepAlive = -1 // any, where the door means its default
	}
	return limits
}

// serveMQTT opens one listener.
func (b *Broker) serveMQTT(ctx context.Context, l *config.MQTTListener) error {
	s := b.config.Settings
	of := &mqtt.Listener{
		WebSocket: l.WebSocket(), Origins: s.MQTT.Origins, Anonymous: s.MQTTAnonymous(l),
		MaxConnections: l.MaxConnections, Rate: l.MaxConnectionRate, Limits: mqttLimits(&l.MQTTLimits),
	}
	if l.TLS() {
		if err := b.openCertificates(); err != nil {
			return err
		}
		of.TLS = func() *tls.Config { return b.certificates.config(auth.SSL) }
	}
	address := listenAddress(l.URL)
	var err error
	if path, ok := config.SocketPath(l.URL); ok {
		if of.Listener = b.sockets.take("unix", path); of.Listener == nil {
			of.Listener, err = listenUnix(ctx, path, fs.FileMode(s.MQTT.Mode()))
		}
	} else {
		of.Listener, err = b.listenTCP(address)
	}
	if err != nil {
		return listening("MQTT", address, "--mqtt", "listeners in [mqtt]", err)
	}
	of.Listener = b.watched(of.Listener, "MQTT")
	b.addresses.MQTT = append(b.addresses.MQTT, of.Addr().String())
	b.warnOfMQTT(l, of)
	b.serving.Go(func() {
		if err := b.mqtt.Serve(of); !errors.Is(err, mqtt.ErrClosed) {
			b.log.Error("an MQTT listener has ended", "address", of.Addr(), "err", err)
		}
	})
	return nil
}

// warnOfMQTT says loudly what a listener that others can reach does not protect.
func (b *Broker) warnOfMQTT(l *config.MQTTListener, of *mqtt.Listener) {
	s := b.config.Settings
	if !of.Anonymous && !s.Broker.Authorizes() {
		b.log.Warn("whoever logs in here may publish and subscribe to everything, because nobody needs permission: authorizer = \"on\" in [broker] lets ACLs decide",
			"listener", l.URL, "address", of.Addr())
	}
	if l.Local() {
		return
	}
	if of.Anonymous {
		b.log.Error("INSECURE: whoever reaches this listener is served without being asked who they are, because insecure.allow.anyone.on.the.network is true",
			"listener", l.URL, "address", of.Addr())
	}
	if !l.TLS() {
		b.log.Warn("this listener does not encrypt: what clients write and read can be seen on the network, and their passwords too; tls:// and wss:// do",
			"listener", l.URL, "address", of.Addr())
	}
}

// errNoSocket is returned by listenUnix for a name that is taken by something that is no socket: it is never removed.
var errNoSocket = errors.New("there is something that is no socket")

// listenUnix listens at a Unix socket that nobody but those the mode lets in can ever connect to. A socket that a crash
// left behind is removed, one that somebody listens at never; the directory is locked meanwhile, for two that start at
// once. Closing the listener removes the socket.
func listenUnix(ctx context.Context, path string, mode fs.FileMode) (_ net.Listener, err error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir.Name(), err)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	// The kernel makes the file with the mode of the socket, less the umask: it is never there with more.
	listen := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.Fchmod(int(fd), uint32(mode)) })
		return errors.Join(err, failed)
	}}
	l, err := listen.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// removeStale removes a socket that nobody listens at.
func removeStale(ctx context.Context, path string) error {
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s: %w", path, errNoSocket)
	}
	var dial net.Dialer
	conn, err := dial.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return errors.Join(syscall.EADDRINUSE, conn.Close())
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	}
	return fmt.Errorf("see whether somebody listens: %w", err)
}
