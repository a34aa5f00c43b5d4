// ApiVersions: v0-4
//
//   - Answers from wire.APIs, the only list of what is served.
//   - v3 (KIP-511): a version that is not served is answered in v0 form with error 35 and the range of ApiVersions
//     itself, and the connection stays. Apache Kafka does the same.
//   - v3 (KIP-584): no features are offered, so clients use no transactions of version 2 and no new group protocols.
//   - Client software name and version are not checked (Apache Kafka refuses odd ones with INVALID_REQUEST).

package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/wire"
)

// apiVersions answers ApiVersions, with the header the answer is encoded for.
func apiVersions(h wire.Header, _ *kmsg.ApiVersionsRequest) (wire.Header, kmsg.Response) {
	resp := kmsg.NewPtrApiVersionsResponse()
	own, _ := wire.Lookup(wire.KeyAPIVersions)
	if !own.Serves(h.Version) {
		h.Version = 0
		resp.ErrorCode = codeUnsupportedVersion
		resp.ApiKeys = []kmsg.ApiVersionsResponseApiKey{{ApiKey: own.Key, MinVersion: own.Min, MaxVersion: own.Max}}
		return h, resp
	}
	for _, a := range wire.APIs() {
		resp.ApiKeys = append(resp.ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: a.Key, MinVersion: a.Min, MaxVersion: a.Max})
	}
	return h, resp
}
