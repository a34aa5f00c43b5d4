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

// HTTPLogin says whether the HTTP door asks for a login of who shows no certificate. "auto" does as soon as a Kafka
// listener can tell who somebody is.
func (c *Config) HTTPLogin() bool {
	if c.HTTP.Authentication == "auto" {
		return c.Broker.tells()
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
	case c.HTTPS() && (c.Security.CertFile == "" || c.Security.KeyFile == ""):
		return "https:// needs tls.cert.file and tls.key.file in [security]"
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
	tls := false
	for _, l := range b.Listeners {
		tls = tls || strings.HasSuffix(Protocol(l), "SSL")
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
	if tls && (s.CertFile == "" || s.KeyFile == "") {
		add("broker.listeners", "a listener with SSL needs tls.cert.file and tls.key.file in [security]")
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

// CheckListeners says what is wrong with the listeners, for whoever changed them after Parse.
func (c *Config) CheckListeners() error {
	var errs []error
	for _, t := range c.security() {
		errs = append(errs, errors.New(t.text))
	}
	return errors.Join(errs...)
}
