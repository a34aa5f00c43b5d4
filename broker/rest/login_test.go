package rest

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/broker/auth"
)

func TestWhoMayDoWhat(t *testing.T) {
	w := begin(t)
	w.secure()
	w.open()
	do := func(method, topic string, opts ...option) reply {
		return w.do(method, "/topics/"+topic+"/records", strings.NewReader(records(1, 1)), opts...)
	}
	ann, admin := basic("ann", secret), basic("admin", secret)
	// She may write the topic and not make it.
	w.want(do(http.MethodPost, "open", ann), 403, `{"error_code":29,`)
	if w.Image().Len() != 0 {
		t.Fatal("a topic was made")
	}
	w.want(do(http.MethodPost, "open", admin), 200, "")
	w.want(do(http.MethodPost, "open", ann), 200, `"offset":1`)
	w.want(do(http.MethodGet, "open", ann), 200, `"offset":1`)
	// Whether a topic exists is told to nobody who may not see it.
	w.want(do(http.MethodPost, "shut", admin), 200, "")
	for _, name := range []string{"shut", "nowhere"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			w.want(do(method, name, ann), 403, `{"error_code":29,"message":"not authorized for the topic"}`)
		}
	}
	r := do(http.MethodGet, "open")
	w.want(r, 401, `{"error_code":58,`)
	if got := r.header.Get("WWW-Authenticate"); got != `Basic realm="millrace", charset="UTF-8"` {
		t.Errorf("WWW-Authenticate: %s", got)
	}
	for _, header := range []string{"Bearer x", "Basic x", "Basic YW5u", "basic"} { // the last decodes to no colon
		w.want(do(http.MethodGet, "open", func(r *http.Request) { r.Header.Set("Authorization", header) }), 401, `{"error_code":58,`)
	}
}

// Without a login everybody is User:ANONYMOUS, and ACLs decide what that one may do.
func TestAnonymous(t *testing.T) {
	w := begin(t)
	acls := auth.NewACLs(auth.ACL{Type: auth.Topic, Name: "open", Pattern: auth.Literal, Principal: auth.Anonymous, Host: "127.0.0.1", Operation: auth.Write, Permission: auth.Allow})
	w.Config.Authorizer = &auth.Authorizer{ACLs: func() *auth.ACLs { return acls }}
	w.open()
	w.topic("open", 1)
	w.want(w.do(http.MethodPost, "/topics/open/records", strings.NewReader(records(1, 1))), 200, "")
	w.want(w.do(http.MethodGet, "/topics/open/records", nil), 403, "")
}

// Whoever guesses is answered later each time, with the same words whether the user exists or not, and whoever knows the
// password does not wait.
func TestGuessing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		w.secure()
		w.open()
		w.topic("open", 1)
		get := func(user, password string) (reply, time.Duration) {
			begun := time.Now()
			r := w.do(http.MethodGet, "/topics/open/records", nil, basic(user, password))
			return r, time.Since(begun)
		}
		want := 100 * time.Millisecond
		for _, who := range []string{"ann", "nobody", "", strings.Repeat("x", 300), "ann\x00"} {
			r, took := get(who, "wrong password")
			w.want(r, 401, `{"error_code":58,"message":"authentication failed"}`)
			if took != want {
				t.Errorf("%.10q was answered after %v, want %v", who, took, want)
			}
			want *= 2
			if r, took := get("ann", secret); r.status != 200 || took != 0 {
				t.Errorf("whoever knows the password: %d after %v", r.status, took)
			}
		}
		r, _ := get("ann", "")
		w.want(r, 401, "")

		// Only a few are checked at once.
		for range loginsAtOnce {
			go func() { _, _ = w.try(http.MethodGet, "/topics/open/records", nil, basic("ann", "wrong password")) }()
		}
		synctest.Wait()
		r, took := get("nobody", "wrong password")
		w.want(r, 503, "too many logins")
		if took != 0 {
			t.Errorf("told after %v", took)
		}
		r, _ = get("ann", secret)
		w.want(r, 200, "") // known already
		time.Sleep(time.Minute)
	})
}

// A login is checked once, and counts until the password is another.
func TestLoginsAreRemembered(t *testing.T) {
	w := begin(t)
	people := w.secure()
	w.open()
	w.topic("open", 1)
	get := func(password string) int {
		return w.do(http.MethodGet, "/topics/open/records", nil, basic("ann", password)).status
	}
	if get(secret) != 200 {
		t.Fatal("refused")
	}
	c, _ := credentialOf(people, "ann")
	if !w.server.logins.has(w.server.logins.of("ann", secret), c) {
		t.Error("forgotten at once")
	}
	w.server.config.Damper = auth.NewDamper(0)
	if get(secret+"x") != 401 {
		t.Error("another password counts")
	}
	next, err := auth.NewCredential(auth.ScramSHA512, "another", auth.IterationsMin)
	if err != nil {
		t.Fatal(err)
	}
	people["ann"] = next
	if got := get(secret); got != 401 {
		t.Errorf("the old password: %d", got)
	}
	if got := get("another"); got != 200 {
		t.Errorf("the new password: %d", got)
	}
	delete(people, "ann")
	if got := get("another"); got != 401 {
		t.Errorf("a user who was deleted: %d", got)
	}
	for i := range 10 * loginsMax {
		w.server.logins.add(w.server.logins.of(fmt.Sprint(i), ""), c)
	}
	if n, m := len(w.server.logins.known), len(w.server.logins.order); n != loginsMax || m != loginsMax {
		t.Errorf("%d logins are kept, in an order of %d", n, m)
	}
}
