package java

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/testbench/client/board"
	"millrace/testbench/client/kafka"
)

// probe makes ConfigCommand ask for something: of all tools it alone tells the exception it met.
var probe = []string{"--describe", "--entity-type", "topics", "--entity-name", "open"}

// as is a shell to a secure board, with what its tools are told to use.
func as(t *testing.T, tools *kafka.Tools, b *board.Secure, lines ...string) *shell {
	t.Helper()
	file := filepath.Join(t.TempDir(), "client.properties")
	lines = append(lines, "ssl.truststore.type=PEM", "ssl.truststore.location="+b.Certs+"/ca.crt",
		"request.timeout.ms=15000", "default.api.timeout.ms=20000", "max.block.ms=15000", "delivery.timeout.ms=20000", "retries=0")
	all := strings.Join(lines, "\n") + "\n"
	if err := os.WriteFile(file, []byte(all), 0o600); err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(all, "security.protocol=")
	protocol, _, _ := strings.Cut(after, "\n")
	return &shell{t, tools, []string{"--bootstrap-server", b.Address(protocol), "--command-config", file}}
}

func login(protocol, mechanism, user, password string) []string {
	module := "scram.Scram"
	if mechanism == "PLAIN" {
		module = "plain.Plain"
	}
	return []string{
		"security.protocol=" + protocol, "sasl.mechanism=" + mechanism,
		fmt.Sprintf("sasl.jaas.config=org.apache.kafka.common.security.%sLoginModule required username=\"%s\" password=\"%s\";", module, user, password),
	}
}

func TestUsersAndACLs(t *testing.T) {
	tools := kafka.OpenTools(t)
	b := board.StartSecure(t, nil)
	boss := as(t, tools, b, login("SASL_PLAINTEXT", "SCRAM-SHA-512", "admin", b.AdminPassword())...)
	user := []string{"--entity-type", "users", "--entity-name", "bob"}
	boss.says("", configs, append([]string{"--alter", "--add-config", "SCRAM-SHA-256=[iterations=8192,password=bobs-secret]"}, user...), "Completed updating config for user bob.")
	boss.says("", configs, append([]string{"--alter", "--add-config", "SCRAM-SHA-512=[password=bobs-secret]"}, user...), "Completed updating config for user bob.")
	boss.says("", topics, []string{"--create", "--topic", "bobs"}, "Created topic bobs.")

	bob := as(t, tools, b, login("SASL_SSL", "SCRAM-SHA-256", "bob", "bobs-secret")...)
	one := []string{"--topic", "bobs", "--max-messages", "1"}
	bob.refused("", verProducer, one, "TopicAuthorizationException")
	boss.says("", acls, []string{"--add", "--allow-principal", "User:bob", "--producer", "--consumer", "--group", "*", "--topic", "bobs"}, "Adding ACLs for resource")
	boss.says("", acls, []string{"--add", "--deny-principal", "User:bob", "--operation", "Write", "--topic", "bobs.", "--resource-pattern-type", "prefixed"}, "permissionType=DENY")
	boss.says("", acls, []string{"--list"}, "principal=User:bob, host=*, operation=WRITE, permissionType=ALLOW", "patternType=PREFIXED")
	bob.says("one\ntwo\n", producer, []string{"--topic", "bobs"})
	bob.says("", consumer, []string{"--topic", "bobs", "--partition", "0", "--offset", "earliest", "--timeout-ms", "3000"}, "one\ntwo\n")
	bob.refused("", acls, []string{"--list"}, "ClusterAuthorizationException")
	boss.says("", acls, []string{"--remove", "--force", "--topic", "bobs"})
	bob.refused("", consumer, []string{"--topic", "bobs", "--partition", "0", "--offset", "earliest", "--timeout-ms", "3000"}, "Processed a total of 0 messages")
	bob.refused("", verProducer, one, "TopicAuthorizationException")
	boss.says("", configs, append([]string{"--alter", "--delete-config", "SCRAM-SHA-256"}, user...), "Completed updating config for user bob.")
	bob.refused("", configs, probe, "SaslAuthenticationException: authentication failed")
}

func TestRefusedAtTheDoor(t *testing.T) {
	tools := kafka.OpenTools(t)
	b := board.StartSecure(t, nil)
	for _, who := range [][3]string{{"PLAIN", board.Ann, "wrong password"}, {"SCRAM-SHA-512", "nobody", board.Password}} {
		as(t, tools, b, login("SASL_SSL", who[0], who[1], who[2])...).refused("", configs, probe, "SaslAuthenticationException: authentication failed")
	}
	cert := func(name string) *shell {
		return as(t, tools, b, "security.protocol=SSL", "ssl.keystore.type=PEM", "ssl.keystore.location="+filepath.Join(b.Certs, name+".pem"))
	}
	cert(board.Ann).says("", topics, []string{"--list"}, "open")
	cert(board.Ann).says("by certificate\n", producer, []string{"--topic", "open"})
	cert(board.Ann).refused("", verProducer, []string{"--topic", "shut", "--max-messages", "1"}, "TopicAuthorizationException")
	cert("late").refused("", configs, probe, "SslAuthenticationException")
	cert("stranger").refused("", configs, probe, "SslAuthenticationException")
	as(t, tools, b, "security.protocol=SSL").refused("", configs, probe, "SslAuthenticationException")
}
