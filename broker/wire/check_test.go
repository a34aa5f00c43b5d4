package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// fill puts random values into every field of a message but Version and the tags nobody knows.
func fill(r *rand.Rand, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if name := v.Type().Field(i).Name; name != "Version" && name != "UnknownTags" {
				fill(r, v.Field(i))
			}
		}
	case reflect.Pointer:
		if r.IntN(3) == 0 {
			v.SetZero()
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		fill(r, v.Elem())
	case reflect.Slice:
		n := r.IntN(4)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(r, v.Index(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(r, v.Index(i))
		}
	case reflect.String:
		p := make([]byte, r.IntN(12))
		for i := range p {
			p[i] = 'a' + byte(r.IntN(26))
		}
		v.SetString(string(p))
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(int8(r.Uint32())))
	case reflect.Uint8:
		v.SetUint(uint64(r.Uint32() & 0xff))
	default:
		panic("fill: " + v.Kind().String())
	}
}

func random(r *rand.Rand, a *API, version int16) kmsg.Request {
	req := a.new()
	fill(r, reflect.ValueOf(req).Elem())
	req.SetVersion(version)
	return req
}

// each calls test for every version of every API that is understood.
func each(t testing.TB, test func(a *API, version int16)) {
	t.Helper()
	for i := range apis {
		for v := apis[i].oldest; v <= apis[i].Max; v++ {
			test(&apis[i], v)
		}
	}
}

func TestShapesAreKmsgs(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	each(t, func(a *API, version int16) {
		if got := a.new().Key(); got != a.Key {
			t.Fatalf("%s makes requests of key %d", a.Name, got)
		}
		if got := kmsg.NameForKey(a.Key); got != a.Name && a.Name != "InitProducerId" {
			t.Fatalf("key %d is %s, not %s", a.Key, got, a.Name)
		}
		req := a.new()
		req.SetVersion(version)
		if req.IsFlexible() != (version >= a.flexible) {
			t.Fatalf("%s v%d: flexible is %v at kmsg", a.Name, version, req.IsFlexible())
		}
		if a.Max > req.MaxVersion() {
			t.Fatalf("%s: kmsg knows up to v%d", a.Name, req.MaxVersion())
		}
		for range 200 {
			body := random(r, a, version).AppendTo(nil)
			w := walk{rest: body, flexible: version >= a.flexible, room: elementMax}
			w.message(version, a.shape)
			if w.bad || len(w.rest) > 0 {
				t.Fatalf("%s v%d: the walk ended with bad=%v and %d bytes left of %x", a.Name, version, w.bad, len(w.rest), body)
			}
			req, err := Decode(Header{Key: a.Key, Version: version}, body)
			if err != nil {
				t.Fatalf("%s v%d: %v of %x", a.Name, version, err, body)
			}
			if again := req.AppendTo(nil); !bytes.Equal(again, body) {
				t.Fatalf("%s v%d:\n%x became\n%x", a.Name, version, body, again)
			}
			// Every body that is cut short is refused before kmsg sees it.
			if cut := r.IntN(len(body) + 1); cut < len(body) {
				if err := a.Check(version, body[:cut]); !errors.Is(err, ErrMalformed) {
					t.Fatalf("%s v%d cut at %d of %x: %v", a.Name, version, cut, body, err)
				}
			}
		}
	})
}

// What members of groups say is kept long after their frame was used for another request.
func TestOnlyRecordsAliasTheFrame(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 9))
	each(t, func(a *API, version int16) {
		if a.Key == 0 {
			return
		}
		for range 20 {
			body := random(r, a, version).AppendTo(nil)
			frame := bytes.Clone(body)
			req, err := Decode(Header{Key: a.Key, Version: version}, frame)
			if err != nil {
				t.Fatal(err)
			}
			for i := range frame {
				frame[i] = 0xff
			}
			if again := req.AppendTo(nil); !bytes.Equal(again, body) {
				t.Fatalf("%s v%d changed with its frame:\n%x became\n%x", a.Name, version, body, again)
			}
		}
	})
}

// allocated is how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// decodeMax bounds what decoding one request may allocate, whatever is in it.
const decodeMax = 4 << 20

// hostile bodies of an API and version: every byte of a real one replaced by counts that lie, then a long run of the
// smallest elements that the schema allows, which is what makes kmsg allocate most.
func hostile(r *rand.Rand, a *API, version int16) [][]byte {
	var bodies [][]byte
	real := random(r, a, version).AppendTo(nil)
	for at := range real {
		fixed := bytes.Clone(real)
		if at+4 <= len(fixed) {
			binary.BigEndian.PutUint32(fixed[at:], 2_000_000_000)
			bodies = append(bodies, fixed)
		}
		compact := append(bytes.Clone(real[:at]), binary.AppendUvarint(nil, 2_000_000_000)...)
		bodies = append(bodies, append(compact, real[at:]...))
	}
	for _, filler := range []byte{0, 1, 2, 3, 0x7f, 0xff} {
		for _, count := range []uint32{1 << 19, elementMax} {
			for prefix := range min(40, len(real)) {
				body := bytes.Clone(real[:prefix])
				if version >= a.flexible {
					body = binary.AppendUvarint(body, uint64(count))
				} else {
					body = binary.BigEndian.AppendUint32(body, count)
				}
				bodies = append(bodies, append(body, bytes.Repeat([]byte{filler}, adminFrameMax-len(body)-64)...))
			}
		}
	}
	return bodies
}

func TestHostileCountsAllocateLittle(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var worst uint64
	for i := range apis {
		a := &apis[i]
		for _, version := range []int16{a.oldest, a.Max} {
			if testing.Short() && version != a.Max {
				continue
			}
			for _, body := range hostile(r, a, version) {
				n := allocated(func() {
					if _, err := Decode(Header{Key: a.Key, Version: version}, body); err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrFrameTooLarge) {
						t.Errorf("%s v%d: %v", a.Name, version, err)
					}
				})
				if worst = max(worst, n); n > decodeMax {
					t.Fatalf("%s v%d: decoding %d bytes allocated %d", a.Name, version, len(body), n)
				}
			}
		}
	}
	t.Logf("worst: %d KiB", worst>>10)
}

// Without Check this is what happens: the test of the guard.
func TestKmsgNeedsTheGuard(t *testing.T) {
	// Fetch v12: 25 bytes, then an array of a million topics, one byte each.
	body := append(make([]byte, 25), binary.AppendUvarint(nil, 1<<20)...)
	body = append(body, make([]byte, 1<<20)...)
	api, _ := Lookup(1)
	if n := allocated(func() {
		req := api.new()
		req.SetVersion(12)
		_ = req.ReadFrom(body) // whether it succeeds does not matter here
	}); n < 64<<20 {
		t.Errorf("kmsg allocated only %d bytes for a lying count: the guard may be dropped", n)
	}
	if err := api.Check(12, body); err == nil {
		t.Error("Check believes a million empty topics")
	}
}

func TestLyingTagCountDoesNotSpin(t *testing.T) {
	each(t, func(a *API, version int16) {
		if version < a.flexible {
			return
		}
		body := random(rand.New(rand.NewPCG(5, 6)), a, version).AppendTo(nil)
		if body[len(body)-1] != 0 {
			return // ends with a tagged field
		}
		body = append(body[:len(body)-1], binary.AppendUvarint(nil, math.MaxUint32>>1)...)
		start := time.Now()
		if err := a.Check(version, body); err == nil {
			t.Errorf("%s v%d: two billion tagged fields in no bytes", a.Name, version)
		}
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("%s v%d: took %v", a.Name, version, d)
		}
	})
	// A tagged field within a tagged field: Fetch v15, replica state.
	state := append(make([]byte, 12), binary.AppendUvarint(nil, math.MaxUint32>>1)...)
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(15)
	plain := req.AppendTo(nil)
	body := append(plain[:len(plain)-1], 1, 1) // one tagged field, number 1
	body = binary.AppendUvarint(body, uint64(len(state)))
	body = append(body, state...)
	if err := apis[1].Check(15, body); !errors.Is(err, ErrMalformed) {
		t.Errorf("two billion tagged fields in a replica state: %v", err)
	}
}

func TestTooManyElements(t *testing.T) {
	req := kmsg.NewPtrMetadataRequest()
	req.SetVersion(12)
	for range elementMax + 1 {
		req.Topics = append(req.Topics, kmsg.NewMetadataRequestTopic())
	}
	api, _ := Lookup(3)
	if err := api.Check(12, req.AppendTo(nil)); !errors.Is(err, ErrFrameTooLarge) {
		t.Errorf("one element too many: %v", err)
	}
	req.Topics = req.Topics[1:]
	if err := api.Check(12, req.AppendTo(nil)); err != nil {
		t.Errorf("as many elements as are allowed: %v", err)
	}
}
