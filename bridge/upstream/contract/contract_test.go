package contract

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestClassesOfTopics(t *testing.T) {
	quick := time.Second
	c, err := New(Config{Classes: []Class{
		{Topics: []string{"sensors.alarm", "*.alarm"}, Priority: 0},
		{Topics: []string{"sensors.*"}, Priority: 5, Linger: &quick},
		{Topics: []string{"sensors.never"}, Priority: 7},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]int{"sensors.alarm": 0, "plant.alarm": 0, "sensors.alarms": 1, "sensors.never": 1, "other": 3, "": 3} {
		if got := c.Class(topic); got != want {
			t.Errorf("%q is in class %d, want %d", topic, got, want)
		}
	}
	if c.Classes() != 4 || c.Priority(1) != 5 || c.Priority(3) != 8 {
		t.Errorf("%d classes, priorities %d and %d", c.Classes(), c.Priority(1), c.Priority(3))
	}
	none, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Linger(0, time.Minute) != time.Minute || c.Linger(1, time.Minute) != quick || c.Linger(3, time.Minute) != time.Minute {
		t.Errorf("gathered for %s, %s, %s", c.Linger(0, time.Minute), c.Linger(1, time.Minute), c.Linger(3, time.Minute))
	}
	if none.Classes() != 1 || none.Class("x") != 0 || none.Priority(0) != 0 {
		t.Error("without classes all is one, of the highest priority")
	}
}

func TestContractsThatMakeNoSense(t *testing.T) {
	topics := []string{"x"}
	for want, cfg := range map[string]Config{
		"33 classes, and 32": {Classes: make([]Class, 33)},
		"class 1 has no":     {Classes: []Class{{}}},
		"class 2 has no":     {Classes: []Class{{Topics: topics}, {Topics: []string{"y", ""}}}},
		`class 1: window`:    {Classes: []Class{{Topics: topics, Windows: []string{"x"}}}},
		`window "y"`:         {Windows: []string{"y"}},
		"more than 1":        {Classes: []Class{{Topics: topics, MinimumShare: 0.7}, {Topics: topics, MinimumShare: 0.7}}},
		"priority -1":        {Classes: []Class{{Topics: topics, Priority: -1}}},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	if c, err := New(Config{Classes: []Class{{Topics: topics, Priority: math.MaxInt}}}); err != nil || c.Priority(1) != math.MaxInt {
		t.Errorf("%v", err)
	}
}

func TestWhoMaySendWhen(t *testing.T) {
	c, err := New(Config{
		Zone: zone(t, "Europe/Berlin"), Windows: []string{"00:00-06:00"},
		Classes: []Class{
			{Topics: []string{"alarm"}, Priority: 0, Windows: []string{}},
			{Topics: []string{"noon"}, Priority: 1, MinimumShare: 0.25, Windows: []string{"12:00-13:00"}, Metered: true},
			{Topics: []string{"bulk"}, Priority: 2},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	const alarm, noon, bulk, rest = 1, 2, 4, 8
	at := func(hour int) Moment { return known(time.Date(2027, 6, 1, hour-2, 30, 0, 0, time.UTC)) } // Berlin is two hours ahead
	for _, tt := range []struct {
		name    string
		now     Moment
		metered bool
		want    Set
	}{
		{"at night", at(3), false, alarm | bulk | rest},
		{"at noon", at(12), false, alarm | noon},
		{"at another time", at(15), false, alarm},
		{"at no time that is known", Moment{Time: at(12).Time}, false, alarm},
		{"at night, metered", at(3), true, alarm},
		{"at noon, metered", at(12), true, alarm | noon},
	} {
		c.SetMetered(tt.metered)
		if got := c.Allowed(tt.now); got != tt.want || c.Metered() != tt.metered {
			t.Errorf("%s: %04b, want %04b", tt.name, got, tt.want)
		}
	}
	c.SetMetered(false)
	if next, ok := c.Next(at(3)); !ok || !next.Equal(at(6).Time.Add(-30*time.Minute)) {
		t.Errorf("next at %v, %v", next, ok)
	}
	if _, ok := c.Next(Moment{Time: at(3).Time}); ok {
		t.Error("knows when, and not what time it is")
	}
	if !c.Schedule(1).Open(at(12)) || c.Schedule(3).Open(at(12)) {
		t.Error("not the class's windows")
	}
	// At noon the alarms get three quarters while bulk, which is pending as well, has no window.
	sent := make([]int64, c.Classes())
	for range 1000 {
		class, bytes := c.Pick(at(12), alarm|noon|bulk, 100)
		c.Sent(class, bytes)
		sent[class] += bytes
	}
	if sent[0] < 74_900 || sent[1] < 24_900 || sent[2] != 0 {
		t.Errorf("sent %v", sent)
	}
	if class, _ := c.Pick(at(12), bulk, 100); class != -1 {
		t.Errorf("class %d out of its window", class)
	}
	// A link without classes that is metered sends all the same.
	all, err := New(Config{Metered: true})
	if err != nil {
		t.Fatal(err)
	}
	if all.Allowed(Moment{}) != 1 {
		t.Error("a metered link without classes sends nothing")
	}
}

func TestTurns(t *testing.T) {
	c, err := New(Config{Windows: []string{"00:00-06:00"}})
	if err != nil {
		t.Fatal(err)
	}
	at := func(clock string) Moment {
		parsed, err := time.Parse(time.DateTime, "2027-06-01 "+clock)
		if err != nil {
			t.Fatal(err)
		}
		return known(parsed)
	}
	whole := (*Budget)(nil).Day()
	renews := at("05:00:00").Time.Add(19 * time.Hour)
	for _, tt := range []struct {
		name    string
		now     Moment
		pending Set
		day     Day
		class   int
		bytes   int64
		wait    time.Duration
	}{
		{"at night", at("05:00:00"), 1, whole, 0, 1 << 20, 0},
		{"with little of the day left", at("05:00:00"), 1, Day{Left: 5000, Renews: renews}, 0, 5000, 0},
		{"with too little", at("05:00:00"), 1, Day{Left: 4000, Renews: renews}, -1, 0, time.Minute},
		{"just before the day renews", at("23:59:50"), 1, Day{Renews: renews}, -1, 0, 10 * time.Second},
		{"of a day nobody dates", at("05:00:00"), 1, Day{}, -1, 0, time.Minute},
		{"that cannot be counted", at("05:00:00"), 1, Day{Left: 1 << 30, Err: ErrDaySpent}, -1, 0, time.Minute},
		{"before the window", at("23:59:59"), 1, whole, -1, 0, time.Second},
		{"long before it", at("12:00:00"), 1, whole, -1, 0, time.Minute},
		{"with nothing to send", at("05:00:00"), 0, whole, -1, 0, time.Minute},
		{"at no time that is known", Moment{Time: at("05:00:00").Time}, 1, whole, -1, 0, time.Minute},
	} {
		class, bytes, wait := c.Turn(tt.now, tt.pending, 1<<20, tt.day)
		if class != tt.class || bytes != tt.bytes || wait != tt.wait {
			t.Errorf("%s: %d, %d, %v; want %d, %d, %v", tt.name, class, bytes, wait, tt.class, tt.bytes, tt.wait)
		}
	}
}

func TestBackoff(t *testing.T) {
	const seed = 7
	rng := rand.New(rand.NewPCG(seed, seed))
	b := Backoff{Min: time.Second, Max: time.Minute, Random: rng.Int64N}
	for try := range 3 {
		ceiling := 2 * time.Second
		for i := range 40 {
			if d := b.Next(); d < time.Second || d > ceiling {
				t.Errorf("seed %d: wait %d of try %d is %v, at most %v", seed, i, try, d, ceiling)
			}
			ceiling = min(2*ceiling, time.Minute)
		}
		b.Reset()
	}
	// The whole of the range is used, evenly.
	var sum time.Duration
	least, most := time.Hour, time.Duration(0)
	for range 10 {
		b.Next()
	}
	for range 10_000 {
		d := b.Next()
		sum += d
		least, most = min(least, d), max(most, d)
	}
	if mean := sum / 10_000; mean < 30*time.Second || mean > 31*time.Second || least > 1100*time.Millisecond || most < 59900*time.Millisecond {
		t.Errorf("seed %d: mean %v, from %v to %v", seed, mean, least, most)
	}
	for _, same := range []Backoff{{Min: time.Minute, Max: time.Minute}, {Min: time.Minute, Max: time.Second}} {
		if d := same.Next(); d != same.Min {
			t.Errorf("waits %v", d)
		}
	}
	var edges []time.Duration
	for _, random := range []func(int64) int64{func(int64) int64 { return 0 }, func(n int64) int64 { return n - 1 }} {
		b := Backoff{Min: time.Second, Max: time.Minute, Random: random}
		edges = append(edges, b.Next())
	}
	if edges[0] != time.Second || edges[1] != 2*time.Second {
		t.Errorf("the first wait is from %v to %v", edges[0], edges[1])
	}
}
