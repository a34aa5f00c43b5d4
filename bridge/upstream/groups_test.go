package upstream_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
	"millrace/broker/record"
)

const groupsEvery = 10 * time.Second

// followers is a world with consumer groups.
type followers struct {
	*world
	groups *upstreamtest.Groups
	names  []string
	// searches is how often clients that are gone have read upstream.
	searches int64
}

func newFollowers(t *testing.T, seed uint64, cfg upstream.Config) *followers {
	t.Helper()
	cfg.Groups, cfg.GroupsInterval = []string{"g*"}, groupsEvery
	w := &followers{world: newWorld(t, seed, cfg), groups: upstreamtest.NewGroups(), names: []string{"g1", "g2", "g3"}}
	w.env = func(e *upstream.Env) { e.Groups = w.groups }
	w.parts = append(w.parts, w.log.Create("s.c", 1, true)...)
	for name, n := range map[string]int{"s.a": 3, "s.b": 1, "s.c": 1} {
		w.kafka.Create(name, n, false)
	}
	return w
}

// foreign writes what is not of this board, where the board writes too: some of it is what the board would send.
func (w *followers) foreign() {
	p := w.parts[w.rng.IntN(len(w.parts))]
	recs := make([]upstream.Record, 1+w.rng.IntN(4))
	mine := p.Records()
	for i := range recs {
		recs[i] = upstream.Record{Topic: p.Topic(), Partition: p.Index(), Value: []byte("foreign"), Timestamp: time.Now().UnixMilli()}
		if len(mine) > 0 && w.rng.IntN(3) == 0 {
			r := mine[w.rng.IntN(len(mine))]
			recs[i].Key, recs[i].Value = r.Key, append([]byte("foreign "), r.Value...)
		}
	}
	if w.rng.IntN(2) == 0 {
		w.kafka.Write(recs...)
		return
	}
	w.kafka.Transact(recs...)(w.rng.IntN(2) == 0)
}

// loop writes a record that came from the peer, and does not go there.
func (w *followers) loop(p *upstreamtest.Partition) {
	p.Append(record.None, record.Record{
		Timestamp: time.Now().UnixMilli(), Value: []byte("looped"), Headers: []record.Header{{Key: upstream.HeaderCluster, Value: []byte("fake")}},
	})
}

// read has a group commit that it has read up to an offset.
func (w *followers) read(name string, p *upstreamtest.Partition, offset int64) {
	w.groups.Commit(name, p, offset)
}

// live throws it about.
func (w *followers) live(n int) {
	for range n {
		w.kafka.Fail(upstreamtest.Faults{
			Lost: w.rng.Float64() * 0.05, Silent: w.rng.Float64() * 0.1, Late: w.rng.Float64() * 0.05, Bumped: w.rng.Float64() * 0.05,
			Latency: time.Duration(w.rng.IntN(300)) * time.Millisecond,
		})
		for range w.rng.IntN(8) {
			p := w.parts[w.rng.IntN(len(w.parts))]
			switch w.rng.IntN(4) {
			case 0:
				w.foreign()
			case 1:
				w.loop(p)
			default:
				write(w.rng, w.all, p)
			}
		}
		for range w.rng.IntN(4) {
			p, name := w.parts[w.rng.IntN(len(w.parts))], w.names[w.rng.IntN(len(w.names))]
			if from := max(0, w.groups.Offset(name, p)); from < p.High() {
				to := from + w.rng.Int64N(p.High()-from+1)
				if w.rng.IntN(2) == 0 {
					to = p.High() - min(p.High()-from, w.rng.Int64N(20))
				}
				w.read(name, p, to)
			}
		}
		time.Sleep(time.Duration(w.rng.IntN(8000)) * time.Millisecond)
		switch w.rng.IntN(16) {
		case 0, 1:
			w.stop()
			w.kafka.Arrive()
			w.board = w.start()
		case 2:
			w.board.client.Cut(true)
			time.Sleep(time.Duration(w.rng.IntN(60)) * time.Second)
			w.board.client.Cut(false)
		case 3:
			w.kafka.Arrive()
		case 4:
			w.kafka.Expire()
		case 5:
			w.kafka.Compact(upstream.DefaultCursorTopic)
		case 6:
			w.kafka.Join(w.names[w.rng.IntN(len(w.names))], w.rng.IntN(2) == 0)
		case 7:
			w.kafka.DeleteGroup(w.names[w.rng.IntN(len(w.names))])
		case 8:
			w.kafka.Hang("s.b", 0)
		}
	}
	w.kafka.Fail(upstreamtest.Faults{})
	w.kafka.Arrive()
	for _, name := range w.names {
		w.kafka.Join(name, false)
	}
}

// stop ends the board.
func (w *followers) stop() {
	w.searches += w.board.client.SearchReads()
	w.end()
}

// settle waits until everything is delivered, and groups are committed: also those that failed a while ago, or expired.
func (w *followers) settle() upstream.Status {
	w.t.Helper()
	w.board.drained(w.t)
	time.Sleep(26 * time.Hour)
	return w.board.drained(w.t)
}

// judge compares what consumers would read upstream with what they have not read here, record by record. exact counts offsets that
// are right, none those that are not there or of an earlier time, which is no fault but has to be told; faults are others.
func (w *followers) judge() (exact, none int, faults []string) {
	for _, p := range w.parts {
		type sent struct{ local, up int64 }
		var own []sent
		for _, r := range w.kafka.Everything(p.Topic(), int(p.Index()), 0) {
			var local int64
			if n, _ := fmt.Sscanf(string(r.Value), "%d ", &local); n == 1 {
				own = append(own, sent{local, r.Offset})
			}
		}
		for _, name := range w.names {
			read := w.groups.Offset(name, p)
			if read < 0 || len(own) == 0 {
				continue
			}
			up := w.kafka.GroupOffset(name, p.Topic(), p.Index())
			want := own[len(own)-1].up + 1
			if i := slices.IndexFunc(own, func(s sent) bool { return s.local >= read }); i >= 0 {
				want = own[i].up
			}
			if up < 0 {
				none++
				continue
			}
			var unread, reads []int64
			for _, s := range own {
				if s.local >= read {
					unread = append(unread, s.local)
				}
				if s.up >= up {
					reads = append(reads, s.local)
				}
			}
			switch {
			case up == want && slices.Equal(unread, reads):
				exact++
			case len(reads) >= len(unread) && slices.Equal(reads[len(reads)-len(unread):], unread) &&
				slices.ContainsFunc(own, func(s sent) bool { return s.up == up || s.up+1 == up }): // of an earlier commit
				none++
			default:
				faults = append(faults, fmt.Sprintf("%s: %s-%d: read up to %d, which is %d, but %d is committed: %d records unread, %d would be read",
					name, p.Topic(), p.Index(), read, want, up, len(unread), len(reads)))
			}
		}
	}
	return exact, none, faults
}

// story runs a world with groups: what is wrong in the end, and how often it said that it does not know.
func story(t *testing.T, seed uint64, cfg upstream.Config, change func(*followers)) (w *followers, exact, none int, faults []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w = newFollowers(t, seed, cfg)
		if change != nil {
			change(w)
		}
		w.board = w.start()
		defer func() { w.stop() }()
		w.live(*rounds)
		s := w.settle()
		exact, none, faults = w.judge()
		if none > s.Groups.Waiting { // two offsets may be one there: then what is told not to be known may be right
			faults = append(faults, fmt.Sprintf("%d offsets are not what is read, and it says %d: %+v", none, s.Groups.Waiting, s.Groups))
		}
		// Groups move on: then nothing may be left, whatever happened.
		for _, p := range w.parts {
			plainly(w.all, p, 3, "on")
		}
		w.board.drained(t)
		for _, p := range w.parts {
			for i, name := range w.names {
				w.read(name, p, p.High()-int64(i))
			}
		}
		w.board.drained(t)
		time.Sleep(2 * time.Hour)
		s = w.board.link.Status()
		_, left, more := w.judge()
		faults = append(faults, more...)
		if left > 0 || s.Groups.Waiting > 0 {
			faults = append(faults, fmt.Sprintf("%d are left though groups have moved on: %+v", left, s.Groups))
		}
		faults = append(faults, w.all.faults(t, only{w.kafka})...)
	})
	return w, exact, none, faults
}

// only has what the board sent of what is upstream.
type only struct{ *upstreamtest.Kafka }

func (o only) Committed(topic string, partition int) []upstream.Record {
	return slices.DeleteFunc(o.Kafka.Committed(topic, partition), func(r upstream.Record) bool {
		return strings.HasPrefix(string(r.Value), "foreign") || string(r.Value) == "?"
	})
}

func TestGroupsReadOnExactlyWhereTheyWere(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  upstream.Config
	}{
		{"large transactions", upstream.Config{}},
		{"small transactions", upstream.Config{TransactionBytes: 2000}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			exact, none, searches := 0, 0, int64(0)
			for _, seed := range seeds(8) {
				w, right, not, faults := story(t, seed, tt.cfg, nil)
				if len(faults) > 0 {
					t.Fatalf("-seed=%d: %d faults, %s", seed, len(faults), strings.Join(faults[:min(3, len(faults))], "; "))
				}
				exact, none, searches = exact+right, none+not, searches+w.searches
			}
			t.Logf("%d offsets exact, %d said not to be known until the group moves on, %d looks upstream", exact, none, searches)
			if *seed == 0 && !testing.Short() && (exact < 20 || searches == 0) {
				t.Error("too little was translated to prove anything")
			}
		})
	}
}

// What the comparison must find: a translation by the difference of two offsets, and one that is off by a marker.
func TestGroupDefectsAreCaught(t *testing.T) {
	for name, place := range map[string]func(r *upstream.Record, first int64, n int64){
		"off by one marker":        func(r *upstream.Record, _, _ int64) { r.Offset++ },
		"by the difference":        func(r *upstream.Record, first, n int64) { r.Offset = first + n },
		"off by one the other way": func(r *upstream.Record, _, _ int64) { r.Offset-- },
	} {
		t.Run(name, func(t *testing.T) {
			for tries := range 20 {
				seed := rand.Uint64()
				_, _, _, faults := story(t, seed, upstream.Config{TransactionBytes: 4000}, func(w *followers) {
					w.wrap = func(r upstream.Remote) upstream.Remote { return misplacing{r, place} }
				})
				if len(faults) > 0 {
					t.Logf("try %d, -seed=%d finds it: %s", tries+1, seed, faults[0])
					return
				}
			}
			t.Error("no seed of 20 has found it")
		})
	}
}

// misplacing is a defect: records are taken for being elsewhere. Patient is left out.
type misplacing struct {
	upstream.Remote
	place func(r *upstream.Record, first, n int64)
}

func (m misplacing) Open(ctx context.Context, id string) (upstream.Session, error) {
	s, err := m.Remote.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	return &misplaced{Session: s, place: m.place, first: map[string]int64{}, count: map[string]int64{}}, nil
}

type misplaced struct {
	upstream.Session
	place        func(r *upstream.Record, first, n int64)
	first, count map[string]int64
}

func (m *misplaced) Send(ctx context.Context, recs []upstream.Record) error {
	err := m.Session.Send(ctx, recs)
	for i := range recs {
		r := &recs[i]
		if strings.HasPrefix(r.Topic, "__") {
			continue
		}
		at := fmt.Sprint(r.Topic, r.Partition)
		if _, is := m.first[at]; !is {
			m.first[at] = r.Offset
		}
		m.place(r, m.first[at], m.count[at])
		m.count[at]++
	}
	return err
}
