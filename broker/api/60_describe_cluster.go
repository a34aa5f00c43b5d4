// DescribeCluster: v0-2
//
//   - v1 (KIP-919): brokers only; asking a broker for controllers is MISMATCHED_ENDPOINT_TYPE, as at Apache Kafka.
//   - v2: no broker is fenced.
//   - Authorized operations (KIP-430), where they are asked for.

package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/server"
)

// The kinds of endpoints DescribeCluster knows.
const (
	endpointBrokers     = 1
	endpointControllers = 2
)

// DescribeCluster tells the brokers.
func (h *Handler) DescribeCluster(req *server.Request, b *kmsg.DescribeClusterRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeClusterResponse()
	resp.ClusterID, resp.ControllerID, resp.EndpointType = h.config.ClusterID, h.config.NodeID, endpointBrokers
	resp.ClusterAuthorizedOperations = h.clusterOperations(req, b.IncludeClusterAuthorizedOperations)
	if b.Version >= 1 && b.EndpointType != endpointBrokers {
		resp.ErrorCode, resp.ErrorMessage = codeUnsupportedEndpoint, text("unknown endpoint type")
		if b.EndpointType == endpointControllers {
			resp.ErrorCode, resp.ErrorMessage = codeMismatchedEndpoint, text("this endpoint is a broker's")
		}
		return resp
	}
	for _, br := range h.config.Catalog.Image().Brokers() {
		e := h.endpoint(req, br)
		out := kmsg.NewDescribeClusterResponseBroker()
		out.NodeID, out.Host, out.Port, out.Rack = br.ID, e.Host, e.Port, textOrNull(br.Rack)
		resp.Brokers = append(resp.Brokers, out)
	}
	return resp
}
