package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"millrace/bridge/mqtt"
	"millrace/bridge/route"
	"millrace/broker/api"
	"millrace/broker/partition"
	"millrace/broker/server"
	"millrace/platform/config"
)

// openDoors opens the listeners, the last thing of a start that a client can see.
func (b *Broker) openDoors(ctx context.Context) error {
	if err := b.openKafka(); err != nil {
		return err
	}
	if err := b.openMQTT(ctx); err != nil {
		return err
	}
	return b.openHTTP()
}

func (b *Broker) openKafka() error {
	s := b.config.Settings
	advertised, err := advertised(s.Broker.AdvertisedListeners)
	if err != nil {
		return err
	}
	handler := api.New(api.Config{
		Catalog: b.topics, Logs: api.FromStore(b.store), Waits: b.waits, Groups: b.groups, MetadataMax: s.Broker.OffsetMetadataMax,
		Ensure: func(ctx context.Context, topic string) error {
			_, err := b.Ensure(ctx, topic)
			return err
		},
		Defaults:  b.topics.defaults.Load,
		ClusterID: b.meta.ClusterID, NodeID: b.meta.NodeID, Advertised: advertised,
		LogDir: b.dir(), Static: s.BrokerSettings(),
		Usage: func() (total, free int64, err error) {
			u, err := b.config.FS.Usage(b.dir())
			return u.Total, u.Free, err
		},
		Answers: b.memory.answers, SessionBytes: b.memory.sessions.Size(),
		NowMS: b.pulse.Now, Logger: b.log.With("component", "api"),
	})
	b.OnAdvance(func(p *partition.Partition) { handler.Advance(p.TopicID(), p.Index()) })
	b.kafka = server.New(server.Config{
		Handler: handler, Bodies: b.memory.bodies, Copies: b.memory.copies,
		RequestMax: s.Broker.RequestMaxBytes, MaxConnections: s.Broker.MaxConnections, Idle: s.Broker.ConnectionsMaxIdle,
		Now: b.config.Now, Logger: b.log.With("component", "kafka"),
	})
	b.owns(b.kafka.Close)
	for _, l := range s.Broker.Listeners {
		address, err := b.kafka.Listen(listenAddress(l))
		if err != nil {
			return listening("Kafka", listenAddress(l), "--kafka", "listeners in [broker]", err)
		}
		b.addresses.Kafka = append(b.addresses.Kafka, address.String())
	}
	return nil
}

// advertised is the first of advertised.listeners; the zero Endpoint stands for what the client connected to.
func advertised(listeners []string) (api.Endpoint, error) {
	if len(listeners) == 0 {
		return api.Endpoint{}, nil
	}
	host, port, err := net.SplitHostPort(listenAddress(listeners[0]))
	if err != nil {
		return api.Endpoint{}, fmt.Errorf("advertised.listeners in [broker]: %w", err)
	}
	number, err := net.LookupPort("tcp", port)
	if err != nil {
		return api.Endpoint{}, fmt.Errorf("advertised.listeners in [broker]: %w", err)
	}
	return api.Endpoint{Host: host, Port: int32(number)}, nil
}

func (b *Broker) openMQTT(context.Context) error {
	s := b.config.Settings
	router, err := newRouter(s.MQTT.Routes)
	if err != nil {
		return err
	}
	if b.mqtt, err = mqtt.New(mqtt.Config{
		Log: mqtt.FromBroker(b), Router: router, Logger: b.log.With("component", "mqtt"), Now: b.config.Now,
		Inflight: b.memory.mqtt, Reading: b.memory.reading, ReadingSmall: b.memory.readingSmall, Output: b.memory.output, State: b.memory.state,
		AllowAnonymous: s.MQTT.AllowAnonymous, MaxConnections: s.MQTT.MaxConnections, MaxPacketSize: s.MQTT.MaxPacketSize, ReceiveMaximum: s.MQTT.ReceiveMaximum, ConnectTimeout: s.MQTT.ConnectTimeout,
	}); err != nil {
		return err
	}
	b.owns(b.mqtt.Close)
	for _, l := range s.MQTT.Listeners {
		listener, err := listenLoopback(listenAddress(l))
		if err != nil {
			return listening("MQTT", listenAddress(l), "--mqtt", "listeners in [mqtt]", err)
		}
		b.addresses.MQTT = append(b.addresses.MQTT, listener.Addr().String())
		b.serving.Go(func() {
			if err := b.mqtt.Serve(listener); !errors.Is(err, mqtt.ErrClosed) {
				b.log.Error("an MQTT listener has ended", "address", listener.Addr(), "err", err)
			}
		})
	}
	return nil
}

func newRouter(routes []config.Route) (*route.Router, error) {
	rules := make([]route.Rule, len(routes))
	for i, r := range routes {
		rules[i] = route.Rule{Name: fmt.Sprintf("on line %d", r.Line), Filter: r.Filter, Topic: r.Topic, Key: r.Key}
		if r.Partition >= 0 {
			rules[i].Partition = &r.Partition
		}
	}
	return route.New(rules, nil)
}

// listenLoopback listens where nobody but this machine can reach: nobody is asked who they are yet.
func listenLoopback(address string) (net.Listener, error) {
	tcp, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, err
	}
	if !tcp.IP.IsLoopback() {
		return nil, fmt.Errorf("%s: %w", address, server.ErrNotLoopback)
	}
	return net.ListenTCP("tcp", tcp)
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
