package record

// EachHeader calls fn with the value of the header named key of every record, in order. It returns false, and stops,
// where fn does, where a record does not have that header exactly once, and where records would have to be decompressed to
// know or are not what they should be. A control batch has no records that anybody reads: it is true. Nothing is allocated.
func (b Batch) EachHeader(key string, fn func(value []byte) bool) bool {
	if b.Control() {
		return true
	}
	if b.Codec() != None {
		return false
	}
	d := decoder{p: b[HeaderSize:]}
	for range b.Count() {
		size := d.varint()
		if d.bad || size < minRecord-1 || size > int64(len(d.p)) {
			return false
		}
		r := decoder{p: d.p[1:size]} // behind the attributes, of which none are defined
		d.p = d.p[size:]
		r.varlong()
		r.varint()
		r.bytes() // key
		r.bytes() // value
		headers := r.varint()
		if headers <= 0 || headers > MaxHeaders {
			return false // more of them are a large record's, which nobody looks into
		}
		var value []byte
		found := 0
		for range headers {
			name := r.bytes()
			v := r.bytes()
			if string(name) == key {
				value, found = v, found+1
			}
		}
		if r.bad || len(r.p) != 0 || found != 1 || !fn(value) {
			return false
		}
	}
	return len(d.p) == 0
}
