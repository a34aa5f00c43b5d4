package upstream

import (
	"errors"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
)

// What will be the same the next time is told from what may come right.
func TestWhatAPeerWillNotGiveIsRefused(t *testing.T) {
	for _, tt := range []struct {
		err     error
		refused bool
	}{
		{fmt.Errorf("s.a: %w", kerr.TopicAuthorizationFailed), true},
		{fetchError(kerr.TopicAuthorizationFailed), true},
		{fetchError(kerr.OffsetOutOfRange), false},
		{fetchError(kerr.NotLeaderForPartition), false},
		{fetchError(kerr.UnknownTopicID), false},
		{fmt.Errorf("s.a-0: %w", kerr.LeaderNotAvailable), false},
		{errors.New("cut"), false},
	} {
		var refused *RefusedError
		err := denied("s.a", 0, tt.err)
		if errors.As(err, &refused) != tt.refused || !errors.Is(err, tt.err) {
			t.Errorf("%v becomes %v", tt.err, err)
		}
	}
	if err := denied("s.a", 0, fetchError(kerr.OffsetOutOfRange)); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("what was let go becomes %v", err)
	}
}
