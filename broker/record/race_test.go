//go:build race

package record

const raced = true // the race detector runs
