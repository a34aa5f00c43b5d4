package contract

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// measured is a Speed that has seen a while of it: bytes of the log a second, and of the wire for each.
func measured(perSecond int64, wire float64) *Speed {
	s := &Speed{}
	s.Add(100*perSecond, int64(wire*100*float64(perSecond)), 100*time.Second)
	return s
}

func TestEstimates(t *testing.T) {
	noon := known(time.Date(2027, 5, 1, 12, 0, 0, 0, time.UTC))
	night := schedule(t, nil, "00:00-06:00")
	for _, tt := range []struct {
		name string
		now  Moment
		b    Backlog
		want string
	}{
		{"none", noon, Backlog{Share: 1}, "up to date"},
		{"as in the book", noon, Backlog{Behind: 23_000_000, Speed: measured(27_400, 0.25), Share: 1}, "23 MB behind, about 14 min"},
		{"soon", noon, Backlog{Behind: 900, Speed: measured(27_400, 0.25), Share: 1}, "900 B behind, less than a minute"},
		{"a fifth of the link", noon, Backlog{Behind: 23_000_000, Speed: measured(27_400, 0.25), Share: 0.2}, "23 MB behind, about 70 min"},
		{"more comes in meanwhile", noon, Backlog{Behind: 23_000_000, Speed: measured(27_400, 0.25), Share: 1, Growth: 13_700}, "23 MB behind, about 28 min"},
		{"as much comes in as goes", noon, Backlog{Behind: 23_000_000, Speed: measured(27_400, 0.25), Share: 1, Growth: 27_400}, "23 MB behind, for an unknown time"},
		{"not measured", noon, Backlog{Behind: 9_900, Speed: &Speed{}, Share: 1}, "9.9 kB behind, for an unknown time"},
		{"without a speed", noon, Backlog{Behind: 4 << 30, Share: 1}, "4.3 GB behind, for an unknown time"},
		{"tonight", noon, Backlog{Behind: 1_000_000, Speed: measured(1000, 1), Share: 1, Schedule: night}, "1.0 MB behind, about 12 h"},
		{"tonight and tomorrow", noon, Backlog{Behind: 22_600_000, Speed: measured(1000, 1), Share: 1, Schedule: night}, "23 MB behind, about 36 h"},
		{"windows, and nobody knows the time", Moment{Time: noon.Time}, Backlog{Behind: 1, Speed: measured(1000, 1), Share: 1, Schedule: night}, "1 B behind, for an unknown time"},
		{"the day's bytes", noon, Backlog{Behind: 25_000_000, Speed: measured(1_000_000, 0.5), Share: 1, Day: Day{Limit: 5_000_000, Left: 1_000_000}}, "25 MB behind, about 60 h"},
		{"the day's bytes are enough, and nobody knows the time", Moment{}, Backlog{Behind: 2_000_000, Speed: measured(1000, 0.5), Share: 1, Day: Day{Limit: 5_000_000, Left: 1_000_001}}, "2.0 MB behind, about 33 min"},
		{"they are not", Moment{}, Backlog{Behind: 2_100_000, Speed: measured(1000, 0.5), Share: 1, Day: Day{Limit: 5_000_000, Left: 1_000_000}}, "2.1 MB behind, for an unknown time"},
		{"for weeks", noon, Backlog{Behind: 250_000_000, Speed: measured(1_000_000, 0.5), Share: 1, Day: Day{Limit: 5_000_000}}, "250 MB behind, about 25 days"},
		{"for longer than anybody can say", noon, Backlog{Behind: 25_000_000_000, Speed: measured(1_000_000, 0.5), Share: 1, Day: Day{Limit: 5_000_000}}, "25 GB behind, for an unknown time"},
		{"more comes in than a day has room for", noon, Backlog{Behind: 1_000_000, Speed: measured(1_000_000, 1), Share: 1, Growth: 100, Day: Day{Limit: 5_000_000}}, "1.0 MB behind, for an unknown time"},
		{"no budget", noon, Backlog{Behind: 23_000_000, Speed: measured(27_400, 0.25), Share: 1, Day: (*Budget)(nil).Day()}, "23 MB behind, about 14 min"},
		{"no share", noon, Backlog{Behind: 1000, Speed: measured(1000, 1)}, "1.0 kB behind, for an unknown time"},
		{"no number", noon, Backlog{Behind: 1000, Speed: measured(1000, 1), Share: math.NaN()}, "1.0 kB behind, for an unknown time"},
		{"no number comes in", noon, Backlog{Behind: 1000, Speed: measured(1000, 1), Share: 1, Growth: math.Inf(1)}, "1.0 kB behind, for an unknown time"},
		{"less than nothing", noon, Backlog{Behind: -5, Speed: measured(1000, 1), Share: 1}, "up to date"},
		{"all there is", noon, Backlog{Behind: math.MaxInt64, Speed: measured(1, 1), Share: 1}, "9223372 TB behind, for an unknown time"},
	} {
		if got := tt.b.Estimate(tt.now).String(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// Speed is of busy time only, follows a change within a few minutes of it, and is not led astray by nonsense.
func TestSpeedIsOfBusyTime(t *testing.T) {
	s := &Speed{}
	if s.PerSecond() != 0 || s.Wire() != 0 {
		t.Error("knows something already")
	}
	s.Add(500, 100, time.Second/2)
	if s.PerSecond() != 0 {
		t.Error("half a second is not enough")
	}
	for range 100 {
		s.Add(500, 100, time.Second/2)
	}
	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got/want-1) > 0.05 {
			t.Errorf("%s: %v, want about %v", what, got, want)
		}
	}
	near("speed", s.PerSecond(), 1000)
	near("wire", s.Wire(), 0.2)
	for range 5 {
		s.Add(0, 0, time.Hour)
		s.Add(100, 1, 0)
		s.Add(100, 1, -time.Hour)
		s.Add(100, -1, time.Hour)
		s.Add(-100, 1, time.Hour)
	}
	near("speed after nonsense", s.PerSecond(), 1000)
	for range 400 {
		s.Add(5000, 5000, time.Second/2)
	}
	near("speed after a change", s.PerSecond(), 10_000)
	near("wire after a change", s.Wire(), 1)
}

// What an estimate says is what a simulation of the link, minute by minute, comes to; and more backlog is never sooner done.
func TestEstimatesAreWhatHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := known(time.Date(2027, 3, 27, 0, 0, 0, 0, time.UTC).Add(time.Duration(rapid.Int64Range(0, 48*60).Draw(t, "minute")) * time.Minute))
		z, err := ownZone(rapid.SampledFrom([]string{"UTC", "Europe/Berlin", "America/Havana"}).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		b := Backlog{Speed: measured(1000, rapid.Float64Range(0.1, 2).Draw(t, "wire")), Share: rapid.Float64Range(0.1, 1).Draw(t, "share"), Zone: z}
		b.Behind = rapid.Int64Range(1, 200_000_000).Draw(t, "behind")
		b.Growth = rapid.Float64Range(0, 300).Draw(t, "growth")
		windows := [][]string{nil, {"22:00-02:00"}, {"01:30-03:30", "12:00-13:00"}}[rapid.IntRange(0, 2).Draw(t, "windows")]
		if b.Schedule, err = ParseSchedule(windows, z); err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "budget") {
			b.Day.Limit = rapid.Int64Range(PerDayMin, 50_000_000).Draw(t, "limit")
			b.Day.Left = rapid.Int64Range(0, b.Day.Limit).Draw(t, "left")
		}
		e := b.Estimate(now)
		if more := b; e.Known {
			if more.Behind += 1_000_000; more.Estimate(now).Known && more.Estimate(now).In < e.In {
				t.Fatalf("%v, and with a megabyte more %v", e.In, more.Estimate(now).In)
			}
		}
		behind, left, minutes := float64(b.Behind), float64(b.Day.Left), 0
		for at := now; behind > 0 && minutes < 20*24*60; minutes++ {
			going := 0.0
			if b.Schedule.Open(at) {
				going = 60
				if b.Day.Limit > 0 {
					going = min(60, left/(b.Speed.PerSecond()*b.Speed.Wire()))
					left -= going * b.Speed.PerSecond() * b.Speed.Wire()
				}
			}
			if behind += going * (b.Growth - b.Speed.PerSecond()*b.Share); behind <= 0 {
				continue // done within this minute
			}
			behind += (60 - going) * b.Growth
			date := dateOf(z, at.Time)
			if at.Time = at.Time.Add(time.Minute); dateOf(z, at.Time) > date {
				left = float64(b.Day.Limit)
			}
		}
		if behind > 0 {
			if e.Known && e.In < 20*24*time.Hour-2*time.Minute {
				t.Fatalf("%+v: %v, and in 20 days it is not done", b, e)
			}
			return
		}
		if !e.Known || math.Abs(e.In.Minutes()-float64(minutes)) > 2 {
			t.Fatalf("%+v from %v: %v, took %d min", b, now.Time.In(z), e.In, minutes)
		}
	})
}

// Whatever is asked, the answer is quick and no nonsense.
func TestNoEstimateIsNonsense(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Backlog{
			Behind: rapid.Int64().Draw(t, "behind"), Share: rapid.Float64().Draw(t, "share"), Growth: rapid.Float64().Draw(t, "growth"),
			Day: Day{Limit: rapid.Int64().Draw(t, "limit"), Left: rapid.Int64().Draw(t, "left")},
		}
		if rapid.Bool().Draw(t, "measured") {
			b.Speed = &Speed{}
			b.Speed.Add(rapid.Int64().Draw(t, "bytes"), rapid.Int64().Draw(t, "wire"), time.Duration(rapid.Int64().Draw(t, "busy")))
		}
		e := b.Estimate(Moment{Time: time.Unix(rapid.Int64Range(rulesFrom, 1<<33).Draw(t, "now"), 0), Known: rapid.Bool().Draw(t, "known")})
		if e.Behind < 0 || e.Known && (e.In < 0 || e.In > horizon) || !e.Known && e.In != 0 || e.String() == "" {
			t.Fatalf("%+v: %+v", b, e)
		}
	})
}
