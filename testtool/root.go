package testtool

import (
	"os"
	"testing"
)

// NeedRoot skips the test of who is not root, or fails it where nothing may be skipped.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if Required() {
		t.Fatal("not root, and JNBD_REQUIRE=1 forbids to skip")
	}
	t.Skip("needs root")
}
