package broker

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/quorum"
)

// Outline is a catalog for people: all that is in it but what somebody could log in with.
type Outline struct {
	Version uint64          `json:"version"`
	Topics  []OutlineTopic  `json:"topics"`
	Brokers []OutlineBroker `json:"brokers"`
	Users   []OutlineUser   `json:"users"`
	ACLs    []auth.ACL      `json:"acls"` // the numbers are Kafka's
}

// OutlineTopic is a topic in an Outline.
type OutlineTopic struct {
	Name       string            `json:"name"`
	ID         string            `json:"id"`
	Partitions int               `json:"partitions"`
	Config     map[string]string `json:"config,omitempty"`
}

// OutlineBroker is a broker in an Outline.
type OutlineBroker struct {
	ID     int32             `json:"id"`
	Host   string            `json:"host"`
	Port   int32             `json:"port"`
	Epoch  int64             `json:"epoch"`
	Config map[string]string `json:"config,omitempty"`
}

// OutlineUser is a user in an Outline: the name, and how they log in, without what it takes.
type OutlineUser struct {
	Name       string           `json:"name"`
	Mechanisms map[string]int32 `json:"iterations"` // by mechanism
}

// NewOutline copies what may be shown. Settings whose names say that they are secrets lose their values.
func NewOutline(image *catalog.Image) Outline {
	o := Outline{Version: image.Version(), Topics: []OutlineTopic{}, Brokers: []OutlineBroker{}, Users: []OutlineUser{}, ACLs: image.ACLs().All()}
	for t := range image.Topics() {
		o.Topics = append(o.Topics, OutlineTopic{t.Name, t.ID.String(), len(t.Partitions), shown(t.Config)})
	}
	for _, b := range image.Brokers() {
		o.Brokers = append(o.Brokers, OutlineBroker{b.ID, b.Host, b.Port, b.Epoch, shown(image.BrokerConfig(b.ID))})
	}
	for u := range image.Users() {
		user := OutlineUser{u.Name, map[string]int32{}}
		for _, c := range u.Credentials {
			user.Mechanisms[c.Mechanism.String()] = c.Iterations
		}
		o.Users = append(o.Users, user)
	}
	return o
}

// shown are settings without the values of those that are secret.
func shown(settings map[string]string) map[string]string {
	out := make(map[string]string, len(settings))
	for k, v := range settings {
		if name := strings.ToLower(k); strings.Contains(name, "password") || strings.Contains(name, "secret") || strings.Contains(name, "jaas") {
			v = "(hidden)"
		}
		out[k] = v
	}
	return out
}

// ReadOutline is the catalog of a data directory that no broker has open, as the next start would have it. A directory
// without one has an empty catalog.
func ReadOutline(fsys disk.FS, dir string) (Outline, error) {
	release, err := unused(dir)
	if err != nil {
		return Outline{}, err
	}
	defer release()
	r, err := quorum.Check(readOnly{fsys}, filepath.Join(dir, "quorum"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Outline{}, err
	}
	return NewOutline(r.Image), nil
}
