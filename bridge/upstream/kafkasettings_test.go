package upstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// keeper keeps settings of topics.
type keeper struct {
	set         map[string]map[string]string
	asked       []string // what it was asked, in words
	old         bool     // it knows no IncrementalAlterConfigs
	unseen, odd string   // topics whose settings it does not tell, and does not change
	down        bool
}

func (k *keeper) Request(_ context.Context, r kmsg.Request) (kmsg.Response, error) {
	if k.down {
		return nil, errors.New("connection lost")
	}
	message := kmsg.StringPtr("not for you")
	switch req := r.(type) {
	case *kmsg.DescribeConfigsRequest:
		resp := kmsg.NewPtrDescribeConfigsResponse()
		for _, of := range req.Resources {
			k.asked = append(k.asked, fmt.Sprint("see ", of.ResourceName, of.ConfigNames))
			a := kmsg.NewDescribeConfigsResponseResource()
			a.ResourceName = of.ResourceName
			if of.ResourceName == k.unseen {
				a.ErrorCode, a.ErrorMessage = kerr.TopicAuthorizationFailed.Code, message
			}
			for _, name := range of.ConfigNames {
				c := kmsg.NewDescribeConfigsResponseResourceConfig()
				c.Name, c.Value, c.Source = name, kmsg.StringPtr("default"), kmsg.ConfigSourceDefaultConfig
				if v, is := k.set[of.ResourceName][name]; is {
					c.Value, c.Source = &v, kmsg.ConfigSourceDynamicTopicConfig
				}
				a.Configs = append(a.Configs, c)
			}
			resp.Resources = append(resp.Resources, a)
		}
		return resp, nil
	case *kmsg.IncrementalAlterConfigsRequest:
		if k.old {
			return nil, kerr.UnsupportedVersion
		}
		resp := kmsg.NewPtrIncrementalAlterConfigsResponse()
		for _, of := range req.Resources {
			a := kmsg.NewIncrementalAlterConfigsResponseResource()
			a.ResourceName = of.ResourceName
			if of.ResourceName == k.odd {
				a.ErrorCode, a.ErrorMessage = kerr.PolicyViolation.Code, message
				of.Configs = nil
			}
			for _, c := range of.Configs {
				if k.asked = append(k.asked, fmt.Sprint("change ", of.ResourceName, " ", c.Name)); c.Op == kmsg.IncrementalAlterConfigOpDelete {
					delete(k.set[of.ResourceName], c.Name)
				} else {
					k.set[of.ResourceName][c.Name] = *c.Value
				}
			}
			resp.Resources = append(resp.Resources, a)
		}
		return resp, nil
	}
	return nil, errors.New("what?")
}

// Settings are changed where they are as they were left, and nowhere else; what the peer refuses is told of these, and is no
// error of the session.
func TestSettingsAreChangedWhereTheyAreOurs(t *testing.T) {
	v := kmsg.StringPtr
	want := func() []Setting {
		return []Setting{
			{Topic: "a", Name: "x", Was: v("1"), Want: v("2")},
			{Topic: "a", Name: "y", Was: v("1")},
			{Topic: "a", Name: "z", Want: v("2")},
			{Topic: "b", Name: "x", Was: v("1"), Want: v("2")}, // somebody else's
			{Topic: "b", Name: "y", Want: v("2")},              // it is so already
		}
	}
	at := func() map[string]map[string]string {
		return map[string]map[string]string{"a": {"x": "1", "y": "1"}, "b": {"x": "7", "y": "2"}}
	}
	for _, tt := range []struct {
		name   string
		peer   keeper
		a      map[string]string
		asked  string
		refuse string // why, of all of a
		err    bool
	}{
		{"all", keeper{}, map[string]string{"x": "2", "z": "2"}, "see a[x y z], see b[x y], change a x, change a y, change a z", "", false},
		{"not told", keeper{unseen: "a"}, map[string]string{"x": "1", "y": "1"}, "see a[x y z], see b[x y]", "TOPIC_AUTHORIZATION_FAILED: ", false},
		{"not changed", keeper{odd: "a"}, map[string]string{"x": "1", "y": "1"}, "see a[x y z], see b[x y]", "POLICY_VIOLATION: ", false},
		{"too old", keeper{old: true}, map[string]string{"x": "1", "y": "1"}, "see a[x y z], see b[x y]", "UNSUPPORTED_VERSION: ", false},
		{"away", keeper{down: true}, map[string]string{"x": "1", "y": "1"}, "", "", true},
	} {
		list, k := want(), tt.peer
		k.set = at()
		err := follow(t.Context(), &k, list)
		if (err != nil) != tt.err || !maps.Equal(k.set["a"], tt.a) || !maps.Equal(k.set["b"], at()["b"]) || strings.Join(k.asked, ", ") != tt.asked {
			t.Errorf("%s: %v, %v, asked %q", tt.name, err, k.set, k.asked)
		}
		for _, s := range list {
			switch {
			case tt.err:
			case s.Topic == "b":
				if s.Err != nil || s.Name == "x" && !alike(s.Is, v("7")) || s.Name == "y" && !alike(s.Is, v("2")) {
					t.Errorf("%s: %+v", tt.name, s)
				}
			case tt.refuse != "":
				if s.Err == nil || !strings.HasPrefix(s.Err.Error(), tt.refuse) {
					t.Errorf("%s: %+v", tt.name, s)
				}
			case s.Err != nil || !alike(s.Is, s.Want):
				t.Errorf("%s: %+v", tt.name, s)
			}
		}
	}
}
