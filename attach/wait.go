package attach

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// unreachableError is a try to attach that failed because of the server, which may come.
type unreachableError struct{ cause error }

func (e *unreachableError) Error() string { return e.cause.Error() }
func (e *unreachableError) Unwrap() error { return e.cause }

// awaitServer tries until the server can be reached, for options.Wait: at boot the network, or
// the server's machine, may take longer than this one. Other failures end it at once. One try
// that a server without a word holds up may go on for handshakeTimeout longer.
func awaitServer(ctx context.Context, options Options, try func() error) error {
	deadline := time.Now().Add(options.Wait)
	told := ""
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		err := try()
		var unreachable *unreachableError
		switch {
		case !errors.As(err, &unreachable):
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case options.Wait == 0:
			return err
		case time.Now().After(deadline):
			return fmt.Errorf("no server after %s: %w", options.Wait, err)
		}
		if text := err.Error(); text != told {
			told = text
			options.event(Event{Kind: NoServer, Err: err})
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}
