package rest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/broker/catalog"
	"millrace/broker/partition/partitiontest"
)

// later sends a request and returns where its answer will be.
func (w *world) later(path string) <-chan reply {
	answered := make(chan reply, 1)
	go func() {
		r, err := w.try(http.MethodGet, path, nil)
		if err != nil {
			w.t.Error(err)
		}
		answered <- r
	}()
	synctest.Wait()
	return answered
}

// A reader at the end of the log waits as long as it says and no longer, and is answered with what comes, at once.
func TestLongPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t).open()
		w.topic("t", 1)
		p := w.logs.Partition("t")
		took := func(r <-chan reply) time.Duration {
			begun := time.Now()
			w.want(<-r, 200, "")
			return time.Since(begun)
		}
		for _, want := range []time.Duration{0, time.Second, 300 * time.Second} {
			if d := took(w.later(fmt.Sprintf("/topics/t/records?timeout=%d", want.Milliseconds()))); d < want || d > want+10*time.Millisecond {
				t.Errorf("waited %v, want %v", d, want)
			}
		}

		answered := w.later("/topics/t/records?offset=latest&timeout=60000")
		time.Sleep(50 * time.Second) // longer than a peer may be silent in the middle of something
		if len(answered) > 0 {
			t.Fatal("answered too early")
		}
		begun := time.Now()
		if _, err := partitiontest.Append(p, "1"); err != nil {
			t.Fatal(err)
		}
		w.want(<-answered, 200, `"records":[{"offset":0,`)
		if d := time.Since(begun); d != 0 {
			t.Errorf("woken after %v", d)
		}

		// What is there is given at once, whatever the timeout.
		if d := took(w.later("/topics/t/records?timeout=60000")); d != 0 {
			t.Errorf("waited %v for what is there", d)
		}

		// Written is not readable: a reader sleeps until the commit.
		w.logs.Journal.Hold()
		answered = w.later("/topics/t/records?offset=1&timeout=60000")
		done := make(chan error, 1)
		go func() {
			_, err := partitiontest.Append(p, "2")
			done <- err
		}()
		synctest.Wait()
		if len(answered) > 0 {
			t.Error("woken by what is not durable")
		}
		w.logs.Journal.Release()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		w.want(<-answered, 200, `"records":[{"offset":1,`)
	})
}

// Whoever goes away leaves nothing behind, and the end of the door and of a topic end all waits.
func TestWaitsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t).open()
		w.topic("t", 1)
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://board/topics/t/records?timeout=60000", nil)
			if err == nil {
				var resp *http.Response
				if resp, err = w.client.Do(r); err == nil {
					err = resp.Body.Close()
				}
			}
			left <- err
		}()
		synctest.Wait()
		if n := w.waits.Len(); n != 1 {
			t.Fatalf("%d wait", n)
		}
		leave()
		if err := <-left; err == nil {
			t.Error("a reader that left was answered")
		}
		synctest.Wait()
		if n := w.waits.Len(); n != 0 {
			t.Errorf("%d wait for a reader that has gone", n)
		}

		answered := w.later("/topics/t/records?timeout=60000")
		if err := w.logs.Store.DeleteTopic(partitiontest.ID("t")); err != nil {
			t.Fatal(err)
		}
		w.apply(catalog.DeleteTopic{Topic: partitiontest.ID("t")})
		w.waits.Check(place{partitiontest.ID("t"), 0})
		w.want(<-answered, http.StatusNotFound, `{"error_code":3,`)

		w.topic("u", 1)
		answered = w.later("/topics/u/records?timeout=60000")
		begun := time.Now()
		if err := w.server.Close(); err != nil {
			t.Error(err)
		}
		w.want(<-answered, 200, `"records":[]`)
		if d := time.Since(begun); d > time.Second {
			t.Errorf("the door took %v to close", d)
		}
	})
}

// With no room to wait a reader is told to come again.
func TestNoRoomToWait(t *testing.T) {
	for name, waiting := range map[string]int{"the purgatory is full": 15, "others are to have some": 7} {
		t.Run(name, func(t *testing.T) { noRoomToWait(t, waiting) })
	}
}

func noRoomToWait(t *testing.T, waiting int) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t)
		if waiting < 15 {
			w.Config.MaxWaiting = waiting
		}
		w.open()
		w.topic("t", 1)
		var all []<-chan reply
		for range waiting {
			all = append(all, w.later("/topics/t/records?timeout=1000"))
		}
		r := <-w.later("/topics/t/records?timeout=1000")
		w.want(r, http.StatusServiceUnavailable, `{"error_code":7,"message":"too many wait`)
		w.want(w.do(http.MethodPost, "/topics/u/records", strings.NewReader(records(1, 1))), 200, "")
		w.want(<-w.later("/topics/u/records?timeout=1000"), 200, `"offset":0`) // which need not wait
		for _, answered := range all {
			w.want(<-answered, 200, `"records":[]`)
		}
	})
}

// A peer that does not take its answer does not keep the door from closing for long.
func TestCloseDespiteAReaderThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t).open()
		w.topic("t", 1)
		w.want(w.post(records(100, 1000)), 200, "")
		c, err := w.dial()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET /topics/t/records HTTP/1.1\r\nHost: b\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		begun := time.Now()
		if err := w.server.Close(); err != nil {
			t.Error(err)
		}
		if d := time.Since(begun); d > farewell+time.Second {
			t.Errorf("took %v", d)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}
