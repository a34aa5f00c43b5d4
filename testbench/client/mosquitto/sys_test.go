package mosquitto

import (
	"io"
	"net/http"
	"regexp"
	"testing"

	"millrace/testbench/lane"
	"millrace/testbench/process"
)

// mosquitto_sub sees the figures under $SYS as it does those of its own broker, and they cost the board no write.
func TestSysTopicsCostNoWrite(t *testing.T) {
	lane.Need(t, "mosquitto_sub", "stdbuf")
	p := process.StartHTTP(t, "[mqtt]\nsys_interval = '100ms'\n")
	written := func() string {
		t.Helper()
		r, err := http.Get("http://" + p.HTTP + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r.Body)
		if err := r.Body.Close(); err != nil {
			t.Error(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		return string(regexp.MustCompile(`(?m)^millrace_journal_groups_total .*$`).Find(text))
	}
	before := written()
	for _, version := range versions {
		one := sub(t, p, "-V", version, "-q", "1", "-t", "$SYS/broker/version")
		if m := one.next(); m.retain != "1" || m.qos != "0" || !regexp.MustCompile(`^millrace version .`).MatchString(m.payload) {
			t.Errorf("%s", m)
		}
		all := sub(t, p, "-V", version, "-q", "1", "-t", "$SYS/#")
		live := 0
		for ticks := 0; ticks < 3; {
			m := all.next()
			if m.retain == "0" {
				live++
			}
			if m.topic == "$SYS/broker/bytes/sent" { // each tick it is another, for who reads it
				ticks++
			}
		}
		if live == 0 {
			t.Error("nothing came but what was retained")
		}
		one.stop()
		all.stop()
	}
	if after := written(); before == "" || after != before {
		t.Errorf("%q, then %q", before, after)
	}
}
