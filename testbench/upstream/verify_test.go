package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/bridge/upstream"
	"millrace/broker"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
	"millrace/testbench/process"
)

// readBack is what `millrace upstream verify` says of a link of the board in a directory.
func readBack(t *testing.T, dir, link string) (list []upstream.Verified) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lane.Patience)
	defer cancel()
	if err := broker.Verify(ctx, dir, url.Values{"link": {link}}, func(l broker.VerifyLine) error {
		if l.Partition != nil {
			list = append(list, *l.Partition)
		}
		return nil
	}); err != nil {
		t.Fatalf("%s: %v", link, err)
	}
	return list
}

// verified wants a link to find so many records there, once and in order, and no others.
func verified(t *testing.T, dir, link string, records int) {
	t.Helper()
	compared := int64(0)
	for _, v := range readBack(t, dir, link) {
		if compared += v.Compared; !v.Good() || v.Foreign > 0 || v.Lost > 0 {
			t.Errorf("%s: %+v", link, v)
		}
	}
	if compared != int64(records) {
		t.Errorf("%s has compared %d records, want %d", link, compared, records)
	}
}

// verify is the command itself.
func (s *station) verify(code int, args ...string) (list []upstream.Verified) {
	s.t.Helper()
	args = append([]string{"upstream", "verify", "hq", "-o", "json", "--data", s.dir}, args...)
	var complaints bytes.Buffer
	cmd := exec.CommandContext(s.t.Context(), process.Binary(s.t), args...)
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		s.t.Fatal(err)
	}
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var v upstream.Verified
		if err := d.Decode(&v); err != nil {
			s.t.Fatal(err)
		}
		list = append(list, v)
	}
	if got != code {
		s.t.Errorf("%q ended with %d, want %d: %+v\n%s", args, got, code, list, complaints.Bytes())
	}
	return list
}

// What a link has delivered is there; what somebody adds of their own disturbs nothing; what is there twice, altered or
// deleted is told, with and without provenance.
func TestVerify(t *testing.T) {
	c := kafka.Shared(t)
	for _, tt := range []struct {
		name, setting string
		exact         bool
	}{{"plainly", "", false}, {"withsource", "provenance = true", true}} {
		t.Run(tt.name, func(t *testing.T) {
			b := stationIn(t, c, tt.name, filepath.Join(t.TempDir(), "data"), tt.setting)
			b.write("a", 40, "v")
			b.write("b", 3, "w")
			b.delivered()
			one := func(list []upstream.Verified) upstream.Verified {
				t.Helper()
				if len(list) != 1 {
					t.Fatalf("%+v", list)
				}
				return list[0]
			}
			if list := b.verify(0, "--all"); len(list) != 2 || list[0].Compared != 40 || list[1].Compared != 3 {
				t.Errorf("%+v", list)
			}
			if v := one(b.verify(0, "--topic", b.topic("a"), "--last", "5")); v.Compared != 5 || v.Foreign != 0 {
				t.Errorf("%+v", v)
			}
			if text := process.Run(t, "upstream", "verify", "hq", "--data", b.dir); !strings.Contains(text, b.topic("a")+"-0: good: offsets 0 to 40, 40 records compared") {
				t.Error(text)
			}

			ctx, cancel := context.WithTimeout(t.Context(), lane.Patience)
			defer cancel()
			client := c.Client(t, kgo.TransactionalID(tt.name), kgo.RecordPartitioner(kgo.ManualPartitioner()))
			transact := func(how kgo.TransactionEndTry, records ...*kgo.Record) {
				t.Helper()
				if err := errors.Join(client.BeginTransaction(), client.ProduceSync(ctx, records...).FirstErr(), client.EndTransaction(ctx, how)); err != nil {
					t.Fatal(err)
				}
			}
			own := logOf(t, []string{b.topic("a")}, c.Direct()...)
			again := func(i int) *kgo.Record {
				r := own[i].ToClient()
				r.Topic, r.Partition = b.topic("a"), 0
				return r
			}
			transact(kgo.TryCommit, &kgo.Record{Topic: b.topic("a"), Value: []byte("somebody else's")})
			transact(kgo.TryAbort, again(3))
			if v := one(b.verify(0, "--all", "--topic", b.topic("a"))); v.Compared != 40 || v.Foreign != 1 {
				t.Errorf("%+v", v)
			}
			transact(kgo.TryCommit, again(7))
			if v := one(b.verify(3, "--all", "--topic", b.topic("a"))); v.Doubled != (upstream.Fault{Count: 1, First: 7}) || v.Missing.Count > 0 {
				t.Errorf("%+v", v)
			}
			altered := again(8)
			altered.Value = []byte("altered")
			if _, err := kadm.NewClient(client).DeleteRecords(ctx, kadm.Offsets{b.topic("a"): {0: {Topic: b.topic("a"), At: own[10].Offset}}}); err != nil {
				t.Fatal(err)
			}
			transact(kgo.TryCommit, altered)
			v := one(b.verify(3, "--all", "--topic", b.topic("a")))
			// The second copy of 7 is the only one now, behind all others; of 8 there is one that is not what it was, or, without
			// provenance, of one that has gone and has the same stamp.
			if v.Missing != (upstream.Fault{Count: 8, First: 0}) || v.Different.Count != 1 || v.Different.First > 8 || tt.exact && v.Different.First != 8 || v.Doubled.Count > 0 ||
				v.Disordered.First != 7 || v.Compared != 40 || !strings.Contains(v.Note, fmt.Sprint("below offset ", own[10].Offset)) {
				t.Errorf("%+v", v)
			}
			if v := one(b.verify(0, "--all", "--topic", b.topic("b"))); v.Compared != 3 {
				t.Errorf("%+v", v)
			}
		})
	}
}
