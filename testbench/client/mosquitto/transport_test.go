package mosquitto

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"millrace/testbench/client/talk"
	"millrace/testbench/lane"
)

// Over every transport Debian's mosquitto-clients can speak (WebSocket came with 2.1): messages, retained ones and wills
// arrive, and who may not is told so.
func TestTransports(t *testing.T) {
	lane.Need(t, "mosquitto_pub", "mosquitto_sub", "stdbuf")
	s := talk.Board(t)
	for _, transport := range []string{"tcp", "tls", "unix"} {
		for _, version := range versions {
			for _, qos := range talk.QoS {
				t.Run(fmt.Sprint(transport, "/", version, "/", qos), func(t *testing.T) {
					t.Parallel()
					p := talk.NewPlan(t, s, transport, map[string]int{"mqttv311": 4, "mqttv5": 5}[version], qos)
					where := []string{"-h", p.Host, "-p", p.Port}
					switch transport {
					case "tls":
						where = append(where, "--cafile", p.CA)
					case "unix":
						where = []string{"--unix", p.Path}
					}
					level := fmt.Sprint(qos)
					nobody := append(where, "-V", version, "-q", level)
					where = append(slices.Clip(nobody), "-u", p.User, "-P", p.Password)
					publish := func(args ...string) {
						t.Helper()
						run(t, exec.CommandContext(within(t), "mosquitto_pub", append(slices.Clip(where), args...)...), nil)
					}
					at := func(topic, retain, payload string) message {
						return message{topic: p.Base + topic, qos: level, retain: retain, payload: payload}
					}
					reader := subAt(t, where, "", "-t", p.Base+"/#")
					publish("-t", p.Base+"/a", "-m", "one")
					publish("-t", p.Base+"/kept", "-m", "two", "-r")
					reader.want(at("/a", "0", "one"), at("/kept", "0", "two"))
					late := subAt(t, where, "", "-t", p.Base+"/kept")
					late.want(at("/kept", "1", "two"))
					crasher := subAt(t, where, "", "-t", p.Base+"/x", "--will-topic", p.Base+"/will", "--will-payload", "gone", "--will-qos", level)
					crasher.crash()
					reader.want(at("/will", "0", "gone"))

					for what, tt := range map[string]struct {
						args []string
						want string // of what the tool says, in small letters
					}{
						"a wrong password": {append(slices.Clip(nobody), "-t", p.Base+"/a", "-m", "no", "-u", p.User, "-P", "wrong password"), "bad user"},
						"nobody":           {append(slices.Clip(nobody), "-t", p.Base+"/a", "-m", "no"), "not authori"},
						"a denied topic": {append(slices.Clip(where), "-q", "1", "-t", "shut/x", "-m", "no"), map[string]string{
							"mqttv311": "connection was lost", "mqttv5": "not authori",
						}[version]},
					} {
						out, _ := exec.CommandContext(within(t), "mosquitto_pub", tt.args...).CombinedOutput() // its status is 0 where a publish is refused
						if !strings.Contains(strings.ToLower(string(out)), tt.want) {
							t.Errorf("%s: mosquitto_pub says %q", what, out)
						}
					}
					out, _ := exec.CommandContext(within(t), "mosquitto_sub", append(slices.Clip(where), "-W", "20", "-t", "shut/#")...).CombinedOutput() // as above
					if !strings.Contains(string(out), "denied") {
						t.Errorf("a denied filter: mosquitto_sub says %q", out)
					}
				})
			}
		}
	}
}
