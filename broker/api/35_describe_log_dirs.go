// DescribeLogDirs: v1-5
//
//   - One directory; a partition this board does not hold is left out, as at Apache Kafka.
//   - v4 (KIP-827): total and usable bytes of its filesystem, -1 when it does not tell.
//   - v5 (KIP-1066): the directory is never cordoned.
//   - Offset lag is 0: the replicas here lead.

package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/server"
)

// DescribeLogDirs tells sizes. The first result is the room its answer takes; the answer is nil when the server
// closed before there was room.
func (h *Handler) DescribeLogDirs(req *server.Request, b *kmsg.DescribeLogDirsRequest) (int64, kmsg.Response) {
	if !h.allowed(req, auth.Describe, theCluster) {
		resp := kmsg.NewPtrDescribeLogDirsResponse()
		resp.ErrorCode, resp.Dirs = codeClusterAuthorization, []kmsg.DescribeLogDirsResponseDir{}
		return 0, resp
	}
	img := h.config.Catalog.Image()
	n := 0
	if b.Topics == nil {
		n = img.Partitions()
	}
	for i := range b.Topics {
		n += 1 + len(b.Topics[i].Partitions)
	}
	room, err := h.room(req.Context, n*96)
	if err != nil {
		return 0, nil
	}
	dir := kmsg.NewDescribeLogDirsResponseDir()
	dir.Dir, dir.TotalBytes, dir.UsableBytes = h.config.LogDir, -1, -1
	if h.config.Usage != nil {
		if total, free, err := h.config.Usage(); err == nil {
			dir.TotalBytes, dir.UsableBytes = total, free
		} else {
			h.log.Warn("disk usage unknown", "err", err)
		}
	}
	add := func(t *catalog.Topic, partitions []int32) {
		out := kmsg.DescribeLogDirsResponseDirTopic{Topic: t.Name}
		for _, index := range partitions {
			if log := h.config.Logs.Log(t.ID, index); log != nil {
				out.Partitions = append(out.Partitions, kmsg.DescribeLogDirsResponseDirTopicPartition{Partition: index, Size: log.Size()})
			}
		}
		if len(out.Partitions) > 0 {
			dir.Topics = append(dir.Topics, out)
		}
	}
	if b.Topics == nil {
		for t := range img.Topics() {
			all := make([]int32, len(t.Partitions))
			for i := range all {
				all[i] = int32(i)
			}
			add(t, all)
		}
	}
	for i := range b.Topics {
		if t := img.Topic(b.Topics[i].Topic); t != nil {
			add(t, b.Topics[i].Partitions)
		}
	}
	resp := kmsg.NewPtrDescribeLogDirsResponse()
	resp.Dirs = []kmsg.DescribeLogDirsResponseDir{dir}
	return room, resp
}
