package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"

	"millrace/broker/api"
	"millrace/broker/auth"
	"millrace/broker/partition"
	"millrace/broker/poll"
	"millrace/broker/server"
	"millrace/platform/config"
)

// openDoors opens the listeners. Clients that come wait until openGates.
func (b *Broker) openDoors(ctx context.Context) error {
	b.damper = auth.NewDamper(b.config.Settings.Broker.FailureDelay)
	if err := b.openPoller(); err != nil {
		return err
	}
	if err := b.openKafka(); err != nil {
		return err
	}
	if err := b.openMQTT(ctx); err != nil {
		return err
	}
	return b.openHTTP()
}

// waitersMax is how many clients may wait without a goroutine; more keep theirs.
const waitersMax = 16 << 10

// openPoller opens what silent clients of both doors wait at.
func (b *Broker) openPoller() (err error) {
	if b.poller, err = poll.New(poll.Config{Waiters: waitersMax, NowMS: b.pulse.Now, Wake: b.pulse.Wake}); err != nil {
		return err
	}
	b.owns(b.poller.Close)
	b.pulse.Register(b.poller)
	b.owns(func() error { b.pulse.Unregister(b.poller); return nil })
	return nil
}

func (b *Broker) openKafka() error {
	s := b.config.Settings
	advertised, err := advertised(s.Broker.AdvertisedListeners)
	if err != nil {
		return err
	}
	handler := api.New(api.Config{
		Catalog: b.topics, Logs: api.FromStore(b.store), Waits: b.waits, Groups: b.groups, MetadataMax: s.Broker.OffsetMetadataMax,
		FetchMax: s.Broker.FetchMaxBytes,
		Ensure: func(ctx context.Context, topic string) error {
			_, err := b.Ensure(ctx, topic)
			return err
		},
		Defaults:  b.topics.defaults.Load,
		ClusterID: b.meta.ClusterID, NodeID: b.meta.NodeID, Advertised: advertised,
		Mechanisms: mechanisms(s.Broker.Mechanisms), MaxReauthMS: s.Broker.MaxReauth.Milliseconds(), Damper: b.damper,
		Authorizer: b.authorizer(),
		LogDir:     b.dir(), Static: s.BrokerSettings(),
		Usage: func() (total, free int64, err error) {
			u, err := b.config.FS.Usage(b.dir())
			return u.Total, u.Free, err
		},
		Answers: b.memory.answers, SessionBytes: b.memory.sessions.Size(),
		NowMS: b.pulse.Now, Logger: b.log.With("component", "api"),
	})
	b.OnAdvance(func(p *partition.Partition) { handler.Advance(p.TopicID(), p.Index()) })
	b.kafka = server.New(server.Config{
		Handler: handler, Bodies: b.memory.bodies, Copies: b.memory.copies, Connections: b.memory.connections, Poller: b.poller,
		RequestMax: s.Broker.RequestMaxBytes, MaxConnections: s.Broker.MaxConnections, Idle: s.Broker.ConnectionsMaxIdle,
		AllowRemote: s.Broker.Insecure, Open: b.listenTCP, Watch: func(l net.Listener) net.Listener { return b.watched(l, "Kafka") },
		Now: b.config.Now, Logger: b.log.With("component", "kafka"),
	})
	b.ownsDoor(b.kafka.Close)
	rules, err := auth.ParseRules(s.Broker.MappingRules)
	if err != nil {
		return fmt.Errorf("ssl.principal.mapping.rules in [broker]: %w", err)
	}
	for _, l := range s.Broker.Listeners {
		of := server.Listener{Address: listenAddress(l), Protocol: auth.Protocol(config.Protocol(l)), Principal: rules.Principal}
		if of.Protocol.TLS() {
			if err := b.openCertificates(); err != nil {
				return err
			}
			of.TLS = func() *tls.Config { return b.certificates.config(of.Protocol) }
		}
		address, err := b.kafka.Listen(of)
		if err != nil {
			return listening("Kafka", of.Address, "--kafka", "listeners in [broker]", err)
		}
		b.addresses.Kafka = append(b.addresses.Kafka, address.String())
		b.warnOf(l, address)
	}
	return nil
}

// mechanisms are sasl.enabled.mechanisms, whose names were checked.
func mechanisms(names []string) (all []auth.Mechanism) {
	for _, name := range names {
		if m, err := auth.ParseMechanism(name); err == nil {
			all = append(all, m)
		}
	}
	return all
}

// authorizer is what decides at the Kafka door, nil where nobody needs permission.
func (b *Broker) authorizer() *auth.Authorizer {
	s := &b.config.Settings.Broker
	if !s.Authorizes() {
		return nil
	}
	super := make([]auth.Principal, len(s.SuperUsers))
	for i, p := range s.SuperUsers {
		super[i] = auth.Principal(p)
	}
	return &auth.Authorizer{Super: super, ACLs: func() *auth.ACLs { return b.quorum.Image().ACLs() }}
}

// users finds credentials in the catalog as it is when they are asked for.
func (b *Broker) users() auth.Users { return users{b} }

type users struct{ b *Broker }

// Credential implements auth.Users.
func (u users) Credential(user string, m auth.Mechanism) (auth.Credential, bool) {
	return u.b.Image().Credential(user, m)
}

// warnOf says loudly what a listener that others can reach does not protect.
func (b *Broker) warnOf(listener string, address net.Addr) {
	s := &b.config.Settings.Broker
	if config.Loopback(config.HostPort(listener)) == nil {
		return
	}
	switch {
	case !s.Asks(listener):
		b.log.Error("INSECURE: whoever reaches this listener is served without being asked who they are, because insecure.allow.anyone.on.the.network is true",
			"listener", listener, "address", address)
	case config.Protocol(listener) == "SASL_PLAINTEXT":
		b.log.Warn("this listener does not encrypt: what clients write and read can be seen on the network, and with PLAIN their passwords too; SASL_SSL does",
			"listener", listener, "address", address)
	}
}

// openCertificates reads them once, and looks at their dates now and then.
func (b *Broker) openCertificates() error {
	if b.certificates != nil {
		return nil
	}
	c := &certificates{now: b.clock.Now, log: b.log.With("component", "tls"), own: b.ownIdentity}
	if err := c.load(b.config.Settings); err != nil {
		return err
	}
	b.certificates = c
	c.log.Info("TLS listeners show a certificate", "sha256", c.fingerprint.Load(), "the board's own", b.config.Settings.OwnCertificate())
	b.every(certificateCheck, c.check)
	return nil
}

// advertised are the addresses of advertised.listeners by their protocol; none stands for what the client connected to.
func advertised(listeners []string) (map[auth.Protocol]api.Endpoint, error) {
	all := make(map[auth.Protocol]api.Endpoint, len(listeners))
	for _, l := range listeners {
		host, port, err := net.SplitHostPort(listenAddress(l))
		if err != nil {
			return nil, fmt.Errorf("advertised.listeners in [broker]: %w", err)
		}
		number, err := net.LookupPort("tcp", port)
		if err != nil {
			return nil, fmt.Errorf("advertised.listeners in [broker]: %w", err)
		}
		if _, taken := all[auth.Protocol(config.Protocol(l))]; !taken {
			all[auth.Protocol(config.Protocol(l))] = api.Endpoint{Host: host, Port: int32(number)}
		}
	}
	return all, nil
}

// listening says which door could not be opened and what to change.
func listening(door, address, flag, setting string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s address %s is taken by another program; choose another with %s or %s", door, address, flag, setting)
	case errors.Is(err, server.ErrNotLoopback):
		return fmt.Errorf("%s address %s: %w: use 127.0.0.1 with %s or %s", door, address, server.ErrNotLoopback, flag, setting)
	}
	return fmt.Errorf("%s address %s (%s or %s): %w", door, address, flag, setting, err)
}
