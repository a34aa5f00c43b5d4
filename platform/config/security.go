package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// protocols are the schemes of Kafka listeners.
var protocols = []string{"PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"}

// trouble is what is wrong between several keys.
type trouble struct {
	key, text string
	line      int // 0: the key's
}

// Protocol is a listener's scheme: "SASL_SSL://0.0.0.0:9093" gives SASL_SSL.
func Protocol(listener string) string {
	scheme, _, _ := strings.Cut(listener, "://")
	return strings.ToUpper(scheme)
}

// Asks says whether nobody is served at a Kafka listener who has not shown who they are.
func (b *Broker) Asks(listener string) bool {
	p := Protocol(listener)
	return strings.HasPrefix(p, "SASL_") || p == "SSL" && b.ClientAuth == "required"
}

// Authorizes says whether operations need permission: ACLs and super.users decide about them then. "auto" is on as soon
// as one listener can tell who somebody is.
func (b *Broker) Authorizes() bool {
	if b.Authorizer == "auto" {
		return b.tells()
	}
	return b.Authorizer == "on"
}

// tells says whether a Kafka listener can tell who somebody is.
func (b *Broker) tells() bool {
	return slices.ContainsFunc(b.Listeners, func(l string) bool {
		return strings.HasPrefix(Protocol(l), "SASL_") || Protocol(l) == "SSL" && b.ClientAuth != "none"
	})
}

// complete gives the listeners that name no protocol theirs: a plain one on this machine alone; elsewhere one that encrypts
// and asks who clients are.
func (c *Config) complete() {
	of := func(listener, plain, secure string) string {
		switch _, err := splitAddress(listener); {
		case err != nil || strings.Contains(listener, "://"): // what is no address is told as it was written
			return listener
		case Loopback(listener) == nil:
			return plain + listener
		}
		return secure + listener
	}
	kafka := "SASL_SSL://"
	if c.Broker.ClientAuth == "required" {
		kafka = "SSL://"
	}
	c.Broker.Listeners = slices.Clone(c.Broker.Listeners)
	for i, l := range c.Broker.Listeners {
		c.Broker.Listeners[i] = of(l, "PLAINTEXT://", kafka)
	}
	c.MQTT.Listeners, c.MQTT.Places = slices.Clone(c.MQTT.Listeners), slices.Clone(c.MQTT.Places)
	for i, l := range c.MQTT.Listeners {
		c.MQTT.Listeners[i] = of(l, "tcp://", "tls://")
	}
	for i, l := range c.MQTT.Places {
		c.MQTT.Places[i].URL = of(l.URL, "tcp://", "tls://")
	}
	c.HTTP.Listener = of(c.HTTP.Listener, "", "https://")
}

// OwnCertificate says whether TLS listeners show the certificate that the board has made for itself.
func (c *Config) OwnCertificate() bool { return c.Security.CertFile == "" }

// Hosts are the names and addresses that the configuration has for this board: those of its listeners, and those it
// advertises.
func (c *Config) Hosts() (hosts []string) {
	all := slices.Concat(c.Broker.Listeners, c.Broker.AdvertisedListeners, []string{c.HTTP.Listener})
	for _, l := range c.MQTT.All() {
		all = append(all, l.URL)
	}
	for _, l := range all {
		if _, socket := SocketPath(l); socket {
			continue
		}
		if host, err := splitAddress(HostPort(l)); err == nil && !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// Logins says whether a door asks for passwords, so that there must be somebody who has one.
func (c *Config) Logins() bool {
	return slices.ContainsFunc(c.Broker.Listeners, func(l string) bool { return strings.HasPrefix(Protocol(l), "SASL_") }) ||
		c.HTTP.Listener != "" && c.HTTPLogin() ||
		slices.ContainsFunc(c.MQTT.All(), func(l MQTTListener) bool { return !c.MQTTAnonymous(&l) })
}

// HTTPLogin says whether the HTTP door asks for a login of who shows no certificate. "auto" does as soon as a Kafka
// listener can tell who somebody is, and where others can reach the door.
func (c *Config) HTTPLogin() bool {
	if c.HTTP.Authentication == "auto" {
		return c.Broker.tells() || c.HTTPS() && !c.Broker.Insecure && c.Broker.ClientAuth != "required" && Loopback(HostPort(c.HTTP.Listener)) != nil
	}
	return c.HTTP.Authentication == "basic"
}

// HTTPS says whether the HTTP door has TLS.
func (c *Config) HTTPS() bool { return Protocol(c.HTTP.Listener) == "HTTPS" }

// HTTPAsks says whether nobody is served records over HTTP who has not shown who they are.
func (c *Config) HTTPAsks() bool {
	return c.HTTPLogin() || c.HTTPS() && c.Broker.ClientAuth == "required"
}

// httpTrouble is what is wrong with the HTTP door among the rest, "" for nothing.
func (c *Config) httpTrouble() string {
	l := c.HTTP.Listener
	if l == "" {
		return ""
	}
	if _, err := splitAddress(HostPort(l)); err != nil {
		return err.Error()
	}
	switch local := Loopback(HostPort(l)) == nil; {
	case local || c.Broker.Insecure:
	case !c.HTTPS():
		return fmt.Sprintf("%q is not loopback and does not encrypt what HTTP sends with every request, the password: use https://, or, "+
			"if everybody on the way may know it, insecure.allow.anyone.on.the.network = true in [broker]", l)
	case !c.HTTPAsks():
		return fmt.Sprintf("%q is not loopback and asks nobody who they are: use authentication = \"basic\" (or ssl.client.auth = \"required\"), or, "+
			"if everybody who reaches this board may read and write everything, insecure.allow.anyone.on.the.network = true in [broker]", l)
	}
	return ""
}

// security checks what the keys about it say together.
func (c *Config) security() (list []trouble) {
	add := func(key, format string, args ...any) {
		list = append(list, trouble{key: key, text: fmt.Sprintf(format, args...)})
	}
	b, s := &c.Broker, &c.Security
	for _, l := range b.Listeners {
		if _, err := splitAddress(HostPort(l)); err != nil {
			add("broker.listeners", "%v", err)
			continue
		}
		if b.Insecure || b.Asks(l) {
			continue
		}
		if err := Loopback(HostPort(l)); err != nil {
			add("broker.listeners", "%q is not loopback and asks nobody who they are: use SASL_SSL:// (or SSL:// with ssl.client.auth = \"required\"), or, "+
				"if everybody who reaches this board may read and write everything, insecure.allow.anyone.on.the.network = true", l)
		}
	}
	if len(b.Listeners) == 0 {
		add("broker.listeners", "needs one at least")
	}
	switch {
	case s.CertFile != "" && s.KeyFile == "":
		add("security.tls.cert.file", "needs tls.key.file beside it; without both the board shows a certificate of its own")
	case s.CertFile == "" && s.KeyFile != "":
		add("security.tls.key.file", "needs tls.cert.file beside it; without both the board shows a certificate of its own")
	}
	if b.ClientAuth != "none" && s.ClientCAFile == "" {
		add("broker.ssl.client.auth", "%q needs client.ca.file in [security]", b.ClientAuth)
	}
	if slices.ContainsFunc(b.Listeners, func(l string) bool { return strings.HasPrefix(Protocol(l), "SASL_") }) && len(b.Mechanisms) == 0 {
		add("broker.sasl.enabled.mechanisms", "a listener with SASL needs one at least")
	}
	if text := c.httpTrouble(); text != "" {
		add("http.listener", "%s", text)
	}
	return append(list, c.mqttTrouble()...)
}

// CheckListeners says what is wrong with the listeners, for whoever changed them after Parse, and gives those that name no
// protocol theirs.
func (c *Config) CheckListeners() error {
	c.complete()
	var errs []error
	for _, t := range c.security() {
		errs = append(errs, errors.New(t.text))
	}
	return errors.Join(errs...)
}
