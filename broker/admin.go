package broker

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/platform/config"
)

const (
	// adminName is the user that a board begins with; super.users names it.
	adminName = "admin"
	// adminFile is where the secret of the first start lies, in the data directory: a client properties file as the tools
	// of Apache Kafka and `millrace --command-config` read it.
	adminFile = "admin.properties"
	// adminIterations are those of the first secret. It is random and long: more would protect nothing.
	adminIterations = auth.IterationsMin
)

// openAdmin sees to it that somebody can log in where that is asked for: the users of admin.scram.file, or, where there
// is none and the catalog has no user either, an admin with a random secret that is written down once.
func (b *Broker) openAdmin(ctx context.Context) error {
	s := b.config.Settings
	if s.Security.AdminScramFile != "" {
		return b.provision(ctx, s.Security.AdminScramFile)
	}
	at := slices.IndexFunc(s.Broker.Listeners, func(l string) bool { return auth.Protocol(config.Protocol(l)).SASL() })
	if at < 0 || b.quorum.Image().UserCount() > 0 {
		return nil
	}
	// The file is durable before the user is: after a power cut between the two a new secret takes its place.
	name := filepath.Join(b.dir(), adminFile)
	password := auth.RandomPassword()
	if err := writeWhole(b.config.FS, name, adminProperties(s, s.Broker.Listeners[at], password), 0o600); err != nil {
		return fmt.Errorf("the first admin's secret: %w", err)
	}
	if err := b.config.FS.SyncDir(b.dir(), pointMetaDir); err != nil {
		return fmt.Errorf("the first admin's secret: %w", err)
	}
	for _, m := range []auth.Mechanism{auth.ScramSHA256, auth.ScramSHA512} {
		c, err := auth.NewCredential(m, password, adminIterations)
		if err != nil {
			return err
		}
		if _, err := b.quorum.Propose(ctx, catalog.UpsertCredential{User: adminName, Credential: c}); err != nil {
			return err
		}
	}
	b.log.Warn("nobody could log in yet: there is a user admin now, whose secret is in a file only you should read", "file", name)
	return nil
}

// adminProperties is a client's configuration for the admin at a listener.
func adminProperties(s *config.Config, listener, password string) []byte {
	mechanism := s.Broker.Mechanisms[0]
	module := "org.apache.kafka.common.security.scram.ScramLoginModule"
	if mechanism == auth.Plain.String() {
		module = "org.apache.kafka.common.security.plain.PlainLoginModule"
	}
	text := fmt.Sprintf("# Written once, at the first start. Change the password with `millrace user add %s`, then delete this file.\n"+
		"security.protocol=%s\nsasl.mechanism=%s\nsasl.jaas.config=%s required username=\"%s\" password=\"%s\";\n",
		adminName, config.Protocol(listener), mechanism, module, adminName, password)
	return []byte(text)
}

// provision makes the users of a file that are not there yet. Those that are keep their credentials: a password that was
// changed stays changed.
func (b *Broker) provision(ctx context.Context, name string) error {
	raw, err := readFile(name)
	if err != nil {
		return fmt.Errorf("admin.scram.file: %w", err)
	}
	all, err := parseScram(string(raw))
	if err != nil {
		return fmt.Errorf("admin.scram.file %s: %w", name, err)
	}
	known := make(map[string]bool)
	for _, c := range all {
		if _, seen := known[c.User]; !seen {
			known[c.User] = b.quorum.Image().User(c.User) != nil
		}
		if known[c.User] {
			continue
		}
		if err := catalog.Validate(b.quorum.Image(), c); err != nil {
			return fmt.Errorf("admin.scram.file %s: %w", name, err)
		}
		if _, err := b.quorum.Propose(ctx, c); err != nil {
			return err
		}
		b.log.Info("a user of admin.scram.file was made", "user", c.User, "mechanism", c.Credential.Mechanism)
	}
	return nil
}

// parseScram reads credentials, one a line, as `kafka-storage format --add-scram` takes them:
//
//	SCRAM-SHA-512=[name=admin,iterations=8192,salt="…",saltedpassword="…"]
//
// with salt and salted password in base64, or password="…" in place of both. Errors name lines, never what is in them.
func parseScram(text string) (all []catalog.UpsertCredential, err error) {
	number := 0
	for line := range strings.Lines(text) {
		number++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		c, err := parseScramLine(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: there is none in the file", auth.ErrCredential)
	}
	return all, nil
}
