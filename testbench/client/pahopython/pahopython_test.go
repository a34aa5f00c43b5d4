// Package pahopython drives a whole board with paho-mqtt, Eclipse's client for Python.
package pahopython

import (
	"testing"

	"millrace/testbench/client/python"
	"millrace/testbench/client/talk"
)

func TestTalk(t *testing.T) {
	talk.Run(t, []string{python.Need(t), "drive.py"}, []string{"PYTHONDONTWRITEBYTECODE=1"}, talk.Transports)
}
