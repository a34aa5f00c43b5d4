package rest

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/broker/auth"
	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
	"millrace/broker/rest/resttest"
)

const recordsPath = "/topics/{topic}/records"

// described has every answer of a door held against the description, and noted.
func described(t *testing.T, w *world, seen map[string]bool) *world {
	d := resttest.Read(t, OpenAPI())
	w.look = func(method, url string, a reply) {
		path, _, _ := strings.Cut(url, "?")
		if strings.HasPrefix(path, "/topics/") {
			path = recordsPath
		}
		d.Answer(method, path, a.status, a.header, []byte(a.body))
		seen[fmt.Sprint(method, " ", path, " ", a.status)] = true
	}
	return w
}

// Every answer that openapi.json has is one that the door gives, every answer it gives is one that is described, in status,
// headers and body, and every path is there. What is not records is held against it in package broker.
func TestEveryAnswerIsDescribed(t *testing.T) {
	seen := make(map[string]bool)
	t.Run("as usual", func(t *testing.T) {
		w := begin(t)
		w.logs.Topic.MaxMessageBytes = 8 << 20
		described(t, w, seen).open()
		w.want(w.post(`{"records":[{"key":"k","value":{"a":[1]},"headers":[{"key":"h"}]},{"value_base64":"/w=="},{}]}`), 200, "")
		w.want(w.post(`{"records":[{"partition":0},{"partition":1}]}`), http.StatusMultiStatus, "")
		w.want(w.post(`{"records":[]}`), 400, "")
		w.want(w.post(`{"records":[{"partition":1}]}`), 404, `"offsets":[{"error_code":3,`)
		w.want(w.post(`{}`, header("Content-Type", "text/plain")), 415, "")
		w.want(w.post(`{}`, header("Content-Encoding", "gzip")), 415, "")
		w.want(w.post(`{}`, header("Content-Type", "application/json; charset=latin1")), 415, "")
		w.want(w.post(records(1, 2<<20)), 413, "")
		for _, accept := range []string{"", jsonType, textType, binaryType, "*/*"} {
			w.want(w.get("", header("Accept", accept)), 200, "")
		}
		w.want(w.get("?offset=-1"), 400, "")
		w.want(w.do(http.MethodGet, "/topics/other/records", nil), 404, "")
		w.want(w.get("", header("Accept", "text/html")), 406, "")
		w.want(w.get("", header("Accept", "application/json;q=0")), 406, "")
		w.want(w.get("?offset=99"), 416, "")
		w.want(w.do(http.MethodGet, "/openapi.json", nil), 200, `"openapi": "3.1.0"`)
		if _, err := partitiontest.Append(w.logs.Partition("t"), strings.Repeat("x", 9<<19)); err != nil {
			t.Fatal(err)
		}
		w.want(w.get("?offset=4"), 413, "")
		w.refuse = errStrange
		w.want(w.do(http.MethodPost, "/topics/other/records", strings.NewReader(records(1, 1))), 500, "nobody foresaw this")
	})
	t.Run("a full disk", func(t *testing.T) {
		w := begin(t)
		w.full()
		described(t, w, seen).open()
		w.want(w.post(records(1, 1)), http.StatusInsufficientStorage, "disk is full")
	})
	t.Run("a disk that failed", func(t *testing.T) {
		w := described(t, begin(t), seen).open()
		w.topic("t", 1)
		w.lost[place{partitiontest.ID("t"), 0}] = partition.ErrOffline
		w.want(w.post(records(1, 1)), 503, "cannot be opened")
		w.want(w.get(""), 503, "cannot be opened")
		w.lost[place{partitiontest.ID("t"), 0}] = errStrange
		w.want(w.get(""), 500, "nobody foresaw this")
	})
	t.Run("strangers", func(t *testing.T) {
		w := begin(t)
		w.secure()
		described(t, w, seen).open()
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			w.want(w.do(method, "/topics/open/records", strings.NewReader(records(1, 1))), 401, "")
			w.want(w.do(method, "/topics/shut/records", strings.NewReader(records(1, 1)), basic("ann", secret)), 403, "")
		}
	})
	t.Run("late", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := described(t, begin(t), seen).open()
			w.topic("t", 1)
			w.logs.Journal.Hold()
			w.want(w.post(records(1, 1)), 504, "")
			w.logs.Journal.Release()
			body, feed := io.Pipe()
			w.want(w.do(http.MethodPost, "/topics/t/records", body, header("Content-Type", jsonType)), 408, "")
			if err := feed.Close(); err != nil {
				t.Error(err)
			}
		})
	})
	var want []string
	for _, a := range resttest.Read(t, OpenAPI()).Answers() {
		if strings.Contains(a, recordsPath) || strings.Contains(a, "/openapi.json") {
			want = append(want, a)
		}
	}
	if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, want) {
		t.Errorf("seen:\n%s\ndescribed:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Every parameter takes what its schema says, and nothing beside.
func TestEveryParameterIsDescribed(t *testing.T) {
	w := begin(t).open()
	w.topic("t", 1)
	w.want(w.post(records(1, 1)), 200, "")
	var names []string
	for _, p := range resttest.Read(t, OpenAPI()).Parameters(http.MethodGet, recordsPath) {
		names = append(names, p.Name)
		try := func(value any, good bool) {
			t.Helper()
			text := fmt.Sprint(value)
			if f, ok := value.(float64); ok {
				text = fmt.Sprintf("%.0f", f)
			}
			answered := w.get("?" + p.Name + "=" + text)
			if bad := answered.status == http.StatusBadRequest; bad == good {
				t.Errorf("%s=%s: %d %s", p.Name, text, answered.status, answered.body)
			}
		}
		options, _ := p.Schema["oneOf"].([]any)
		if options == nil {
			options = []any{p.Schema}
		}
		for _, o := range options {
			o := o.(map[string]any)
			for _, v := range asList(o["enum"]) {
				try(v, true)
			}
			if low, ok := o["minimum"].(float64); ok {
				try(low-1, false)
				if p.Name != "timeout" { // nothing to wait for at the end
					try(low, true)
				}
			}
			if high, ok := o["maximum"].(float64); ok {
				try(high+1, false)
				try(high, true)
			}
		}
		try("x", false)
		try("", false)
		try("1&"+p.Name+"=1", false)
	}
	if !slices.Equal(names, parameters) {
		t.Errorf("described are %v, there are %v", names, parameters)
	}
	w.want(w.get("?ofset=1"), 400, "there are [partition offset")
	w.want(w.get("?offset=0&timestamp=1"), 400, "said once")
	w.want(w.get("?offset=%zz"), 400, "query")
}

func asList(v any) []any {
	list, _ := v.([]any)
	return list
}

func TestMethodsAndPaths(t *testing.T) {
	w := begin(t).open()
	w.topic("t", 1)
	w.want(w.post(records(1, 1)), 200, "")
	for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodPatch, "PURGE"} {
		r := w.do(method, "/topics/t/records", nil)
		w.want(r, http.StatusMethodNotAllowed, `{"error_code":42,`)
		if allow := r.header.Get("Allow"); allow != "GET, HEAD, POST" {
			t.Errorf("Allow: %q", allow)
		}
	}
	r := w.do(http.MethodHead, "/topics/t/records", nil)
	if want := w.get(""); r.status != 200 || r.body != "" || r.header.Get("Content-Length") != want.header.Get("Content-Length") {
		t.Errorf("HEAD: %d %v %q, want the length %s", r.status, r.header, r.body, want.header.Get("Content-Length"))
	}
	for _, path := range []string{"/", "/topics", "/topics/t", "/topics/t/records/", "/topics/t/records/0", "/favicon.ico"} {
		w.want(w.do(http.MethodGet, path, nil), http.StatusNotFound, `{"error_code":42,`)
	}
}

// The weights of Accept count.
func TestAccept(t *testing.T) {
	w := begin(t).open()
	w.topic("t", 1)
	for accept, want := range map[string]string{
		"":                                 jsonType,
		"text/html,":                       "",
		textType:                           textType,
		"text/html, */*;q=0.1":             jsonType,
		jsonType + ";q=0.5, " + binaryType: binaryType,
		binaryType + ", " + textType:       binaryType,
		"application/*;q=0.2, " + textType + ";q=0.3": textType,
		"application/vnd.kafka.json.v2+json":          jsonType,
		jsonType + ";q=x, " + textType + ";q=0.01":    textType,
	} {
		r := w.get("", header("Accept", accept))
		if r.status == http.StatusNotAcceptable {
			r.header.Set("Content-Type", "")
		}
		if got := r.header.Get("Content-Type"); got != want {
			t.Errorf("Accept %q: %d %q, want %q", accept, r.status, got, want)
		}
	}
}

const secret = "open sesame, 1001 n1ghts"

// users are people with a password.
type users map[string]auth.Credential

// Credential implements auth.Users.
func (u users) Credential(user string, m auth.Mechanism) (auth.Credential, bool) {
	c, ok := u[user]
	return c, ok && c.Mechanism == m
}

// secure has everybody asked who they are. Ann may write and read the topic "open".
func (w *world) secure() users {
	w.t.Helper()
	c, err := auth.NewCredential(auth.ScramSHA512, secret, auth.IterationsMin)
	if err != nil {
		w.t.Fatal(err)
	}
	people := users{"ann": c, "admin": c}
	var entries []auth.ACL
	for _, op := range []auth.Operation{auth.Read, auth.Write} {
		entries = append(entries, auth.ACL{
			Type: auth.Topic, Name: "open", Pattern: auth.Literal, Principal: auth.User("ann"), Host: auth.Wildcard,
			Operation: op, Permission: auth.Allow,
		})
	}
	acls := auth.NewACLs(entries...)
	w.Config.Login, w.Config.Users, w.Config.Damper = true, people, auth.NewDamper(100*time.Millisecond)
	w.Config.Authorizer = &auth.Authorizer{Super: []auth.Principal{auth.User("admin")}, ACLs: func() *auth.ACLs { return acls }}
	return people
}
