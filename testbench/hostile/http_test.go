package hostile

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"millrace/testbench/process"
)

// post is a POST of a body that is said to have so many bytes.
func post(size int64, body string) []byte {
	return fmt.Appendf(nil, "POST /topics/hostile/records HTTP/1.1\r\nHost: b\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", size, body)
}

func whole(body string) []byte { return post(int64(len(body)), body) }

// httpAttacks are what peers do at the HTTP door, all at once: as many as it has connections.
func httpAttacks() []attack {
	const n, large = 6, 1 << 20
	get := "GET /topics/" + backlog + "/records?max_bytes=2000000000 HTTP/1.1\r\nHost: b\r\nAccept: application/vnd.kafka.binary.v2+json\r\n\r\n"
	return []attack{
		{door: atHTTP, name: "says nothing", conns: n, sends: always(nil)},
		{door: atHTTP, name: "begins a head", conns: n, sends: always([]byte("POST /topics/"))},
		{door: atHTTP, name: "an endless head", conns: n, sends: always([]byte("GET / HTTP/1.1\r\nX: " + strings.Repeat("x", large)))},
		{door: atHTTP, name: "begins a body", conns: 2 * n, sends: always(post(large, `{"records":[`))},
		{door: atHTTP, name: "a body of a terabyte", conns: n, sends: always(post(1<<40, strings.Repeat("[", 8<<10)))},
		{door: atHTTP, name: "a body without end", conns: n, sends: func(int) []byte {
			return []byte("POST /topics/hostile/records HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" +
				strings.Repeat("10000\r\n"+strings.Repeat(" ", 0x10000)+"\r\n", 100))
		}},
		{door: atHTTP, name: "deep", conns: n, sends: always(whole(`{"records":[{"value":` + strings.Repeat("[", large)))},
		{door: atHTTP, name: "wide", conns: n, sends: always(whole(`{"records":[{}` + strings.Repeat(",{}", large/3) + `]}`))},
		{door: atHTTP, name: "names", conns: n, sends: always(whole(`{"records":[{` + strings.Repeat(`"a":1,`, large/6) + `"b":1}]}`))},
		{door: atHTTP, name: "does not read", conns: n, mute: true, sends: always([]byte(strings.Repeat(get, 50)))},
		{door: atHTTP, name: "noise", conns: n, sends: func(conn int) []byte { return noise(conn, 64<<10) }},
	}
}

// Whatever peers do at the HTTP door, Kafka's clients go on, memory keeps its limit, and the door is as it was when the
// peers have gone.
func TestHostileHTTP(t *testing.T) {
	p := process.StartHTTP(t, "")
	fill(t, p)
	judge := watchMemory(t, p, rssMax)
	working, done := context.WithCancel(t.Context())
	defer done()
	var honests sync.WaitGroup
	produced, consumed := &honest{name: "produced"}, &honest{name: "consumed"}
	honests.Go(func() { produceAndConsume(working, t, p, produced, consumed) })

	attackAll(t, p, httpAttacks())
	done()
	honests.Wait()

	resp, err := http.Post("http://"+p.HTTP+"/topics/honest/records", "application/json", strings.NewReader(`{"records":[{"value":1}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(resp.Body); err != nil || resp.Body.Close() != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("an honest client: %s %s %v", resp.Status, text, err)
	}
	for _, h := range []*honest{produced, consumed} {
		t.Log(h)
		if h.count.Load() < 10 {
			t.Errorf("%s: only %d", h.name, h.count.Load())
		}
	}
	judge()
}
