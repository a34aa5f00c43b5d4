// Package mqttjs drives a whole board with MQTT.js.
package mqttjs

import (
	"os"
	"path/filepath"
	"testing"

	"millrace/testbench/client/talk"
	"millrace/testbench/lane"
)

func TestTalk(t *testing.T) {
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "millrace-test", "mqttjs")
	node := lane.Need(t, "node", filepath.Join(dir, "complete"))[0]
	talk.Run(t, []string{node, "drive.js"}, []string{"NODE_PATH=" + filepath.Join(dir, "node_modules")}, talk.Transports)
}
