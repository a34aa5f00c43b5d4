// Package mqttjs drives a whole board with MQTT.js.
package mqttjs

import (
	"os"
	"path/filepath"
	"testing"

	"millrace/testbench/client/talk"
	"millrace/testbench/lane"
)

func TestMain(m *testing.M) {
	talk.Parallel()
	os.Exit(m.Run())
}

func TestTalk(t *testing.T) {
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "millrace-test", "mqttjs")
	node := lane.Need(t, "node", filepath.Join(dir, "complete"))[0]
	lane.Uses(t, "drive.js")
	d := talk.Drive(t, []string{node, "drive.js"}, []string{"NODE_PATH=" + filepath.Join(dir, "node_modules")})
	talk.Run(t, &talk.Client{
		Name: "MQTT.js", Transports: talk.Transports, Versions: []int{4, 5}, Dial: d.Dial,
		Lacks: map[string]string{talk.Window: "reads no message before it has acknowledged the last one"},
	})
}
