package rest

import (
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
)

const (
	// waitMax bounds how long a GET may wait for records, in milliseconds.
	waitMax = 300_000
	// recordsMax bounds the records of an answer, recordsUsual and bytesUsual are what is given where nobody says it.
	recordsMax, recordsUsual, bytesUsual = 10_000, 500, 256 << 10
)

// query is what a GET asks for.
type query struct {
	partition int32 // -1: the only one
	// offset is where to begin, atEarliest or atLatest; with since over 0 it is the first record of that time, in ms.
	offset, since int64
	waitMS        int64
	records       int
	bytes         int64
}

// Places that have a name.
const (
	atLatest   = -1
	atEarliest = -2
)

// parameters are all there may be.
var parameters = []string{"partition", "offset", "timestamp", "max_records", "max_bytes", "timeout", "isolation"}

// queryOf reads a query. A parameter that does not exist is an error: a typing mistake must not turn into a default.
func queryOf(r *http.Request) (q query, err error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return q, bad(http.StatusBadRequest, "query: %v", err)
	}
	for name, all := range values {
		if !slices.Contains(parameters, name) {
			return q, bad(http.StatusBadRequest, "parameter %.50q: there are %v", name, parameters)
		}
		if len(all) > 1 {
			return q, bad(http.StatusBadRequest, "%s is there %d times", name, len(all))
		}
	}
	q = query{partition: -1, offset: atEarliest, records: recordsUsual, bytes: bytesUsual}
	number := func(name string, low, high int64, into func(int64)) {
		if text := values.Get(name); values.Has(name) && err == nil {
			n, bad10 := strconv.ParseInt(text, 10, 64)
			if bad10 != nil || n < low || n > high {
				err = bad(http.StatusBadRequest, "%s=%.50q: want a number from %d to %d", name, text, low, high)
				return
			}
			into(n)
		}
	}
	number("partition", 0, math.MaxInt32, func(n int64) { q.partition = int32(n) })
	switch values.Get("offset") {
	case "earliest":
	case "latest":
		q.offset = atLatest
	default:
		number("offset", 0, math.MaxInt64-1, func(n int64) { q.offset = n })
	}
	number("timestamp", 1, math.MaxInt64, func(n int64) { q.since = n })
	number("max_records", 1, recordsMax, func(n int64) { q.records = int(n) })
	number("max_bytes", 1, math.MaxInt32, func(n int64) { q.bytes = n })
	number("timeout", 0, waitMax, func(n int64) { q.waitMS = n })
	if err != nil {
		return q, err
	}
	if values.Has("offset") && values.Has("timestamp") {
		return q, bad(http.StatusBadRequest, "offset and timestamp: where to begin is said once")
	}
	switch i := values.Get("isolation"); {
	case !values.Has("isolation"), i == "read_uncommitted", i == "read_committed": // there are no transactions
	default:
		return q, bad(http.StatusBadRequest, "isolation=%.50q: want read_uncommitted or read_committed", i)
	}
	return q, nil
}
