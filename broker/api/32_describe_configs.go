// DescribeConfigs: v1-4
//
//   - Topics and brokers. Other kinds of resources (loggers, client metrics, groups) are INVALID_REQUEST.
//   - An empty broker name is the cluster-wide default: only what was set there (KIP-226).
//   - v1 synonyms, v3 (KIP-569) types and documentation.
//   - At most 1,000 resources in one request; those after are INVALID_REQUEST.

package api

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/server"
)

const (
	// describeMax is the most resources one request may describe.
	describeMax = 1000
	// describedSize is about what one resource takes in an answer, in bytes, encoded and not; documentedSize what its
	// documentation adds.
	describedSize, documentedSize = 16 << 10, 6 << 10
)

// DescribeConfigs tells settings. The first result is the room its answer takes; the answer is nil when the server
// closed before there was room.
func (h *Handler) DescribeConfigs(req *server.Request, b *kmsg.DescribeConfigsRequest) (int64, kmsg.Response) {
	each := describedSize
	if b.IncludeDocumentation {
		each += documentedSize
	}
	room, err := h.room(req.Context, min(len(b.Resources), describeMax)*each)
	if err != nil {
		return 0, nil
	}
	resp := kmsg.NewPtrDescribeConfigsResponse()
	img := h.config.Catalog.Image()
	for i := range b.Resources {
		q := &b.Resources[i]
		out := kmsg.NewDescribeConfigsResponseResource()
		out.ResourceType, out.ResourceName = q.ResourceType, q.ResourceName
		out.Configs = []kmsg.DescribeConfigsResponseResourceConfig{}
		if i >= describeMax {
			out.ErrorCode, out.ErrorMessage = codeInvalidRequest, text(fmt.Sprintf("more than %d resources in one request", describeMax))
			resp.Resources = append(resp.Resources, out)
			continue
		}
		entries, code, err := h.describe(req, img, q)
		out.ErrorCode, out.ErrorMessage = code, saying(err)
		for _, e := range entries {
			if q.ConfigNames == nil || slices.Contains(q.ConfigNames, e.Setting.Name) {
				out.Configs = append(out.Configs, setting(e, b))
			}
		}
		resp.Resources = append(resp.Resources, out)
	}
	return room, resp
}

// describe lists the settings of one resource.
func (h *Handler) describe(req *server.Request, img *catalog.Image, q *kmsg.DescribeConfigsRequestResource) ([]catalog.Entry, int16, error) {
	switch q.ResourceType {
	case kmsg.ConfigResourceTypeTopic:
		if !h.allowed(req, auth.DescribeConfigs, auth.TopicNamed(q.ResourceName)) {
			return nil, codeTopicAuthorization, errTopicDenied
		}
		if err := catalog.ValidTopicName(q.ResourceName); err != nil {
			return nil, codeInvalidTopic, err
		}
		t := img.Topic(q.ResourceName)
		if t == nil {
			return nil, codeUnknownTopicOrPartition, fmt.Errorf("topic '%s': %w", q.ResourceName, catalog.ErrUnknownTopic)
		}
		return h.config.Defaults().Describe(t.Name, t.Config), codeNone, nil
	case kmsg.ConfigResourceTypeBroker:
		if !h.allowed(req, auth.DescribeConfigs, theCluster) {
			return nil, codeClusterAuthorization, errClusterDenied
		}
		all := img.BrokerConfig(catalog.AllBrokers)
		if q.ResourceName == "" {
			entries := catalog.DescribeBroker(nil, all, nil)
			return slices.DeleteFunc(entries, func(e catalog.Entry) bool { return e.Source != catalog.SourceBrokerDefault }), codeNone, nil
		}
		id, err := h.thisBroker(q.ResourceName)
		if err != nil {
			return nil, codeInvalidRequest, err
		}
		return catalog.DescribeBroker(img.BrokerConfig(id), all, h.config.Static), codeNone, nil
	}
	return nil, codeInvalidRequest, fmt.Errorf("resources of type %d have no settings here", q.ResourceType)
}

// thisBroker reads a broker's number, which must be this one's: only it knows its own file.
func (h *Handler) thisBroker(name string) (int32, error) {
	id, err := strconv.ParseInt(name, 10, 32)
	if err != nil || int32(id) != h.config.NodeID {
		return 0, fmt.Errorf("broker '%.32s' is not the one that was asked, %d", name, h.config.NodeID)
	}
	return int32(id), nil
}

func setting(e catalog.Entry, b *kmsg.DescribeConfigsRequest) kmsg.DescribeConfigsResponseResourceConfig {
	out := kmsg.NewDescribeConfigsResponseResourceConfig()
	s := &e.Setting
	out.Name, out.ReadOnly, out.IsSensitive = s.Name, s.ReadOnly, s.Sensitive
	out.Source, out.ConfigType = kmsg.ConfigSource(e.Source), kmsg.ConfigType(s.Type)
	out.IsDefault = e.Source == catalog.SourceDefault
	if !s.Sensitive {
		out.Value = text(e.Value)
	}
	if b.IncludeDocumentation {
		out.Documentation = text(s.Doc)
	}
	out.ConfigSynonyms = []kmsg.DescribeConfigsResponseResourceConfigConfigSynonym{}
	if b.IncludeSynonyms {
		for _, y := range e.Synonyms {
			synonym := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
			synonym.Name, synonym.Source = y.Name, kmsg.ConfigSource(y.Source)
			if !s.Sensitive {
				synonym.Value = text(y.Value)
			}
			out.ConfigSynonyms = append(out.ConfigSynonyms, synonym)
		}
	}
	return out
}
