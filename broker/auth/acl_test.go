package auth

import (
	"crypto/tls"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"millrace/broker/auth/authtest"
)

func allow(op Operation, pattern Pattern, name string, p Principal) ACL {
	return ACL{Topic, pattern, name, p, Wildcard, op, Allow}
}

func deny(a ACL) ACL { a.Permission = Deny; return a }

func from(a ACL, host string) ACL { a.Host = host; return a }

func TestWhatEntriesAllow(t *testing.T) {
	const ann, bob = Principal("User:ann"), Principal("User:bob")
	set := NewACLs(
		allow(Read, Literal, "a", ann),
		allow(All, Prefixed, "sensors.", ann), deny(allow(Write, Literal, "sensors.secret", ann)), deny(allow(All, Prefixed, "sensors.x", anyone)),
		allow(Describe, Literal, Wildcard, anyone),
		from(allow(Write, Literal, "h", bob), "192.0.2.1"), deny(from(allow(All, Literal, "a", bob), "192.0.2.9")), allow(AlterConfigs, Literal, "a", bob),
		allow(Read, Literal, "a", bob), deny(allow(Describe, Literal, "d", bob)), allow(Read, Literal, "d", bob),
	)
	for _, tt := range []struct {
		p     Principal
		host  string
		op    Operation
		topic string
		want  bool
	}{
		{ann, "h", Read, "a", true},
		{ann, "h", Write, "a", false},
		{ann, "h", Describe, "a", true},
		{ann, "h", Read, "ab", false},
		{ann, "h", Write, "sensors.b", true},
		{ann, "h", Read, "sensors.secret", true},
		{ann, "h", Write, "sensors.secret", false},
		{ann, "h", Read, "sensors.xy", false},
		{ann, "h", Read, "sensors", false},
		{bob, "h", Describe, "anything", true},
		{bob, "h", Describe, "d", false}, // to deny describing is not to deny reading
		{bob, "h", Read, "d", true},
		{bob, "192.0.2.1", Write, "h", true},
		{bob, "192.0.2.2", Write, "h", false},
		{bob, "192.0.2.9", Read, "a", false},
		{bob, "192.0.2.8", Read, "a", true},
		{bob, "h", DescribeConfigs, "a", true},
		{bob, "h", DescribeConfigs, "d", false},
		{"User:carl", "h", Read, "a", false},
		{"", "h", Read, "a", false},
	} {
		if got := set.Allows(tt.p, tt.host, tt.op, Resource{Topic, tt.topic}); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
	if set.Allows(ann, "h", Read, Resource{Group, "a"}) || (*ACLs)(nil).Allows(ann, "h", Read, Resource{Topic, "a"}) {
		t.Error("another type, or no entry, allows something")
	}
	for _, tt := range []struct {
		p    Principal
		op   Operation
		want bool
	}{{ann, Write, true}, {bob, Write, false}, {bob, Read, true}, {"User:carl", Describe, true}, {"User:carl", Read, false}} {
		if got := set.AllowsAny(tt.p, "h", tt.op, Topic); got != tt.want {
			t.Errorf("any topic for %+v: %v", tt, got)
		}
	}
	if set.With(deny(allow(Read, Literal, Wildcard, anyone))).AllowsAny(bob, "h", Read, Topic) {
		t.Error("every topic is denied and one is not")
	}
}

func TestAuthorizer(t *testing.T) {
	s := NewSession(Plaintext, Anonymous, "192.0.2.1")
	z := &Authorizer{Super: []Principal{"User:root"}, ACLs: func() *ACLs { return NewACLs(from(allow(Read, Literal, "a", Anonymous), "192.0.2.1")) }}
	r := Resource{Topic, "a"}
	if !(*Authorizer)(nil).Allowed(s, Write, r) || !z.Allowed(s, Read, r) || z.Allowed(s, Write, r) || !z.AllowedAny(s, Read, Topic) {
		t.Error("anonymous")
	}
	s.Principal = "User:root"
	if !z.Allowed(s, Write, r) || !z.AllowedAny(s, Write, Group) {
		t.Error("super user")
	}
	z.Super, s.Principal = []Principal{""}, ""
	if z.Allowed(s, Read, r) || z.AllowedAny(s, Read, Topic) {
		t.Error("nobody is allowed something")
	}
}

var drawn = rapid.Custom(func(t *rapid.T) ACL {
	return ACL{
		Type:       rapid.SampledFrom([]ResourceType{Topic, Group}).Draw(t, "type"),
		Pattern:    rapid.SampledFrom([]Pattern{Literal, Prefixed}).Draw(t, "pattern"),
		Name:       rapid.SampledFrom([]string{"*", "a", "ab", "abc", "b"}).Draw(t, "name"),
		Principal:  rapid.SampledFrom([]Principal{"User:p", "User:q", anyone}).Draw(t, "principal"),
		Host:       rapid.SampledFrom([]string{"*", "192.0.2.1"}).Draw(t, "host"),
		Operation:  rapid.SampledFrom([]Operation{All, Read, Write, Describe}).Draw(t, "operation"),
		Permission: rapid.SampledFrom([]Permission{Allow, Deny}).Draw(t, "permission"),
	}
})

// The index answers as a look at every entry does, and sets are sets.
func TestIndexAgainstEveryEntry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entries := rapid.SliceOfN(drawn, 0, 12).Draw(t, "entries")
		set := NewACLs(entries...)
		for _, name := range []string{"*", "a", "ab", "abc", "abcd", "b", "c"} {
			for _, op := range []Operation{Read, Write, Describe} {
				allowed, denied := false, false
				for _, e := range entries {
					match := e.Type == Topic && e.who("User:p", "192.0.2.1") &&
						(e.Name == name || e.Pattern == Literal && e.Name == Wildcard || e.Pattern == Prefixed && strings.HasPrefix(name, e.Name))
					allowed = allowed || match && e.Permission == Allow && e.allows(op)
					denied = denied || match && e.Permission == Deny && (e.Operation == op || e.Operation == All)
				}
				if got := set.Allows("User:p", "192.0.2.1", op, Resource{Topic, name}); got != (allowed && !denied) {
					t.Fatalf("%d on %s: %v of %+v", op, name, got, entries)
				}
			}
		}
		gone := rapid.SliceOfN(drawn, 0, 12).Draw(t, "gone")
		for i, e := range entries {
			if i%2 == 0 {
				gone = append(gone, e)
			}
		}
		less := set.Without(gone...)
		for _, e := range entries {
			if !set.Has(e) || less.Has(e) == slices.Contains(gone, e) {
				t.Fatalf("%+v is in the wrong set", e)
			}
		}
		if !less.With(entries...).Equal(set) || !slices.IsSortedFunc(set.All(), ACL.Compare) {
			t.Fatal("sets are no sets")
		}
	})
}

func TestFilters(t *testing.T) {
	text := func(s string) *string { return &s }
	every := Filter{AnyResource, AnyPattern, nil, nil, nil, AnyOperation, AnyPermission}
	named := func(p Pattern, name string) Filter {
		f := every
		f.Pattern, f.Name = p, &name
		return f
	}
	literal, prefixed, wild := allow(Read, Literal, "ab", "User:p"), allow(Read, Prefixed, "a", "User:p"), allow(Read, Literal, Wildcard, "User:p")
	for i, tt := range []struct {
		f    Filter
		want string // of literal, prefixed, wild
	}{
		{every, "111"},
		{named(Literal, "ab"), "100"},
		{named(Prefixed, "a"), "010"},
		{named(AnyPattern, "a"), "010"},
		{named(MatchPattern, "ab"), "111"},
		{named(MatchPattern, "x"), "001"},
		{Filter{Topic, MatchPattern, nil, text("User:p"), text("*"), Read, Allow}, "111"},
		{Filter{Topic, AnyPattern, nil, text("User:q"), nil, Read, Allow}, "000"},
		{Filter{Group, AnyPattern, nil, nil, nil, AnyOperation, AnyPermission}, "000"},
		{Filter{Topic, AnyPattern, nil, nil, nil, Write, AnyPermission}, "000"},
		{Filter{Topic, AnyPattern, nil, nil, text("h"), Read, AnyPermission}, "000"},
		{Filter{Topic, AnyPattern, nil, nil, nil, Read, Deny}, "000"},
	} {
		var got strings.Builder
		for _, a := range []ACL{literal, prefixed, wild} {
			got.WriteByte("01"[map[bool]int{true: 1}[tt.f.Matches(a)]])
		}
		if got.String() != tt.want || tt.f.Check() != nil {
			t.Errorf("filter %d selects %s, want %s; %v", i, got.String(), tt.want, tt.f.Check())
		}
	}
	for _, f := range []Filter{{}, {Type: 6, Pattern: AnyPattern, Operation: 1, Permission: 1}, {Type: Topic, Pattern: 5, Operation: 1, Permission: 1}, {Type: Topic, Pattern: 1, Operation: 13, Permission: 1}} {
		if err := f.Check(); !errors.Is(err, ErrACL) {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

func TestWhatIsNoEntry(t *testing.T) {
	good := allow(Read, Literal, "a", "User:p")
	for name, change := range map[string]func(*ACL){
		"type":          func(a *ACL) { a.Type = 6 },
		"token":         func(a *ACL) { a.Type = 7 },
		"pattern":       func(a *ACL) { a.Pattern = MatchPattern },
		"no name":       func(a *ACL) { a.Name = "" },
		"long name":     func(a *ACL) { a.Name = strings.Repeat("x", ResourceMax+1) },
		"other cluster": func(a *ACL) { a.Type, a.Operation = Cluster, Alter },
		"permission":    func(a *ACL) { a.Permission = AnyPermission },
		"principal":     func(a *ACL) { a.Principal = "Group:p" },
		"no principal":  func(a *ACL) { a.Principal = "User:" },
		"long":          func(a *ACL) { a.Principal = User(strings.Repeat("x", PrincipalMax)) },
		"operation":     func(a *ACL) { a.Operation = IdempotentWrite },
		"any operation": func(a *ACL) { a.Operation = AnyOperation },
		"host name":     func(a *ACL) { a.Host = "board.example" },
		"long address":  func(a *ACL) { a.Host = "::ffff:192.0.2.1" },
	} {
		bad := good
		if change(&bad); !errors.Is(bad.Check(), ErrACL) {
			t.Errorf("%s: %v", name, bad.Check())
		}
	}
	for _, fine := range []ACL{good, from(good, "192.0.2.1"), from(good, "2001:db8::1"), {Cluster, Literal, ClusterName, "User:*", "*", IdempotentWrite, Allow}} {
		if err := fine.Check(); err != nil {
			t.Errorf("%+v: %v", fine, err)
		}
	}
}

func TestNamesOfCertificates(t *testing.T) {
	ca := authtest.NewAuthority(t)
	issue := func(name pkix.Name) tls.Certificate { return ca.Issue(name, time.Now().Add(time.Hour)) }
	mail := pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, Value: "a@b"}
	for _, tt := range []struct {
		name  pkix.Name
		rules []string
		want  Principal
	}{
		{pkix.Name{CommonName: "a", OrganizationalUnit: []string{"u"}, Organization: []string{"o"}, Locality: []string{"l"}, Province: []string{"s"}, Country: []string{"DE"}}, []string{"DEFAULT"}, "User:CN=a,OU=u,O=o,L=l,ST=s,C=DE"},
		{pkix.Name{CommonName: ` a,b+"c"\<d>;=# `}, []string{"DEFAULT"}, `User:CN=\ a\,b\+\"c\"\\\<d\>\;\=\#\ `},
		{pkix.Name{CommonName: "a", ExtraNames: []pkix.AttributeTypeAndValue{mail}}, []string{"DEFAULT"}, "User:1.2.840.113549.1.9.1=#0c03614062,CN=a"},
		{pkix.Name{CommonName: "Board-7", Organization: []string{"o"}}, []string{"RULE:^CN=(.*?),O=o$/$1/L", "DEFAULT"}, "User:board-7"},
		{pkix.Name{CommonName: "Board-7", Organization: []string{"o"}}, []string{"RULE:CN=x/$1/", "RULE:^CN=([^,]+),O=([a-z])$/$2-$1/U"}, "User:O-BOARD-7"},
		{pkix.Name{CommonName: "a"}, []string{"RULE:^CN=x$/y/"}, ""},
		{pkix.Name{}, []string{"DEFAULT"}, Anonymous},
		{pkix.Name{CommonName: strings.Repeat("x", 600)}, []string{"DEFAULT"}, ""},
	} {
		rules, err := ParseRules(tt.rules)
		if err != nil {
			t.Fatal(err)
		}
		got, err := rules.Principal(issue(tt.name).Leaf)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%v by %v: %q, %v; want %q", tt.name, tt.rules, got, err, tt.want)
		}
	}
	for _, bad := range []string{"", "default", "RULE:", "RULE:a", "RULE:a/b", "RULE:(/b/", "RULE:a/b/X", "RULE:a/b/L,DEFAULT"} {
		if _, err := ParseRules([]string{bad}); !errors.Is(err, ErrRule) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func BenchmarkAllows(b *testing.B) {
	var entries []ACL
	for i := range 10_000 {
		name := strings.Repeat("x", 1+i%40) + string(rune('a'+i%26))
		entries = append(entries, allow(Read, []Pattern{Literal, Prefixed}[i%2], name, User(name)))
	}
	set := NewACLs(entries...)
	r := Resource{Topic, strings.Repeat("x", 45)}
	b.ReportAllocs()
	for b.Loop() {
		set.Allows("User:nobody", "192.0.2.1", Write, r)
	}
}
