package nbd

import (
	"testing"

	"go.uber.org/goleak"
)

// Every goroutine has an end: none may be left when the tests are over.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
