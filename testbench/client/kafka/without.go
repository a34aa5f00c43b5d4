package kafka

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/testbench/lane"
)

// Transactions are the requests that a Kafka without transactions does not know.
var Transactions = []kmsg.Key{kmsg.InitProducerID, kmsg.AddPartitionsToTxn, kmsg.AddOffsetsToTxn, kmsg.EndTxn, kmsg.TxnOffsetCommit}

// frameMax is how large a request or an answer through Without may be.
const frameMax = 64 << 20

// Without stands in front of a node and makes it one that does not know some requests: they are not in its ApiVersions,
// nor are the features of its cluster, and a client that sends one all the same is disconnected, as Kafka does it. It
// returns where clients connect; its listener has no TLS. It ends with the test.
//
//	kafka.Options{Advertise: func(_ int, address string) string { return kafka.Without(t, address, kafka.Transactions...) }}
func Without(t testing.TB, target string, unknown ...kmsg.Key) string {
	t.Helper()
	address := lane.FreeAddress(t)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	o := &older{unknown: unknown, open: map[net.Conn]bool{}}
	o.work.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			o.work.Go(func() { o.serve(client, target) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close() // it accepts no more, whatever it says
		o.end()
		o.work.Wait()
	})
	return address
}

// older is a node that knows less than it does.
type older struct {
	unknown []kmsg.Key
	work    sync.WaitGroup

	mu    sync.Mutex
	ended bool
	open  map[net.Conn]bool
}

// keep has a connection be closed at the end, and reports whether it was not too late.
func (o *older) keep(conn net.Conn) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ended {
		o.open[conn] = true
	}
	return !o.ended
}

func (o *older) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	for conn := range o.open {
		_ = conn.Close()
	}
}

func (o *older) drop(conn net.Conn) {
	_ = conn.Close()
	o.mu.Lock()
	delete(o.open, conn)
	o.mu.Unlock()
}

// serve carries frames until either end is closed.
func (o *older) serve(client net.Conn, target string) {
	defer o.drop(client)
	if !o.keep(client) {
		return
	}
	node, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer o.drop(node)
	if !o.keep(node) {
		return
	}
	var asked sync.Map // the versions of the ApiVersions requests that were not answered yet, by correlation id
	var answers sync.WaitGroup
	answers.Go(func() {
		_ = carry(client, node, func(frame []byte) ([]byte, error) { // closed is closed, whoever did it
			version, ok := asked.LoadAndDelete(binary.BigEndian.Uint32(frame))
			if !ok {
				return frame, nil
			}
			return o.forget(frame, version.(int16))
		})
		_ = client.Close()
	})
	_ = carry(node, client, func(frame []byte) ([]byte, error) {
		key, version, id := kmsg.Key(binary.BigEndian.Uint16(frame)), int16(binary.BigEndian.Uint16(frame[2:])), binary.BigEndian.Uint32(frame[4:])
		if slices.Contains(o.unknown, key) {
			return nil, fmt.Errorf("%s is unknown", key.Name())
		}
		if key == kmsg.ApiVersions {
			asked.Store(id, version)
		}
		return frame, nil
	})
	_ = node.Close()
	answers.Wait()
}

// carry hands frames on as change leaves them. They have at least the 8 bytes of a request's fixed fields, or of an answer
// with something in it.
func carry(to io.Writer, from io.Reader, change func([]byte) ([]byte, error)) error {
	var size [4]byte
	for {
		if _, err := io.ReadFull(from, size[:]); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(size[:])
		if n > frameMax {
			return fmt.Errorf("a frame of %d bytes", n)
		}
		frame := make([]byte, n, max(n, 8))
		if _, err := io.ReadFull(from, frame); err != nil {
			return err
		}
		if n >= 8 {
			var err error
			if frame, err = change(frame); err != nil {
				return err
			}
		}
		if _, err := to.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
			return err
		}
	}
}

// forget takes what is unknown out of an answer to ApiVersions. Its header is the correlation id in every version; one
// that is an error has version 0 whatever was asked for, and says that the version is unknown, which remains true.
func (o *older) forget(frame []byte, version int16) ([]byte, error) {
	if binary.BigEndian.Uint16(frame[4:]) != 0 {
		return frame, nil
	}
	answer := kmsg.NewPtrApiVersionsResponse()
	answer.SetVersion(version)
	if err := answer.ReadFrom(frame[4:]); err != nil {
		return nil, err
	}
	answer.ApiKeys = slices.DeleteFunc(answer.ApiKeys, func(k kmsg.ApiVersionsResponseApiKey) bool {
		return slices.Contains(o.unknown, kmsg.Key(k.ApiKey))
	})
	answer.SupportedFeatures, answer.FinalizedFeatures, answer.FinalizedFeaturesEpoch = nil, nil, -1
	return answer.AppendTo(frame[:4:4]), nil
}
