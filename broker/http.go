package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"

	"millrace/broker/api"
	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/partition"
	"millrace/broker/purgatory"
	"millrace/broker/rest"
	"millrace/broker/server"
	"millrace/platform/config"
)

// openHTTP opens the HTTP door where the configuration names an address: records, and beside them what programs ask for
// that watch a board.
func (b *Broker) openHTTP() error {
	s := b.config.Settings
	if s.HTTP.Listener == "" {
		return nil
	}
	rules, err := auth.ParseRules(s.Broker.MappingRules)
	if err != nil {
		return fmt.Errorf("ssl.principal.mapping.rules in [broker]: %w", err)
	}
	var secured func() *tls.Config
	if s.HTTPS() {
		if err := b.openCertificates(); err != nil {
			return err
		}
		secured = func() *tls.Config { return b.certificates.config(auth.SSL) }
	}
	address := listenAddress(s.HTTP.Listener)
	if config.Loopback(address) != nil && !s.Broker.Insecure && !(s.HTTPS() && s.HTTPAsks()) {
		return listening("HTTP", address, "--http", "listener in [http]", server.ErrNotLoopback)
	}
	listener, err := b.listenTCP(address)
	if err != nil {
		return listening("HTTP", address, "--http", "listener in [http]", err)
	}
	listener = b.watched(listener, "HTTP")
	b.addresses.HTTP = append(b.addresses.HTTP, listener.Addr().String())
	b.http = rest.New(rest.Config{
		Board: restBoard{b}, NodeID: b.meta.NodeID, Code: api.CodeOf,
		Login: s.HTTPLogin(), Users: b.users(), Damper: b.damper, NowMS: b.pulse.Now, Principal: rules.Principal, Authorizer: b.authorizer(),
		Memory: b.memory.http, Connections: b.memory.connections, MaxConnections: s.HTTP.MaxConnections,
		MaxWaiting: int(max(1, b.memory.waiting.Size()/2/rest.WaitCost)), // the other half is the Kafka door's
		Logger:     b.log.With("component", "http"),
	})
	figures := b.scrape
	if config.Loopback(address) != nil {
		figures = b.http.Guard(auth.Describe, auth.Resource{Type: auth.Cluster, Name: auth.ClusterName}, figures)
	}
	for path, serve := range map[string]http.HandlerFunc{"/metrics": figures, "/healthz": b.health, "/readyz": b.ready} {
		b.http.Handle(path, map[string]http.HandlerFunc{http.MethodGet: serve})
	}
	b.ownsDoor(b.http.Close)
	b.serving.Go(func() {
		if err := b.http.Serve(listener, secured); err != nil {
			b.log.Error("the HTTP listener has ended", "address", listener.Addr(), "err", err)
		}
	})
	if config.Loopback(address) == nil {
		return nil
	}
	switch {
	case !s.HTTPAsks():
		b.log.Error("INSECURE: whoever reaches this listener is served without being asked who they are, because insecure.allow.anyone.on.the.network is true",
			"listener", s.HTTP.Listener, "address", listener.Addr())
	case !s.HTTPS():
		b.log.Error("INSECURE: this listener does not encrypt: passwords, and what clients write and read, can be seen on the network, because insecure.allow.anyone.on.the.network is true",
			"listener", s.HTTP.Listener, "address", listener.Addr())
	}
	return nil
}

// restBoard is the broker as the HTTP door sees it.
type restBoard struct{ b *Broker }

// Image implements rest.Board.
func (r restBoard) Image() *catalog.Image { return r.b.Image() }

// Get implements rest.Board.
func (r restBoard) Get(id catalog.TopicID, index int32) *partition.Partition {
	return r.b.store.Get(id, index)
}

// Offline implements rest.Board.
func (r restBoard) Offline(id catalog.TopicID, index int32) error {
	return r.b.store.Offline(id, index)
}

// Ensure implements rest.Board.
func (r restBoard) Ensure(ctx context.Context, topic string) error {
	_, err := r.b.Ensure(ctx, topic)
	return err
}

// Watch implements rest.Board.
func (r restBoard) Watch(op purgatory.Op, id catalog.TopicID, index int32, waitMS int64) (func() bool, error) {
	ticket, err := r.b.waits.Watch(op, []api.Key{{Topic: id, Partition: index}}, waitMS)
	return func() bool { return r.b.waits.Cancel(ticket) }, err
}

// health says whether the data path goes on: what stands still, and the watchdogs bite for, is 503. A full disk is a
// normal state.
func (b *Broker) health(w http.ResponseWriter, _ *http.Request) { b.answer(w, b.vitals.Check()) }

// ready says whether records are taken now: a disk that cannot be asked, or that is down to its reserve, takes none.
func (b *Broker) ready(w http.ResponseWriter, _ *http.Request) { b.answer(w, b.takes()) }

// takes is nil while records are taken.
func (b *Broker) takes() error {
	if err := b.vitals.Check(); err != nil {
		return err
	}
	switch {
	case b.space.Blind():
		return errors.New("the data directory's filesystem does not answer")
	case b.space.Low(0):
		return fmt.Errorf("the disk is down to its reserve: %d bytes are free, reserve.bytes in [flash] is %d; what clients write is refused", b.space.Free(), b.space.Reserve())
	}
	return nil
}

func (b *Broker) answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	text := "ok\n"
	for _, l := range b.Links() { // a link that is away is no reason not to serve
		text += fmt.Sprintf("link %s: %s\n", l.Name, l.glance())
	}
	if _, err := io.WriteString(w, text); err != nil {
		b.log.Debug("health answer not taken", "err", err)
	}
}
