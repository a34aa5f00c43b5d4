// Package pahopython drives a whole board with paho-mqtt, Eclipse's client for Python.
package pahopython

import (
	"os"
	"testing"

	"millrace/testbench/client/python"
	"millrace/testbench/client/talk"
	"millrace/testbench/lane"
)

func TestMain(m *testing.M) {
	talk.Parallel()
	os.Exit(m.Run())
}

func TestTalk(t *testing.T) {
	lane.Uses(t, "drive.py")
	d := talk.Drive(t, []string{python.Need(t), "drive.py"}, []string{"PYTHONDONTWRITEBYTECODE=1"})
	talk.Run(t, &talk.Client{
		Name: "paho-mqtt (Python)", Transports: talk.Transports, Versions: []int{4, 5}, Dial: d.Dial,
		Lacks: map[string]string{talk.Auth: "has no AUTH packet", talk.Assigns: "assigns none"},
	})
}
