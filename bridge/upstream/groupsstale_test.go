package upstream_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
	"millrace/broker/record"
)

// A sensor that says the same again and again; and a time in which the link followed no groups and sent otherwise. What a cursor
// said before that of where records went is no help afterwards, also where an older Millrace has gone on saying it.
func TestWhatWasSentWithoutGroupsIsNotTakenForOneRun(t *testing.T) {
	for name, meanwhile := range map[string]func(w *followers, same func(n int)){
		"live first": func(w *followers, same func(n int)) {
			w.cfg.Order, w.cfg.LiveBehind = upstream.LiveFirst, time.Second
			w.wrap = func(r upstream.Remote) upstream.Remote { return &thin{Remote: r, rate: 20 << 10} }
			same(20_000)
			w.board = w.start()
			for range 50 {
				time.Sleep(2 * time.Second)
				same(10)
			}
		},
		"by key": func(w *followers, same func(n int)) {
			w.kafka.Grow("s.b", 2)
			w.board = w.start()
			same(100)
			w.board.drained(w.t)
			w.stop()
			w.log.Grow("s.b", 2) // from here on partition 0 is 0 there
			w.board = w.start()
			same(100)
		},
	} {
		for _, copied := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, copied %v", name, copied), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newFollowers(t, 11, upstream.Config{TransactionBytes: 64 << 10})
					p, stamp, key := w.parts[3], time.Now().UnixMilli(), []byte("gate")
					for record.PartitionForKey(key, 2) != 1 { // by key, it goes elsewhere
						key = append(key, '1')
					}
					same := func(n int) {
						for ; n > 0; n -= 10 {
							recs := make([]record.Record, 10)
							for i := range recs {
								recs[i] = record.Record{Timestamp: stamp, Key: key, Value: []byte("closed")}
							}
							p.Append(record.None, recs...)
						}
					}
					with := w.cfg
					w.board = w.start()
					for range 5 {
						same(10)
						w.board.drained(t)
					}
					w.stop()
					sync := w.liveCursor("s.b").Sync
					if !sync.Is || sync.Local != 39 {
						t.Fatalf("it says %+v", sync)
					}
					w.cfg.Groups, w.cfg.GroupsInterval = nil, 0
					meanwhile(w, same)
					w.board.drained(t)
					w.stop()
					if c := w.liveCursor("s.b"); c.Sync.Is {
						t.Errorf("meanwhile the cursor says %+v", c)
					}
					if copied {
						w.setSync("s.b", sync)
					}
					w.cfg, w.wrap = with, nil
					w.board = w.start()
					defer func() { w.stop() }()
					w.board.drained(t)
					n := 0
					for at := int64(60); at < p.High(); at += p.High() / 7 {
						w.read(fmt.Sprint("g", n), p, at)
						n++
					}
					for range 2 {
						w.synced()
						same(200)
					}
					time.Sleep(time.Hour)
					for i := range n {
						if up := w.kafka.GroupOffset(fmt.Sprint("g", i), "s.b", 0); up != -1 {
							t.Errorf("g%d of %d is at %d", i, n, up)
						}
					}
					if s := w.board.link.Status(); s.Groups.Waiting != n {
						t.Errorf("of %d it says %+v", n, s.Groups)
					}
					w.read("g0", p, p.High())
					w.synced()
					all := w.kafka.Everything("s.b", 0, 0)
					if up := w.kafka.GroupOffset("g0", "s.b", 0); up != all[len(all)-1].Offset+1 {
						t.Errorf("who has read all is at %d", up)
					}
				})
			})
		}
	}
}

// liveCursor is the cursor of partition 0 of a topic.
func (w *followers) liveCursor(topic string) (c upstream.Cursor) {
	w.eachCursor(topic, func(cursor upstream.Cursor) upstream.Cursor { c = cursor; return cursor })
	return c
}

// setSync has it say where a record went.
func (w *followers) setSync(topic string, s upstream.Sync) {
	w.eachCursor(topic, func(c upstream.Cursor) upstream.Cursor { c.Sync = s; return c })
}

func (w *followers) eachCursor(topic string, fn func(upstream.Cursor) upstream.Cursor) {
	w.kafka.Rewrite(upstream.DefaultCursorTopic, func(r upstream.Record) upstream.Record {
		k, err := upstream.ParseCursorKey(r.Key)
		if err != nil || k.Topic != topic || k.Lane != upstream.Live.String() || k.Partition != 0 {
			return r
		}
		c, err := upstream.ParseCursor(r.Value)
		if err != nil {
			w.t.Fatal(err)
		}
		c = fn(c)
		if r.Value, err = c.Append(nil); err != nil {
			w.t.Fatal(err)
		}
		return r
	})
}
