package config

import (
	"fmt"
	"strconv"
	"strings"
)

// upstreams checks the links: each for what it lacks and what contradicts, then all together.
func (p *parse) upstreams() {
	names := map[string]bool{}
	for i := range p.Upstreams {
		u, before := &p.Upstreams[i], len(p.problems)
		if i == UpstreamsMax {
			p.problem(u.Line, "upstream", "there are more than %d links; one can have many topics, and classes for those that are urgent", UpstreamsMax)
			return
		}
		key := "upstream." + u.Name
		switch {
		case u.Name == "" || len(u.Servers) == 0 || len(u.Topics) == 0:
			p.problem(u.Line, "upstream", "needs name, bootstrap.servers and topics")
			continue
		case names[u.Name]:
			p.problem(u.Line, key, "there are two links of this name")
		}
		names[u.Name] = true
		wrong := func(setting, format string, args ...any) {
			p.problem(max(p.lines[elementKey("upstream", u.Line, setting)], u.Line), key+"."+setting, format, args...)
		}
		u.security(wrong)
		u.contradictions(wrong)
		u.mirrors(p.Broker.ClusterAlias, wrong)
		p.windows(u.Windows, wrong)
		if p.checks.Zone != nil {
			if err := p.checks.Zone(u.TimeZone); err != nil {
				wrong("time.zone", "%v", err)
			}
		}
		p.classes(u, key)
		if p.checks.Link != nil && len(p.problems) == before {
			if err := p.checks.Link(u); err != nil {
				p.problem(u.Line, key, "%v", err)
			}
		}
	}
}

// elementKey is under what the line of a setting of a list's element is kept.
func elementKey(section string, line int, setting string) string {
	return section + "@" + strconv.Itoa(line) + "." + setting
}

func (p *parse) windows(list []string, wrong func(setting, format string, args ...any)) {
	if len(list) > upstreamWindowsMax {
		wrong("window", "has %d, and there may be %d", len(list), upstreamWindowsMax)
		return
	}
	for _, w := range list {
		if p.checks.Window == nil {
			return
		}
		if err := p.checks.Window(w); err != nil {
			wrong("window", "%v", err)
		}
	}
}

// security checks who the link says it is, and whether the other end is who it should be.
func (u *Upstream) security(wrong func(setting, format string, args ...any)) {
	unused := func(setting, value, needs string) {
		if value != "" {
			wrong(setting, "does nothing with security.protocol = %q: use %s, or remove it", u.Protocol, needs)
		}
	}
	if !u.TLS() {
		needs := "SSL"
		if u.SASL() {
			needs = "SASL_SSL"
		}
		unused("ssl.ca.location", u.CAFile, needs)
		unused("ssl.certificate.location", u.CertFile, needs)
		unused("ssl.key.location", u.KeyFile, needs)
	}
	switch {
	case u.CertFile != "" && u.KeyFile == "":
		wrong("ssl.certificate.location", "needs ssl.key.location beside it")
	case u.CertFile == "" && u.KeyFile != "":
		wrong("ssl.key.location", "needs ssl.certificate.location beside it")
	}
	if !u.SASL() {
		needs := "SASL_SSL"
		for _, s := range []struct{ key, value string }{
			{"sasl.mechanism", u.Mechanism},
			{"sasl.username", u.Username},
			{"sasl.password.file", u.PasswordFile},
			{"sasl.oauthbearer.token.file", u.TokenFile},
			{"sasl.oauthbearer.token.endpoint.url", u.TokenURL},
		} {
			unused(s.key, s.value, needs)
		}
		return
	}
	password, token := u.Username != "" || u.PasswordFile != "", u.TokenFile != "" || u.TokenURL != "" || u.ClientID != "" || u.ClientSecret != "" || u.Scope != ""
	switch u.Mechanism {
	case "":
		wrong("security.protocol", "%q needs sasl.mechanism: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER", u.Protocol)
	case oauthBearer:
		switch {
		case password:
			wrong("sasl.mechanism", "%q takes a token, no sasl.username and no sasl.password.file", u.Mechanism)
		case (u.TokenFile == "") == (u.TokenURL == ""):
			wrong("sasl.mechanism", "%q needs one of sasl.oauthbearer.token.file and sasl.oauthbearer.token.endpoint.url", u.Mechanism)
		case u.TokenURL != "" && (u.ClientID == "" || u.ClientSecret == ""):
			wrong("sasl.oauthbearer.token.endpoint.url", "needs sasl.oauthbearer.client.id and sasl.oauthbearer.client.secret.file beside it")
		case u.TokenURL == "" && (u.ClientID != "" || u.ClientSecret != "" || u.Scope != ""):
			wrong("sasl.oauthbearer.token.file", "is the token itself: client.id, client.secret.file and scope are for sasl.oauthbearer.token.endpoint.url")
		}
	default:
		switch {
		case u.Username == "" || u.PasswordFile == "":
			wrong("sasl.mechanism", "%q needs sasl.username and sasl.password.file", u.Mechanism)
		case token:
			wrong("sasl.mechanism", "%q takes no sasl.oauthbearer settings; OAUTHBEARER does", u.Mechanism)
		}
	}
}

// contradictions checks what no setting alone can know.
func (u *Upstream) contradictions(wrong func(setting, format string, args ...any)) {
	if n := len(u.Servers); n > upstreamServersMax {
		wrong("bootstrap.servers", "has %d, and there may be %d: one that answers tells of all others", n, upstreamServersMax)
	}
	if n := len(u.Topics); n > upstreamPatternsMax {
		wrong("topics", "has %d patterns, and there may be %d: * stands for any part of a name", n, upstreamPatternsMax)
	}
	if u.Replication == 0 {
		wrong("replication.factor", "0 is no number of replicas: 1 or more, or -1 for what the other end has by default")
	}
	if u.CursorTopic == u.GapTopic {
		wrong("gap.topic", "%q is the cursor.topic, which is compacted: what is told here must stay", u.GapTopic)
	}
	if u.BackoffMax < u.Backoff {
		wrong("reconnect.backoff.max.ms", "%s is below reconnect.backoff.ms, which is %s", formatTime(u.BackoffMax), formatTime(u.Backoff))
	}
	for name, list := range map[string][]string{"groups": u.Groups, "exclude.groups": u.NoGroups} {
		if n := len(list); n > upstreamPatternsMax {
			wrong(name, "has %d patterns, and there may be %d: * stands for any part of a name", n, upstreamPatternsMax)
		}
	}
	if len(u.Groups) > 0 && u.Order == LiveFirst {
		wrong("groups", "need order = %q: with %q records are in no one order at the other end, and no offset there says what was read", OldestFirst, LiveFirst)
	}
	if u.Direction == Down {
		if u.Order == LiveFirst {
			wrong("order", "%q is for links that go up: what comes down is read in its order", u.Order)
		}
		if len(u.Classes) > 0 {
			wrong("direction", "%q has no classes: they divide what this board sends", u.Direction)
		}
		usual := newUpstream(0)
		for _, s := range []struct {
			name string
			said bool
		}{
			{"delivery", u.Delivery != usual.Delivery},
			{"num.partitions", u.Partitions != usual.Partitions},
			{"replication.factor", u.Replication != usual.Replication},
			{"cursor.topic", u.CursorTopic != usual.CursorTopic},
			{"gap.topic", u.GapTopic != usual.GapTopic},
			{"provenance", u.Provenance},
			{"groups", len(u.Groups) > 0},
			{"exclude.groups", len(u.NoGroups) > 0},
			{"sync.group.offsets.interval", u.GroupsEvery != usual.GroupsEvery},
			{"emit.heartbeats.interval", u.Heartbeats != usual.Heartbeats},
			{"sync.topic.configs", u.SyncConfigs != usual.SyncConfigs},
			{"config.properties.exclude", len(u.ConfigsExclude) > 0},
			{"linger.ms", u.Linger != usual.Linger},
			{"compression.type", u.Compression != usual.Compression},
		} {
			if s.said {
				wrong(s.name, "is for links that go up: what comes down comes exactly once, into topics that are like those at the other end")
			}
		}
	}
	if u.Direction == Up {
		for _, t := range u.Topics {
			if name := strings.NewReplacer("{topic}", t, "{cluster}", "").Replace(u.Naming); name == u.CursorTopic || name == u.GapTopic {
				wrong("topics", "%q would be sent into a topic in which the link keeps its own records", t)
			}
		}
	}
}

// mirrors checks what the link does as MirrorMaker does.
func (u *Upstream) mirrors(alias string, wrong func(setting, format string, args ...any)) {
	if n := len(u.ConfigsExclude); n > upstreamPatternsMax {
		wrong("config.properties.exclude", "has %d patterns, and there may be %d: * stands for any part of a name", n, upstreamPatternsMax)
	}
	switch {
	case u.Heartbeats == 0:
	case u.Heartbeats < second:
		wrong("emit.heartbeats.interval", "%s is too short: 1s and more, or 0s for none", formatTime(u.Heartbeats))
	case strings.Contains(alias, ".") || topicName(alias) != nil:
		wrong("emit.heartbeats.interval", "needs a broker.cluster.alias of letters, digits, dashes and underscores: MirrorMaker's tools read a cluster's name up to the first dot, and this is %q", alias)
	}
}

func (p *parse) classes(u *Upstream, key string) {
	if n := len(u.Classes); n > upstreamClassesMax {
		p.problem(u.Classes[upstreamClassesMax].Line, key+".class", "there are %d, and there may be %d", n, upstreamClassesMax)
		return
	}
	shares, seen := 0.0, map[string]int{}
	for i := range u.Classes {
		k := &u.Classes[i]
		wrong := func(setting, format string, args ...any) {
			p.problem(max(p.lines[elementKey("upstream.class", k.Line, setting)], k.Line), key+".class."+setting, format, args...)
		}
		switch n := len(k.Topics); {
		case n == 0:
			p.problem(k.Line, key+".class", "needs topics")
		case n > upstreamPatternsMax:
			wrong("topics", "has %d patterns, and there may be %d: * stands for any part of a name", n, upstreamPatternsMax)
		}
		for _, t := range k.Topics {
			if line, twice := seen[t]; twice {
				wrong("topics", "%q is in the class on line %d already: the first counts", t, line)
			}
			seen[t] = k.Line
		}
		p.windows(k.Windows, wrong)
		if shares += k.MinimumShare; shares > 1+1e-9 {
			wrong("minimum.share", "the classes of the link are promised %s of its bytes: that is more than all, which is 1", fmt.Sprintf("%.4g", shares))
			return
		}
	}
}
