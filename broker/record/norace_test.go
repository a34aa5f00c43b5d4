//go:build !race

package record

const raced = false // the race detector does not run
