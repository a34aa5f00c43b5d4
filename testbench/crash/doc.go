// Package crash runs the real millrace process under MQTT and Kafka load, kills it with SIGKILL at random instants,
// starts it again, and then holds what it kept against what it acknowledged. It has tests only:
//
//	go test ./testbench/crash -args -crash.kills=50 -crash.rounds=100 -crash.seed=N
//
// SIGKILL leaves the page cache alone, so this lane proves that acknowledgements, recovery and the clients' retries fit
// together in the real binary; the power cuts of testbench/powercut prove what is on the disk.
package crash
