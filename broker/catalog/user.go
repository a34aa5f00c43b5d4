package catalog

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"

	"millrace/broker/auth"
)

// Limits of users and access control entries.
const (
	// MaxUsers is the number of users a catalog holds: one for each device of a large site.
	MaxUsers = 5_000
	// MaxACLs is the number of access control entries of a catalog.
	MaxACLs = 10_000
	// MaxACLsPerCommand is how many entries one command adds or removes, so that the longest ones fit.
	MaxACLsPerCommand = 1_000
)

// User is somebody who can log in; read only.
type User struct {
	Name string
	// Credentials are in the order of their mechanisms, each of which is there once. Invariant: one at least.
	Credentials []auth.Credential
}

// UpsertCredential gives a user a credential, in place of the one of the same mechanism, and makes the user known.
type UpsertCredential struct {
	User       string
	Credential auth.Credential
}

// DeleteCredential takes a credential away, and with the last one the user.
type DeleteCredential struct {
	User      string
	Mechanism auth.Mechanism
}

// AddACLs adds access control entries; those there are change nothing.
type AddACLs struct{ ACLs []auth.ACL }

// RemoveACLs removes access control entries; those there are not change nothing.
type RemoveACLs struct{ ACLs []auth.ACL }

func (UpsertCredential) kind() kind { return kindUpsertCredential }
func (DeleteCredential) kind() kind { return kindDeleteCredential }
func (AddACLs) kind() kind          { return kindAddACLs }
func (RemoveACLs) kind() kind       { return kindRemoveACLs }

func (UpsertCredential) version() uint8 { return 1 }
func (DeleteCredential) version() uint8 { return 1 }
func (AddACLs) version() uint8          { return 1 }
func (RemoveACLs) version() uint8       { return 1 }

// Users walks all users by name.
func (m *Image) Users() iter.Seq[*User] { return slices.Values(m.users) }

// UserCount is the number of users.
func (m *Image) UserCount() int { return len(m.users) }

// User finds a user by name, nil when there is none.
func (m *Image) User(name string) *User {
	if i, ok := m.findUser(name); ok {
		return m.users[i]
	}
	return nil
}

// Credential implements auth.Users.
func (m *Image) Credential(user string, mechanism auth.Mechanism) (auth.Credential, bool) {
	if u := m.User(user); u != nil {
		if i, ok := u.find(mechanism); ok {
			return u.Credentials[i], true
		}
	}
	return auth.Credential{}, false
}

// ACLs are the access control entries.
func (m *Image) ACLs() *auth.ACLs { return m.acls }

func (m *Image) findUser(name string) (int, bool) {
	return slices.BinarySearchFunc(m.users, name, func(u *User, name string) int { return cmp.Compare(u.Name, name) })
}

func (u *User) find(m auth.Mechanism) (int, bool) {
	return slices.BinarySearchFunc(u.Credentials, m, func(c auth.Credential, m auth.Mechanism) int { return cmp.Compare(c.Mechanism, m) })
}

func (u *User) equal(o *User) bool {
	return u == o || u.Name == o.Name && slices.EqualFunc(u.Credentials, o.Credentials, func(a, b auth.Credential) bool {
		return a.Mechanism == b.Mechanism && a.Iterations == b.Iterations && slices.Equal(a.Salt, b.Salt) &&
			slices.Equal(a.StoredKey, b.StoredKey) && slices.Equal(a.ServerKey, b.ServerKey)
	})
}

// checkUsers holds the users against their invariants.
func (m *Image) checkUsers() error {
	for i, u := range m.users {
		if i > 0 && m.users[i-1].Name >= u.Name {
			return fmt.Errorf("users %d and %d out of order", i-1, i)
		}
		if len(u.Credentials) == 0 {
			return fmt.Errorf("user %d has no credential", i)
		}
		for j := 1; j < len(u.Credentials); j++ {
			if u.Credentials[j-1].Mechanism >= u.Credentials[j].Mechanism {
				return fmt.Errorf("credentials of user %d out of order", i)
			}
		}
	}
	return nil
}

func (c UpsertCredential) apply(m *Image) (*Image, error) {
	credential := c.Credential
	credential.Salt, credential.StoredKey, credential.ServerKey = slices.Clone(credential.Salt), slices.Clone(credential.StoredKey), slices.Clone(credential.ServerKey)
	next := *m
	at, ok := m.findUser(c.User)
	if !ok {
		next.users = inserted(m.users, at, &User{Name: c.User, Credentials: []auth.Credential{credential}})
		return &next, nil
	}
	u := *m.users[at]
	if i, ok := u.find(credential.Mechanism); ok {
		u.Credentials = slices.Clone(u.Credentials)
		u.Credentials[i] = credential
	} else {
		u.Credentials = inserted(u.Credentials, i, credential)
	}
	next.users = slices.Clone(m.users)
	next.users[at] = &u
	return &next, nil
}

func (c DeleteCredential) apply(m *Image) (*Image, error) {
	at, ok := m.findUser(c.User)
	if !ok {
		return nil, fmt.Errorf("no such user: %w", ErrUnknownUser)
	}
	u := *m.users[at]
	i, ok := u.find(c.Mechanism)
	if !ok {
		return nil, fmt.Errorf("no credential of the mechanism: %w", ErrUnknownUser)
	}
	next := *m
	if len(u.Credentials) == 1 {
		next.users = removed(m.users, at)
		return &next, nil
	}
	u.Credentials = removed(u.Credentials, i)
	next.users = slices.Clone(m.users)
	next.users[at] = &u
	return &next, nil
}

func (c AddACLs) apply(m *Image) (*Image, error) {
	next := *m
	next.acls = m.acls.With(c.ACLs...)
	return &next, nil
}

func (c RemoveACLs) apply(m *Image) (*Image, error) {
	next := *m
	next.acls = m.acls.Without(c.ACLs...)
	return &next, nil
}

func (c UpsertCredential) validate(m *Image) error {
	if c.User == "" || len(c.User) > auth.UserMax {
		return fmt.Errorf("%w: the name of a user has 1 to %d bytes", auth.ErrCredential, auth.UserMax)
	}
	if _, known := m.findUser(c.User); !known && len(m.users) >= MaxUsers {
		return fmt.Errorf("%w users: this catalog holds %d", ErrTooMany, MaxUsers)
	}
	return c.Credential.Check()
}

func (c DeleteCredential) validate(*Image) error { return nil }

func (c AddACLs) validate(m *Image) error {
	if len(c.ACLs) > MaxACLsPerCommand {
		return fmt.Errorf("%w ACLs in one command: %d", ErrTooMany, len(c.ACLs))
	}
	for _, a := range c.ACLs {
		if err := a.Check(); err != nil {
			return err
		}
	}
	if m.acls.With(c.ACLs...).Len() > MaxACLs {
		return fmt.Errorf("%w ACLs: this catalog holds %d", ErrTooMany, MaxACLs)
	}
	return nil
}

func (c RemoveACLs) validate(*Image) error {
	if len(c.ACLs) > MaxACLsPerCommand {
		return fmt.Errorf("%w ACLs in one command: %d", ErrTooMany, len(c.ACLs))
	}
	return nil
}

func (c UpsertCredential) appendTo(b []byte) []byte {
	return appendCredential(appendString(b, c.User), c.Credential)
}

func (c DeleteCredential) appendTo(b []byte) []byte {
	return append(appendString(b, c.User), byte(c.Mechanism))
}
func (c AddACLs) appendTo(b []byte) []byte    { return appendACLs(b, c.ACLs) }
func (c RemoveACLs) appendTo(b []byte) []byte { return appendACLs(b, c.ACLs) }

func appendCredential(b []byte, c auth.Credential) []byte {
	b = binary.AppendUvarint(append(b, byte(c.Mechanism)), uint64(c.Iterations))
	return appendString(appendString(appendString(b, string(c.Salt)), string(c.StoredKey)), string(c.ServerKey))
}

func (d *decoder) credential() auth.Credential {
	return auth.Credential{
		Mechanism: auth.Mechanism(d.byte()), Iterations: d.uint31(),
		Salt: d.bytes(), StoredKey: d.bytes(), ServerKey: d.bytes(),
	}
}

// bytes copies what it reads.
func (d *decoder) bytes() []byte { return slices.Clone(d.take(d.count(1))) }

func appendUsers(b []byte, users []*User) []byte {
	b = binary.AppendUvarint(b, uint64(len(users)))
	for _, u := range users {
		b = binary.AppendUvarint(appendString(b, u.Name), uint64(len(u.Credentials)))
		for _, c := range u.Credentials {
			b = appendCredential(b, c)
		}
	}
	return b
}

func (d *decoder) users() (users []*User) {
	for range d.count(2) {
		u := &User{Name: d.string()}
		for range d.count(5) {
			u.Credentials = append(u.Credentials, d.credential())
		}
		users = append(users, u)
	}
	return users
}

func appendACLs(b []byte, acls []auth.ACL) []byte {
	b = binary.AppendUvarint(b, uint64(len(acls)))
	for _, a := range acls {
		b = appendString(append(b, byte(a.Type), byte(a.Pattern)), a.Name)
		b = appendString(appendString(b, string(a.Principal)), a.Host)
		b = append(b, byte(a.Operation), byte(a.Permission))
	}
	return b
}

func (d *decoder) acls() []auth.ACL {
	n := d.count(7)
	if n == 0 {
		return nil
	}
	acls := make([]auth.ACL, n)
	for i := range acls {
		acls[i] = auth.ACL{
			Type: auth.ResourceType(d.byte()), Pattern: auth.Pattern(d.byte()), Name: d.string(),
			Principal: auth.Principal(d.string()), Host: d.string(), Operation: auth.Operation(d.byte()), Permission: auth.Permission(d.byte()),
		}
	}
	return acls
}

// aclSet reads entries that must be in their order, each once.
func (d *decoder) aclSet() *auth.ACLs {
	acls := d.acls()
	set := auth.NewACLs(acls...)
	if !slices.Equal(set.All(), acls) {
		d.fail("ACLs out of order")
	}
	return set
}
