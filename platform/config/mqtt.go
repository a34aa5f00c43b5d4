package config

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// mqttSchemes are those of MQTT listeners on the network.
var mqttSchemes = []string{"tcp", "tls", "ws", "wss"}

// socketMax is how long the name of a Unix socket may be, in bytes (sun_path of Linux, less the zero at its end).
const socketMax = 107

// SocketPath is the path of a "unix:///path" listener.
func SocketPath(listener string) (name string, ok bool) {
	return strings.CutPrefix(listener, "unix://")
}

// mqttAddress checks the URL of an MQTT listener.
func mqttAddress(s string) error {
	name, socket := SocketPath(s)
	switch {
	case !socket:
		if err := bare(append(mqttSchemes, "unix")...)(s); err != nil {
			return err
		}
		_, err := splitAddress(HostPort(s))
		return err
	case !path.IsAbs(name) || path.Clean(name) != name:
		return fmt.Errorf("%q is not like unix:///run/millrace/mqtt.sock", s)
	case len(name) > socketMax:
		return fmt.Errorf("%q: the name of a socket has at most %d bytes", s, socketMax)
	}
	return nil
}

// fileMode checks the permissions of a file in octal.
func fileMode(s string) error {
	if n, err := strconv.ParseUint(s, 8, 32); err != nil || n > 0o777 || n&0o600 != 0o600 {
		return fmt.Errorf("%q is not a file mode like \"0660\" that lets its owner in", s)
	}
	return nil
}

// Mode is SocketMode as a number.
func (m *MQTT) Mode() uint32 {
	n, err := strconv.ParseUint(m.SocketMode, 8, 32)
	if err != nil {
		return 0o660 // it was checked when it was set
	}
	return uint32(n)
}

func originPattern(s string) error {
	if _, err := path.Match(s, "host"); err != nil {
		return fmt.Errorf("%q is not a pattern like \"*.example.com\"", s)
	}
	return nil
}

// perhaps is a truth value that may be left out.
func perhaps(p *string) binding {
	return binding{
		set: func(v any) error {
			if b, ok := v.(bool); ok {
				*p = strconv.FormatBool(b)
				return nil
			}
			if v != "" { // as Show writes it
				return fmt.Errorf("want true or false, have %s", kind(v))
			}
			*p = ""
			return nil
		},
		get: func() any {
			if *p == "" {
				return ""
			}
			return *p == "true"
		},
	}
}

// numbers are the limits in the order of limitSettings.
func (l *MQTTLimits) numbers() []*int {
	return []*int{
		&l.MaxPacketSize, &l.ReceiveMaximum, &l.MaxInflight, &l.MaxSubscriptions, &l.MaxTopicDepth, &l.MaxTopicAlias, &l.MaxTopicAliasBroker,
		&l.MaxKeepAlive,
	}
}

// limitSettings are what [mqtt] sets for all its listeners and [[mqtt.listener]] for itself; Mosquitto's names where it has
// them.
func (l *MQTTLimits) limitSettings() []setting {
	return []setting{
		{"max_packet_size", size(&l.MaxPacketSize, 1*kib, 256*mib), false},
		{"receive_maximum", number(&l.ReceiveMaximum, 1, 65535), false},
		{"max_inflight_messages", number(&l.MaxInflight, 1, 65535), false},
		{"max_subscriptions", number(&l.MaxSubscriptions, 1, 65536), false},
		{"max_topic_depth", number(&l.MaxTopicDepth, 1, 1024), false},
		{"max_topic_alias", number(&l.MaxTopicAlias, 1, 65535), false},
		{"max_topic_alias_broker", number(&l.MaxTopicAliasBroker, 1, 65535), false},
		{"max_keepalive", number(&l.MaxKeepAlive, 0, 65535), false},
	}
}

// orAsDoor is the binding of a listener's limit, n, which is -1 where [mqtt] has it.
func orAsDoor(n *int, b binding) binding {
	return binding{
		set: func(v any) error {
			if v == int64(-1) {
				*n = -1
				return nil
			}
			if err := b.set(v); err != nil {
				return fmt.Errorf("%w; -1, or without this line: as in [mqtt]", err)
			}
			return nil
		},
		get: func() any {
			if *n == -1 {
				return int64(-1)
			}
			return b.get()
		},
	}
}

// newPlace is a listener in which nothing is set.
func newPlace(line int) MQTTListener {
	l := MQTTListener{MaxConnectionRate: -1, Line: line}
	for _, n := range l.numbers() {
		*n = -1
	}
	return l
}

// All are the listeners of the MQTT door with what holds for each: those of [mqtt], then those with limits of their own.
func (m *MQTT) All() []MQTTListener {
	all := make([]MQTTListener, 0, len(m.Listeners)+len(m.Places))
	for _, url := range m.Listeners {
		l := newPlace(0)
		l.URL = url
		all = append(all, l)
	}
	all = append(all, m.Places...)
	door := m.numbers()
	for i := range all {
		for j, n := range all[i].numbers() {
			if *n < 0 {
				*n = *door[j]
			}
		}
		if all[i].MaxConnectionRate < 0 {
			all[i].MaxConnectionRate = m.MaxConnectionRate
		}
		if all[i].AllowAnonymous == "" {
			all[i].AllowAnonymous = strconv.FormatBool(m.AllowAnonymous)
		}
	}
	return all
}

// TLS says whether the listener encrypts, WebSocket whether it speaks MQTT in WebSocket.
func (l *MQTTListener) TLS() bool { return Protocol(l.URL) == "TLS" || Protocol(l.URL) == "WSS" }

func (l *MQTTListener) WebSocket() bool { return Protocol(l.URL) == "WS" || Protocol(l.URL) == "WSS" }

// Local says whether only this machine can reach the listener.
func (l *MQTTListener) Local() bool {
	_, socket := SocketPath(l.URL)
	return socket || Loopback(HostPort(l.URL)) == nil
}

// MQTTAnonymous says whether the listener, one of MQTT.All, serves clients that show neither a password nor a certificate:
// outside this machine only where the configuration says so twice.
func (c *Config) MQTTAnonymous(l *MQTTListener) bool {
	return l.AllowAnonymous == "true" && (l.Local() || c.Broker.Insecure)
}

// mqttTrouble is what is wrong with the MQTT door among the rest.
func (c *Config) mqttTrouble() (list []trouble) {
	seen := map[string]bool{}
	for i, l := range c.MQTT.All() {
		key := "mqtt.listeners"
		if i >= len(c.MQTT.Listeners) {
			key = "mqtt.listener"
		}
		_, socket := SocketPath(l.URL)
		if most := c.MQTT.MaxConnections; most > 0 && l.MaxConnections > most {
			list = append(list, trouble{key, fmt.Sprintf("max_connections = %d can never be reached: [mqtt] has max_connections = %d for all its listeners; lower the first or raise the second",
				l.MaxConnections, most), l.Line})
		}
		var err error
		switch {
		case l.URL == "":
			err = errors.New("needs a url")
		case (socket || !strings.HasSuffix(l.URL, ":0")) && seen[HostPort(l.URL)]:
			err = fmt.Errorf("%q is there twice", l.URL)
		case !slices.Contains(append(mqttSchemes, "unix"), strings.ToLower(Protocol(l.URL))):
			err = fmt.Errorf("%q is no URL of an MQTT listener", l.URL)
		default:
			err = mqttAddress(l.URL)
		}
		seen[HostPort(l.URL)] = true
		if err != nil {
			list = append(list, trouble{key, err.Error(), l.Line})
		}
	}
	return list
}
