package drill

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// written are records as a board has them: of two partitions, some of them the same as others.
func written() (list []Record) {
	for i := range 40 {
		list = append(list, Record{
			Topic: "t", Partition: int32(i % 2), Timestamp: 1_700_000_000_000 + int64(i), Key: fmt.Append(nil, i), Value: fmt.Appendf(nil, "value %d", i),
			Headers: []Header{{"n", fmt.Append(nil, i)}, {"null", nil}},
		})
	}
	same := Record{Topic: "t", Partition: 0, Timestamp: 1, Value: []byte("the same")}
	return append(list, same, same, same)
}

// copied is what was written as an upstream has it: with other offsets.
func copied(change func([]Record) []Record) []Record {
	list := slices.Clone(written())
	for i := range list {
		list[i].Offset = int64(1000 + 3*i)
		list[i].Headers = slices.Clone(list[i].Headers)
	}
	return change(list)
}

func TestTheSameIsNoDifference(t *testing.T) {
	for name, change := range map[string]func([]Record) []Record{
		"as written": func(l []Record) []Record { return l },
		"another order of the partitions": func(l []Record) []Record {
			slices.SortStableFunc(l, func(a, b Record) int { return int(b.Partition - a.Partition) })
			return l
		},
	} {
		if err := Compare(written(), copied(change)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Compare(nil, nil); err != nil {
		t.Error(err)
	}
}

func TestEveryDifferenceIsFound(t *testing.T) {
	at := func(i int, change func(*Record)) func([]Record) []Record {
		return func(l []Record) []Record { change(&l[i]); return l }
	}
	for name, tt := range map[string]struct {
		change func([]Record) []Record
		want   Difference
		says   string
	}{
		"the first is lost": {func(l []Record) []Record { return l[1:] }, Difference{Lost: 1}, `t-0: record 0 of 23 is not there: timestamp 1700000000000, key "0"`},
		"the last is lost":  {func(l []Record) []Record { return l[:42] }, Difference{Lost: 1}, "the same"},
		"a partition is lost": {func(l []Record) []Record {
			return slices.DeleteFunc(l, func(r Record) bool { return r.Partition == 1 })
		}, Difference{Lost: 20}, "t-1: record 0 of 20"},
		"twice at once":           {func(l []Record) []Record { return slices.Insert(l, 5, l[4]) }, Difference{Twice: 1}, "t-0: offset 1012 is there once more"},
		"twice later":             {func(l []Record) []Record { return append(l, l[4]) }, Difference{Twice: 1}, `value "value 4"`},
		"the same once too often": {func(l []Record) []Record { return append(l, l[42]) }, Difference{Twice: 1}, "the same"},
		"a run twice":             {func(l []Record) []Record { return slices.Insert(l, 10, slices.Clone(l[4:10])...) }, Difference{Twice: 6}, "offset 1012"},
		"two swapped":             {func(l []Record) []Record { l[6], l[8] = l[8], l[6]; return l }, Difference{Disordered: 1}, `t-0: offset 1018 comes after one that was written later: timestamp 1700000000006`},
		"one comes at the end": {func(l []Record) []Record {
			return append(slices.Delete(l, 0, 1), copied(func(l []Record) []Record { return l[:1] })...)
		}, Difference{Disordered: 1}, `key "0"`},
		"another partition": {at(7, func(r *Record) { r.Partition = 0 }), Difference{Lost: 1, Unknown: 1}, `key "7"`},
		"nobody wrote it":   {func(l []Record) []Record { return append(l, Record{Topic: "t", Value: []byte("foreign")}) }, Difference{Unknown: 1}, "written by nobody"},
		"of another topic":  {func(l []Record) []Record { return append(l, Record{Topic: "u", Value: []byte("foreign")}) }, Difference{Unknown: 1}, "u-0: offset 0"},
		"value":             {at(3, func(r *Record) { r.Value = []byte("other") }), Difference{Changed: 1}, `t-1: offset 1009 is not record 1 as it was written: value "other" of 5 bytes, want "value 3"`},
		"key":               {at(3, func(r *Record) { r.Key = nil }), Difference{Changed: 1}, "key null"},
		"empty for null":    {at(42, func(r *Record) { r.Key = []byte{} }), Difference{Changed: 1}, "want null"},
		"timestamp":         {at(3, func(r *Record) { r.Timestamp++ }), Difference{Changed: 1}, "timestamp 1700000000004, want 1700000000003"},
		"a header's value":  {at(3, func(r *Record) { r.Headers[0].Value = []byte("x") }), Difference{Changed: 1}, "headers"},
		"a header's null":   {at(3, func(r *Record) { r.Headers[1].Value = []byte{} }), Difference{Changed: 1}, "headers"},
		"a header less":     {at(3, func(r *Record) { r.Headers = r.Headers[:1] }), Difference{Changed: 1}, "headers"},
		"headers swapped":   {at(3, func(r *Record) { slices.Reverse(r.Headers) }), Difference{Changed: 1}, "headers"},
		"a header more": {at(3, func(r *Record) {
			r.Headers = append(r.Headers, Header{"a", nil})
		}), Difference{Changed: 1}, "headers"},
	} {
		err := Compare(written(), copied(tt.change))
		var got *Difference
		if !errors.As(err, &got) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		counts := *got
		counts.First = nil
		if fmt.Sprint(counts) != fmt.Sprint(tt.want) {
			t.Errorf("%s: %+v, want %+v", name, counts, tt.want)
		}
		if !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %s", name, err, tt.says)
		}
	}
}

// Whatever is done to a copy is a difference, and what is told of it stays short.
func TestAnyHarmIsFound(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 500 {
		var harm string
		err := Compare(written(), copied(func(l []Record) []Record {
			i := random.IntN(40) // those that are like no other
			switch random.IntN(4) {
			case 0:
				harm = fmt.Sprint("lost ", i)
				return slices.Delete(l, i, i+1)
			case 1:
				harm = fmt.Sprint("twice ", i)
				return slices.Insert(l, random.IntN(len(l)), l[i])
			case 2:
				j := (i + 2 + 2*random.IntN(19)) % 40 // of the same partition
				harm = fmt.Sprint("swapped ", i, " and ", j)
				l[i], l[j] = l[j], l[i]
				return l
			default:
				harm = fmt.Sprint("changed ", i)
				l[i].Value = fmt.Append(nil, random.Uint64())
				return l
			}
		}))
		var d *Difference
		if !errors.As(err, &d) || len(d.First) == 0 || len(d.First) > firstMax {
			t.Fatalf("%s: %v", harm, err)
		}
	}
}
