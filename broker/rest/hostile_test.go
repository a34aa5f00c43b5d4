package rest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// spoil changes the nth occurrence of some bytes in the log, behind the broker's back.
func spoil(t *testing.T, w *world, what []byte, nth int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(w.logs.Dir, "topics", "t-0", "*.log"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	raw, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for range nth + 1 {
		next := strings.Index(string(raw[at:]), string(what))
		if next < 0 {
			t.Fatal("not there")
		}
		at += next + 1
		for at < len(raw) && raw[at] == what[0] { // to the end of a run
			at++
		}
	}
	f, err := os.OpenFile(files[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("Z"), int64(at-4))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// Each is answered with what is wrong, and nothing of it is written.
func TestBodiesThatAreRefused(t *testing.T) {
	w := begin(t).open()
	w.topic("t", 1)
	for _, tt := range []struct{ name, media, body, part string }{
		{"nothing", jsonType, ``, "unexpected end"},
		{"half", jsonType, `{"records":[{"value":1}`, "unexpected end"},
		{"no object", jsonType, `[]`, "want an object"},
		{"no records", jsonType, `{"records":[]}`, "no records"},
		{"another name", jsonType, `{"record":[]}`, `there is no \"record\", but records`},
		{"more names", jsonType, `{"records":[{}],"acks":1}`, `there is no \"acks\"`},
		{"something behind", jsonType, `{"records":[{}]} 1`, "after top-level value"},
		{"garbage behind", jsonType, `{"records":[{}]}}`, "invalid character"},
		{"a name that is none", jsonType, `{"records":[{},{"vlaue":1}]}`, `record 1: there is no \"vlaue\", but partition`},
		{"no JSON", jsonType, `{"records":[{"value":{a:1}}]}`, "invalid character"},
		{"a key that is no string", jsonType, `{"records":[{"key":1}]}`, "record 0: key: want a string"},
		{"text that is no string", textType, `{"records":[{"value":{}}]}`, "record 0: value: want a string"},
		{"base64 that is none", binaryType, `{"records":[{"value":"a"}]}`, "value: want base64"},
		{"base64 with a loose end", binaryType, `{"records":[{"value":"YR=="}]}`, "value: want base64"},
		{"base64 of URLs", jsonType, `{"records":[{"value_base64":"_w=="}]}`, "value: want base64"},
		{"base64 twice", binaryType, `{"records":[{"value_base64":"AA=="}]}`, "without saying so"},
		{"both", jsonType, `{"records":[{"value":1,"value_base64":"AA=="}]}`, "written twice"},
		{"half a pair of surrogates", jsonType, `{"records":[{"key":"\ud800"}]}`, "not Unicode"},
		{"no UTF-8 in a key", jsonType, "{\"records\":[{\"key\":\"\xff\"}]}", "not Unicode"},
		{"no UTF-8 in a value", jsonType, "{\"records\":[{\"value\":[\"\xff\"]}]}", "not Unicode"},
		{"deep", jsonType, `{"records":[{"value":` + strings.Repeat("[", depthMax+1) + strings.Repeat("]", depthMax+1) + `}]}`, "too deep"},
		{"very deep", jsonType, `{"records":[{"value":` + strings.Repeat(`{"a":`, 100_000) + `1` + strings.Repeat("}", 100_000) + `}]}`, "max depth"},
		{"deep in a header", jsonType, `{"records":[{"headers":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}]}`, "headers"},
		{"headers that are none", jsonType, `{"records":[{"headers":{}}]}`, "headers: want"},
		{"a name twice", jsonType, `{"records":[{"value":1,"value":2}]}`, "value is there twice"},
		{"a name in another case", jsonType, `{"records":[{"Value":1}]}`, `there is no \"Value\"`},
		{"a record that is none", jsonType, `{"records":[null]}`, "record 0: want an object"},
		{"a header without a key", jsonType, `{"records":[{"headers":[{"value":"x"}]}]}`, "a header's key"},
		{"a partition that is none", jsonType, `{"records":[{"partition":-1}]}`, "partition: want a number from 0"},
		{"a partition that is no number", jsonType, `{"records":[{"partition":"0"}]}`, "partition"},
		{"a huge partition", jsonType, `{"records":[{"partition":3000000000}]}`, "partition"},
		{"a time that is none", jsonType, `{"records":[{"timestamp":0}]}`, "timestamp: want a number from 1"},
		{"too many records", jsonType, `{"records":[{}` + strings.Repeat(",{}", itemsMax) + `]}`, "more than 4000"},
		{"too many headers", jsonType, `{"records":[{"headers":[{"key":""}` + strings.Repeat(`,{"key":""}`, itemsMax) + `]}]}`, "more than 4000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.want(w.post(tt.body, header("Content-Type", tt.media)), http.StatusBadRequest, `{"error_code":42,"message":"`)
			r := w.post(tt.body, header("Content-Type", tt.media))
			w.want(r, http.StatusBadRequest, tt.part)
		})
	}
	w.want(w.post(`{"records":[{"value":`+strings.Repeat("[", depthMax)+strings.Repeat("]", depthMax)+`}]}`), 200, "")
	if n := w.logs.Partition("t").High(); n != 1 {
		t.Errorf("%d records were written", n)
	}
}

func TestBodiesThatAreTooLarge(t *testing.T) {
	w := begin(t).open()
	limit := int(w.server.limit())
	body := records(1, limit) // a little more
	w.want(w.post(body), http.StatusRequestEntityTooLarge, fmt.Sprintf("more than %d bytes", limit))
	// In pieces nobody knows how many will come.
	w.want(w.do(http.MethodPost, "/topics/t/records", io.MultiReader(strings.NewReader(body)), header("Content-Type", jsonType)), http.StatusRequestEntityTooLarge, fmt.Sprintf("more than %d bytes", limit))
	most := records(4, (limit-200)/4)
	w.want(w.do(http.MethodPost, "/topics/t/records", io.MultiReader(strings.NewReader(most)), header("Content-Type", jsonType)), 200, `"offset":3`)
	if got := readAll(t, w, ""); len(got) != 4 {
		t.Errorf("read %v", got)
	}
}

func TestNamesThatAreRefused(t *testing.T) {
	w := begin(t).open()
	for _, name := range []string{"%2e%2e", "%2E", "a%20b", "a%2Fb", "%ff", "%00", "t%C3%A4", strings.Repeat("x", 250), "a%0Ab"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			w.want(w.do(method, "/topics/"+name+"/records", strings.NewReader(records(1, 1))), http.StatusBadRequest, `{"error_code":17,`)
		}
	}
	for _, name := range []string{"__consumer_offsets", "__mqtt_sessions"} {
		w.want(w.do(http.MethodPost, "/topics/"+name+"/records", strings.NewReader(records(1, 1))), http.StatusBadRequest, "the broker's own")
	}
	if w.Image().Len() != 0 {
		t.Error("a topic was made")
	}
}

// Who begins and does not go on is cut off, and holds nothing of others' meanwhile.
func TestSlowPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t).open()
		w.topic("t", 1)
		w.want(w.post(records(200, 2000)), 200, "")
		for name, tt := range map[string]struct {
			send func(c net.Conn)
			most time.Duration
		}{
			"says nothing": {func(net.Conn) {}, 10 * time.Second},
			"drips a head": {func(c net.Conn) {
				for _, b := range []byte("GET /topics/t/records HTTP/1.1\r\nX-" + strings.Repeat("a", 1000)) {
					if _, err := c.Write([]byte{b}); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}, 10 * time.Second},
			"begins a body": {func(c net.Conn) {
				_, _ = io.WriteString(c, "POST /topics/t/records HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{")
			}, 11 * time.Second},
			"drips a body": {func(c net.Conn) {
				_, _ = io.WriteString(c, "POST /topics/t/records HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{")
				for range 1000 {
					if _, err := c.Write([]byte{' '}); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}, 62 * time.Second},
		} {
			begun := time.Now()
			c, err := w.dial()
			if err != nil {
				t.Fatal(err)
			}
			go tt.send(c)
			answer, err := io.ReadAll(c)
			if err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(begun); took > tt.most || took < 9*time.Second {
				t.Errorf("%s: cut off after %v: %s", name, took, answer)
			}
			if strings.Contains(name, "body") && !strings.HasPrefix(string(answer), "HTTP/1.1 408") {
				t.Errorf("%s: %s", name, answer)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		// A reader that does not read is cut off too.
		begun := time.Now()
		c, err := w.dial()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET /topics/t/records HTTP/1.1\r\nHost: b\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReaderSize(c, 16).ReadByte(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if n := w.server.room.share.Used(); n != 0 {
			t.Errorf("after %v a reader that does not read holds %d bytes", time.Since(begun), n)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A peer that does not take its answer, or does not send its body, hurries while others wait for the memory it holds.
func TestSlowPeersHurryWhileOthersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t).open()
		w.topic("t", 1)
		w.want(w.post(records(1, 900<<10)), 200, "")
		for name, tt := range map[string]struct {
			head string
			try  func() reply
		}{
			"takes nothing": {"GET /topics/t/records HTTP/1.1\r\nHost: b\r\nAccept: " + binaryType + "\r\n\r\n", func() reply { return w.get("", header("Accept", binaryType)) }},
			"sends nothing": {
				fmt.Sprintf("POST /topics/t/records HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", w.server.limit()),
				func() reply { return w.post(records(1, 900<<10)) },
			},
		} {
			c, err := w.dial()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(c, tt.head); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second) // with nobody waiting it has time
			synctest.Wait()
			if w.server.room.share.Used() == 0 {
				t.Errorf("%s: holds nothing, the test proves nothing", name)
			}
			begun := time.Now()
			w.want(tt.try(), 200, "")
			if took := time.Since(begun); took != hurried {
				t.Errorf("%s: the next one waited %v, want %v", name, took, hurried)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
	})
}

// Connections are bounded. One that is silent makes room for a new one; where all are busy the new one is closed. Records
// leave a few to health and figures.
func TestTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		w.Config.MaxConnections = 8
		w.open()
		w.server.Handle("/healthz", map[string]http.HandlerFunc{http.MethodGet: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }})
		w.topic("t", 1)
		waiting := make(chan reply, 4)
		for range 4 {
			go func() {
				r, err := w.try(http.MethodGet, "/topics/t/records?timeout=60000", nil)
				if err != nil {
					t.Error(err)
				}
				waiting <- r
			}()
		}
		synctest.Wait()
		r := w.get("")
		w.want(r, http.StatusServiceUnavailable, "too many requests")
		if r.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		w.want(w.do(http.MethodGet, "/healthz", nil), 200, "ok")
		var busy []net.Conn
		for range 4 { // one of these takes the place of the client's, which is silent
			c, err := w.dial()
			if err != nil {
				t.Fatal(err)
			}
			busy = append(busy, c)
			synctest.Wait()
		}
		if n := w.server.Connections(); n != 8 || w.server.Refused() != 0 {
			t.Errorf("%d connections, %d refused", n, w.server.Refused())
		}
		c, err := w.dial()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil || w.server.Refused() != 1 {
			t.Errorf("one too many: %v, %d refused", err, w.server.Refused())
		}
		for _, c := range append(busy, c) {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		for range 4 {
			w.want(<-waiting, 200, `"records":[]`)
		}
	})
}

// Without memory a request waits a little and is told to come again.
func TestNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t).open()
		w.topic("t", 1)
		w.want(w.post(records(1, 1)), 200, "")
		share := w.Config.Memory
		for name, try := range map[string]func() reply{
			"GET":  func() reply { return w.get("") },
			"POST": func() reply { return w.post(records(1, 1)) },
		} {
			if err := share.Acquire(t.Context(), share.Size()); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			w.want(try(), http.StatusServiceUnavailable, `"error_code":7`)
			if took := time.Since(begun); took != roomWait {
				t.Errorf("%s: told after %v", name, took)
			}
			share.Release(share.Size())
			w.want(try(), 200, "")
		}
	})
}

func TestHeadsThatAreTooLarge(t *testing.T) {
	w := begin(t).open()
	got, err := w.raw("GET / HTTP/1.1\r\nHost: b\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n")
	if err != nil || !strings.HasPrefix(got, "431") {
		t.Errorf("%s, %v", got, err)
	}
}
