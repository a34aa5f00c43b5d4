package upstream

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// maker makes topics, and knows some settings.
type maker struct {
	knows []string
	made  map[string]map[string]string
	asked int
}

func (m *maker) Request(_ context.Context, r kmsg.Request) (kmsg.Response, error) {
	m.asked++
	req := r.(*kmsg.CreateTopicsRequest)
	resp := kmsg.NewPtrCreateTopicsResponse()
	for _, t := range req.Topics {
		a := kmsg.NewCreateTopicsResponseTopic()
		a.Topic = t.Topic
		settings := map[string]string{}
		for _, c := range t.Configs {
			settings[c.Name] = *c.Value
			if !strings.Contains(strings.Join(m.knows, " "), c.Name) {
				a.ErrorCode = kerr.InvalidConfig.Code
			}
		}
		if a.ErrorCode == 0 {
			m.made[t.Topic] = settings
		}
		resp.Topics = append(resp.Topics, a)
	}
	return resp, nil
}

// Topics are made to take any stamp, where the peer knows how, and are made where it does not.
func TestTopicsAreMadeWithWhatThePeerKnows(t *testing.T) {
	for _, tt := range []struct {
		name  string
		knows []string
		want  map[string]map[string]string
		asked int
	}{
		{"all", []string{"cleanup.policy", "message.timestamp.after.max.ms"}, map[string]map[string]string{
			"a": {"cleanup.policy": "compact", "message.timestamp.after.max.ms": "9223372036854775807"},
			"b": {"message.timestamp.after.max.ms": "9223372036854775807"},
		}, 1},
		{"not how far ahead stamps may be", []string{"cleanup.policy"}, map[string]map[string]string{"a": {"cleanup.policy": "compact"}, "b": {}}, 2},
		{"nothing", nil, map[string]map[string]string{"b": {}}, 2},
	} {
		topics := []Topic{
			{Name: "a", Partitions: 1, Configs: map[string]string{"cleanup.policy": "compact"}, Optional: anyStamp},
			{Name: "b", Partitions: 1, Optional: anyStamp},
			{Name: "there", Partitions: 1, Have: 1, Optional: anyStamp},
			{Name: "plain", Partitions: 1, Err: errors.New("forbidden")},
		}
		m := &maker{knows: tt.knows, made: map[string]map[string]string{}}
		some, err := create(t.Context(), m, topics, -1)
		if err != nil || !some || m.asked != tt.asked || !maps.EqualFunc(m.made, tt.want, maps.Equal) {
			t.Errorf("%s: %v, %v, asked %d times, made %v", tt.name, some, err, m.asked, m.made)
		}
		if refused := topics[0].Err != nil; refused != (tt.knows == nil) {
			t.Errorf("%s: %v", tt.name, topics[0].Err)
		}
	}
}

func TestRefusedStampsNameTheSetting(t *testing.T) {
	var refused *RefusedError
	if err := refusal(kerr.InvalidTimestamp, "t", 1); !errors.As(err, &refused) || !strings.Contains(err.Error(), "message.timestamp.after.max.ms") {
		t.Error(err)
	}
}
