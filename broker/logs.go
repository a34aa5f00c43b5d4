package broker

// Components are the parts of the program as log lines name them, sorted; each can have a level of its own in [log].
var Components = []string{
	"api", "canary", "catalog", "cleaner", "clock", "control", "feed", "flash", "group", "health", "http", "journal", "kafka", "mqtt", "partition", "quorum", "tls", "upstream",
}
