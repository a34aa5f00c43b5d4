// InitProducerId: v0-5
//
//   - Without a transactional id: a new producer id with epoch 0, from a block of 1,000 that the catalog gave this
//     broker (KIP-730). An id and epoch in the request (v3, KIP-360) do not matter: the producer gets a new id, as at
//     Apache Kafka.
//   - With a transactional id: UNSUPPORTED_VERSION. Transactions are not offered yet; most clients ask FindCoordinator
//     before, and stop there.

package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/server"
)

// InitProducerID gives out a producer id.
func (h *Handler) InitProducerID(req *server.Request, b *kmsg.InitProducerIDRequest) kmsg.Response {
	resp := kmsg.NewPtrInitProducerIDResponse()
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if b.TransactionalID != nil {
		resp.ErrorCode = codeUnsupportedVersion
		if !h.allowed(req, auth.Write, auth.TransactionNamed(*b.TransactionalID)) {
			resp.ErrorCode = codeTxnIDAuthorization
		}
		return resp
	}
	if !h.allowed(req, auth.IdempotentWrite, theCluster) && !h.config.Authorizer.AllowedAny(peerOf(req), auth.Write, auth.Topic) {
		resp.ErrorCode = codeClusterAuthorization
		return resp
	}
	if (b.ProducerID == -1) != (b.ProducerEpoch == -1) && b.Version >= 3 {
		resp.ErrorCode = codeInvalidRequest // one without the other, as at Apache Kafka
		return resp
	}
	id, err := h.producerID(req)
	if err != nil {
		h.log.Warn("no producer id", "err", err)
		resp.ErrorCode = codeOf(err)
		return resp
	}
	resp.ProducerID, resp.ProducerEpoch = id, 0
	return resp
}

// producerID takes an id from the block, and a new block when it is empty. What is left of a block when the process
// ends is never given out.
func (h *Handler) producerID(req *server.Request) (int64, error) {
	h.idMu.Lock()
	defer h.idMu.Unlock()
	if h.idNext == h.idEnd {
		img, err := h.config.Catalog.Propose(req.Context, catalog.AllocateProducerIDs{Broker: h.config.NodeID, Epoch: -1})
		if err != nil {
			return 0, err
		}
		h.idEnd = img.ProducerIDNext()
		h.idNext = h.idEnd - catalog.ProducerIDBlock
	}
	h.idNext++
	return h.idNext - 1, nil
}
