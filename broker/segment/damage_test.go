package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"millrace/broker/disk"
	"millrace/broker/record"
)

var seed = flag.Uint64("seed", 0, "seed of the random damage, 0 for one of its own")

// consume reads a segment from its base to end as a partition does: whole spans, stepping over what is damaged. It
// returns the batches served by base offset, and the offsets lost.
func consume(t *testing.T, s *Segment, end, limit int64, maxBytes int) (served map[int64][]byte, lost int64) {
	t.Helper()
	served = make(map[int64][]byte)
	for offset := s.Base(); offset < end; {
		span, err := s.Read(offset, limit, maxBytes)
		var d *DamageError
		if errors.As(err, &d) {
			if !errors.Is(err, ErrDamaged) || d.Offset > offset || d.NextOffset >= 0 && d.NextOffset <= offset {
				t.Fatalf("Read(%d): %v: no way on", offset, d)
			}
			next := d.NextOffset
			if next < 0 {
				next = end
			}
			lost += next - offset
			offset = next
			continue
		}
		if err != nil {
			t.Fatalf("Read(%d): %v", offset, err)
		}
		if span.Len() == 0 {
			t.Fatalf("Read(%d): nothing, and no damage named, below %d", offset, end)
		}
		for rest := bytesOf(t, span); len(rest) > 0; {
			b, after, err := record.Next(rest)
			if err != nil {
				t.Fatalf("served bytes at %d: %v", offset, err)
			}
			served[b.BaseOffset()] = b
			if b.NextOffset() <= offset {
				t.Fatalf("Read(%d) goes back to %d", offset, b.NextOffset())
			}
			offset, rest = b.NextOffset(), after
		}
	}
	return served, lost
}

// sealed writes a sealed segment of count batches, epochs rising on the way, and returns its files.
func sealed(t *testing.T, count int) (files map[string][]byte, batches []record.Batch, cfg Config) {
	t.Helper()
	cfg = Config{IndexIntervalBytes: 600, EpochAt: func(offset int64) (int32, bool) {
		if offset < 110 {
			return 4, true
		}
		return 5, true
	}}
	s, dir := create(t, 100, cfg)
	_, batches = logOf(t, 100, count)
	for _, b := range batches {
		epoch, _ := cfg.EpochAt(b.BaseOffset())
		b.Stamp(b.BaseOffset(), epoch)
		if _, err := s.Append(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Seal(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files = make(map[string][]byte)
	for _, suffix := range suffixes[:kindTopic] { // these batches say nothing of topics
		p, err := os.ReadFile(filepath.Join(dir, fileName(100, suffix)))
		if err != nil {
			t.Fatal(err)
		}
		files[suffix] = p
	}
	return files, batches, cfg
}

// lay puts a segment's files into dir, and no others.
func lay(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for _, suffix := range suffixes {
		path := filepath.Join(dir, fileName(100, suffix))
		p, ok := files[suffix]
		if !ok {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			continue
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644) // overwriting in place is much quicker than truncating
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(p, 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(int64(len(p))); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// judge opens a segment with these files and demands that only true batches are served, all but those that the
// damaged bytes [from, to) of the log touch.
func judge(t *testing.T, dir string, files map[string][]byte, batches []record.Batch, cfg Config, from, to int, maxBytes int) {
	t.Helper()
	lay(t, dir, files)
	s := reopen(t, dir, 100, cfg)
	end, limit := batches[len(batches)-1].NextOffset(), int64(0)
	for _, b := range batches {
		limit += int64(len(b))
	}
	for pass := range 2 { // the second goes by what the first has verified
		served, _ := consume(t, s, end, limit, maxBytes)
		pos := 0
		for _, b := range batches {
			got, ok := served[b.BaseOffset()]
			touched := pos < to && from < pos+len(b)
			pos += len(b)
			switch {
			case ok && !bytes.Equal(got, b):
				t.Fatalf("pass %d: batch %d changed", pass, b.BaseOffset())
			case !ok && !touched:
				t.Fatalf("pass %d: batch %d lost, damage at %d to %d, batch to %d", pass, b.BaseOffset(), from, to, pos)
			case ok && touched:
				t.Fatalf("pass %d: damaged batch %d served", pass, b.BaseOffset())
			}
			delete(served, b.BaseOffset())
		}
		if len(served) > 0 {
			t.Fatalf("pass %d: %d batches out of nowhere", pass, len(served))
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestEveryBitFlipOfTheLog(t *testing.T) {
	files, batches, cfg := sealed(t, 7)
	log, dir := files[LogSuffix], t.TempDir()
	step := 1
	if testing.Short() {
		step = 7
	}
	for bit := 0; bit < len(log)*8; bit += step {
		log[bit/8] ^= 1 << (bit % 8)
		judge(t, dir, files, batches, cfg, bit/8, bit/8+1, 700)
		log[bit/8] ^= 1 << (bit % 8)
		if t.Failed() {
			t.Fatalf("bit %d of byte %d", bit%8, bit/8)
		}
	}
}

func TestEveryBitFlipOfTheIndexes(t *testing.T) {
	files, batches, cfg := sealed(t, 60)
	dir := t.TempDir()
	for _, suffix := range []string{IndexSuffix, TimeIndexSuffix} {
		p := files[suffix]
		if len(p) < 3*timeEntry {
			t.Fatalf("%s: %d bytes prove nothing", suffix, len(p))
		}
		for bit := range len(p) * 8 {
			p[bit/8] ^= 1 << (bit % 8)
			judge(t, dir, files, batches, cfg, 0, 0, 700)
			p[bit/8] ^= 1 << (bit % 8)
		}
	}
}

func TestRandomDamage(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("-seed=%d", *seed)
	r := rand.New(rand.NewPCG(*seed, 1))
	files, batches, cfg := sealed(t, 60)
	dir := t.TempDir()
	for range 300 {
		log := bytes.Clone(files[LogSuffix])
		from := r.IntN(len(log))
		to := min(from+1+r.IntN(500), len(log))
		switch r.IntN(3) {
		case 0: // zeros, as a lost page leaves them
			// Zeros where zeros were are no damage.
			clear(log[from:to])
			for from < to && files[LogSuffix][from] == 0 {
				from++
			}
			for to > from && files[LogSuffix][to-1] == 0 {
				to--
			}
		case 1:
			for i := from; i < to; i++ {
				log[i] ^= byte(1 + r.IntN(255))
			}
		case 2: // the file ends early
			log, to = log[:from], len(log)
		}
		damaged := map[string][]byte{LogSuffix: log, IndexSuffix: files[IndexSuffix], TimeIndexSuffix: files[TimeIndexSuffix]}
		if r.IntN(3) == 0 {
			delete(damaged, IndexSuffix)
		}
		judgeLoss(t, dir, damaged, batches, cfg, from, to)
	}
}

// judgeLoss is judge where a run of bytes is damaged: batches inside it may look whole.
func judgeLoss(t *testing.T, dir string, files map[string][]byte, batches []record.Batch, cfg Config, from, to int) {
	t.Helper()
	lay(t, dir, files)
	s := reopen(t, dir, 100, cfg)
	end, limit := batches[len(batches)-1].NextOffset(), int64(0)
	for _, b := range batches {
		limit += int64(len(b))
	}
	served, _ := consume(t, s, end, limit, 1500)
	pos := 0
	for _, b := range batches {
		got, ok := served[b.BaseOffset()]
		touched := pos < to && from < pos+len(b)
		pos += len(b)
		if ok && !bytes.Equal(got, b) {
			t.Fatalf("batch %d changed", b.BaseOffset())
		}
		if !ok && !touched {
			t.Fatalf("batch %d lost: damage at %d to %d, the batch ends at %d", b.BaseOffset(), from, to, pos)
		}
		delete(served, b.BaseOffset())
	}
	if len(served) > 0 {
		t.Fatalf("%d batches out of nowhere", len(served))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// Without the epochs known, a leader epoch that rises for one batch alone is still found, by the batch after it.
func TestEpochFlipWithoutTheEpochs(t *testing.T) {
	files, batches, cfg := sealed(t, 12)
	cfg.EpochAt = nil
	dir, pos := t.TempDir(), 0
	for i, b := range batches[:len(batches)-1] {
		for bit := range 32 {
			log := files[LogSuffix]
			at := pos + 12 + bit/8
			log[at] ^= 1 << (bit % 8)
			if int32(binary.BigEndian.Uint32(log[pos+12:])) > batches[i+1].LeaderEpoch() {
				judge(t, dir, files, batches, cfg, at, at+1, 700)
			}
			log[at] ^= 1 << (bit % 8)
		}
		pos += len(b)
	}
}

// A batch stored in the value of a record looks valid. When the header around it is damaged it must not be served.
func TestBatchInsideARecordIsNotServed(t *testing.T) {
	inner := batch(t, record.None, 101, 1, 1, 20)
	build := record.NewBuilder(record.None)
	build.Add(1, nil, inner, nil)
	outer, err := build.Build()
	if err != nil {
		t.Fatal(err)
	}
	outer.Stamp(100, 3)
	s, _ := create(t, 100, Config{})
	log := append(bytes.Clone(outer), batch(t, record.None, 101, 2, 1, 20)...)
	last := batch(t, record.None, 103, 1, 1, 20)
	log = append(log, last...)
	if _, err := s.Append(log); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(s.Path(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{0x7f}, 8); err != nil { // the length
		t.Fatal(err)
	}
	s = reopen(t, filepath.Dir(s.Path()), 100, Config{})
	served, lost := consume(t, s, 104, s.Size(), 1<<20)
	if lost != 1 || len(served) != 2 || !bytes.Equal(served[103], last) || len(served[101]) == len(inner) && bytes.Equal(served[101], inner) {
		t.Errorf("lost %d, served %d batches", lost, len(served))
	}
}

func TestVerifyFindsRotBehindAReader(t *testing.T) {
	s, _ := create(t, 0, Config{})
	log, batches := logOf(t, 0, 40)
	if _, err := s.Append(log); err != nil {
		t.Fatal(err)
	}
	end := batches[len(batches)-1].NextOffset()
	if _, lost := consume(t, s, end, s.Size(), 1000); lost != 0 {
		t.Fatalf("%d lost before any damage", lost)
	}
	at, err := s.Position(batches[20].BaseOffset())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(s.Path(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{^log[at+70]}, at+70); err != nil {
		t.Fatal(err)
	}
	var found *DamageError
	for pos := int64(0); pos < s.Size(); {
		next, err := s.Verify(pos, 500)
		if err != nil && !errors.As(err, &found) {
			t.Fatal(err)
		}
		if next <= pos {
			t.Fatalf("Verify stays at %d", pos)
		}
		pos = next
	}
	if found == nil || found.Offset != batches[20].BaseOffset() || found.NextOffset != batches[21].BaseOffset() || found.Position != at {
		t.Fatalf("found %v", found)
	}
	served, lost := consume(t, s, end, s.Size(), 1<<20)
	if lost != found.NextOffset-found.Offset || len(served) != len(batches)-1 {
		t.Errorf("lost %d, served %d", lost, len(served))
	}
}

func TestResyncTellsTornFromDamaged(t *testing.T) {
	s, dir := create(t, 0, Config{})
	log, batches := logOf(t, 0, 10)
	cut := len(log) - len(batches[9]) + 30
	if _, err := s.Append(log); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, fileName(0, LogSuffix)), int64(cut)); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, dir, 0, Config{})
	valid, err := s.Scan(0, func(record.Batch, int64) error { return nil })
	if err != nil || valid != int64(cut-30) {
		t.Fatalf("Scan = %d, %v; want %d", valid, err, cut-30)
	}
	d, err := s.Resync(valid, s.Size())
	if err != nil || d.NextOffset != -1 || d.Offset != batches[9].BaseOffset() {
		t.Errorf("torn tail: %v, %v", d, err)
	}
	if err := s.Truncate(valid); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(batches[9]); err != nil {
		t.Errorf("append after the cut: %v", err)
	}
}

// The time index leads to a batch that is gone, then to a damaged one, then to a good one, and the lookups have verified
// the beginning. What the index is made from behind that must be checked all the same.
func TestADamagedBatchBehindTheLastGoodIndexEntryIsNotServed(t *testing.T) {
	s, dir := create(t, 0, Config{IndexIntervalBytes: 1})
	var ends []int
	var log []byte
	for i := range int64(4) {
		b := batch(t, record.None, 2*i, 2, 1_000_000+1000*i, 100)
		if _, err := s.Append(b); err != nil {
			t.Fatal(err)
		}
		log = append(log, b...)
		ends = append(ends, len(log))
	}
	if err := errors.Join(s.Seal(), s.Close()); err != nil {
		t.Fatal(err)
	}
	log[ends[1]-1] ^= 1 // in the second batch's last record
	if err := os.WriteFile(s.Path(), log[:ends[1]], 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.path(kindIndex)); err != nil { // the time index alone leads there
		t.Fatal(err)
	}
	var times []byte
	for i := range uint64(3) {
		times = binary.BigEndian.AppendUint64(times, 1_000_000+1000*i)
		times = binary.BigEndian.AppendUint32(times, uint32(2*i+1))
	}
	if err := os.WriteFile(s.path(kindTime), times, 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := Open(disk.OS{}, dir, 0, Config{})
	if err != nil {
		t.Fatal(err)
	}
	span, err := s.Read(0, s.Size(), 1<<20)
	if err != nil || span.Len() != ends[0] {
		t.Errorf("a span of %d bytes, %v: want the first batch's %d", span.Len(), err, ends[0])
	}
	span.Release()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// A byte is missing from the first batch, and what lies behind it moved up, until recovery wrote again: the batch between
// is whole, and what confirms it lies a byte behind its end.
func TestABatchBetweenMissingBytesAndWhatWasWrittenAgainIsServed(t *testing.T) {
	s, dir := create(t, 0, Config{})
	log, batches := logOf(t, 0, 4)
	if _, err := s.Append(log); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	third := len(batches[0]) + len(batches[1])
	moved := append(append([]byte{}, log[:40]...), log[41:third+1]...) // a byte of what follows comes along
	if err := os.WriteFile(s.Path(), append(moved, log[third:]...), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(s.path(kindIndex)), os.Remove(s.path(kindTime))); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	s, err := Open(disk.OS{}, dir, 0, Config{})
	if err != nil {
		t.Fatal(err)
	}
	served, _ := consume(t, s, batches[3].NextOffset(), s.Size(), 1<<20)
	for _, b := range batches[1:] {
		if served[b.BaseOffset()] == nil {
			t.Errorf("the batch at offset %d is not served", b.BaseOffset())
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// As many bytes are missing from a batch as the next one has, so that the one after the next begins where the damaged
// batch says it ends.
func TestTheBatchBehindMissingBytesIsServedWhereverOthersBegin(t *testing.T) {
	s, dir := create(t, 0, Config{})
	small := batch(t, record.None, 1, 1, 1_000_000, 100)
	var large record.Batch
	for size := 100; len(large) < 2*len(small); size++ {
		large = batch(t, record.None, 0, 1, 1_000_000, size)
	}
	if len(large) != 2*len(small) {
		t.Fatalf("batches of %d and %d bytes", len(large), len(small))
	}
	log := append([]byte{}, large...)
	for base := range int64(3) {
		log = append(log, batch(t, record.None, 1+base, 1, 1_000_000, 100)...)
	}
	if err := os.WriteFile(s.Path(), append(log[:80:80], log[80+len(small):]...), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(disk.OS{}, dir, 0, Config{})
	if err != nil {
		t.Fatal(err)
	}
	served, lost := consume(t, s, 4, s.Size(), 1<<20)
	if len(served) != 3 || lost != 1 {
		t.Errorf("served %d batches, lost %d offsets: want 3, and 1", len(served), lost)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
