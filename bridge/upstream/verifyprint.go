package upstream

import (
	"encoding/binary"
	"hash/maphash"
	"sort"
	"strconv"
	"strings"

	"millrace/broker/record"
)

// seed is of this process: the hashes leave it in no form, and nobody can make records that have the same.
var seed = maphash.MakeSeed()

// content is what is compared of a record: hashes of its key, its value and its headers, without those of ours. Null and empty
// are two things.
type content struct{ key, value, headers uint64 }

// ownHeader begins the names of headers of ours.
const ownHeader = "millrace."

func contentOf(r *record.Record) content {
	var h maphash.Hash
	h.SetSeed(seed)
	var n [4]byte
	field := func(p []byte) {
		binary.BigEndian.PutUint32(n[:], uint32(len(p)))
		if p == nil {
			n = [4]byte{0xff, 0xff, 0xff, 0xff}
		}
		h.Write(n[:])
		h.Write(p)
	}
	sum := func(p []byte) uint64 {
		h.Reset()
		field(p)
		return h.Sum64()
	}
	c := content{key: sum(r.Key), value: sum(r.Value)}
	h.Reset()
	for _, hd := range r.Headers {
		if strings.HasPrefix(hd.Key, ownHeader) {
			continue
		}
		binary.BigEndian.PutUint32(n[:], uint32(len(hd.Key)))
		h.Write(n[:])
		h.WriteString(hd.Key)
		field(hd.Value)
	}
	c.headers = h.Sum64()
	return c
}

// null is the hash of a key or value that is none.
var null = contentOf(new(record.Record)).key

// near says that two records differ in no more than one of the three.
func (c content) near(o content) bool {
	key, value, headers := c.key == o.key, c.value == o.value, c.headers == o.headers
	return key && value || key && headers || value && headers
}

// print is a record of the board's log as it is compared.
type print struct {
	content
	offset int64
	// after is the offset after the record before it: between them is nothing to be looked for.
	after int64
	// at is the stamp it goes up with. loose says that it may have gone with another one: the clock was put right since.
	at    int64
	loose bool
}

// arrival is a record upstream as it is compared. Whose it is, its headers may say.
type arrival struct {
	content
	at    int64
	loose bool // its stamp is the peer's, or was not known
	lane  Lane
	// alien says that another board's link sent it, or this board's of another topic.
	alien bool
	// part and offset are where it comes from, -1 where it does not say.
	part   int32
	offset int64
}

// of says that an arrival may be a copy of a record. Stamps help to find out which, where there are several that are equal: they
// are not compared otherwise.
func (a *arrival) of(p *print) bool {
	return a.content == p.content && (a.at == p.at || a.loose || p.loose)
}

// arrivalOf is a record upstream, of a topic of the board.
func arrivalOf(r *record.Record, appendTime bool, board, topic string) arrival {
	a := arrival{content: contentOf(r), at: r.Timestamp, loose: appendTime, part: -1, offset: -1}
	part, offset := int64(-1), int64(-1)
	ours, told := false, false
	for _, h := range r.Headers {
		if !strings.HasPrefix(h.Key, ownHeader) {
			continue
		}
		v := string(h.Value)
		switch h.Key {
		case HeaderClock:
			a.loose = true
		case HeaderLane:
			if a.lane = Live; v == Backfill.String() {
				a.lane = Backfill
			}
		case HeaderBoard:
			ours, a.alien = v == board, a.alien || v != board
		case HeaderTopic:
			told, a.alien = true, a.alien || v != topic
		case HeaderPartition:
			part = number(v, 32)
		case HeaderOffset:
			offset = number(v, 64)
		}
	}
	if ours && told && part >= 0 && offset >= 0 {
		a.part, a.offset = int32(part), offset
	}
	return a
}

// number is what a header says, -1 where it is none.
func number(s string, bits int) int64 {
	n, err := strconv.ParseInt(s, 10, bits)
	if err != nil {
		return -1
	}
	return n
}

// spans are offsets: ranges that are ascending and apart.
type spans []Range

// has says whether an offset is in them.
func (s spans) has(offset int64) bool {
	i := sort.Search(len(s), func(i int) bool { return s[i].End > offset })
	return i < len(s) && s[i].First <= offset
}

// add adds a range, which may touch and overlap others.
func (s *spans) add(r Range) {
	list := *s
	i := len(list) // the first that ends at r or behind it
	for i > 0 && list[i-1].End >= r.First {
		i--
	}
	j := i // the first that begins behind r
	for j < len(list) && list[j].First <= r.End {
		r.First, r.End = min(r.First, list[j].First), max(r.End, list[j].End)
		j++
	}
	if i == j {
		list = append(list, Range{})
		copy(list[i+1:], list[i:])
	} else {
		list = append(list[:i+1], list[j:]...)
	}
	list[i] = r
	*s = list
}

// without are the parts of a range that are not in them.
func (s spans) without(r Range) (list []Range) {
	for _, o := range s {
		if o.End <= r.First {
			continue
		}
		if o.First >= r.End {
			break
		}
		if o.First > r.First {
			list = append(list, Range{r.First, o.First})
		}
		r.First = o.End
	}
	if r.First < r.End {
		list = append(list, r)
	}
	return list
}
