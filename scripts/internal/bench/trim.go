package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// trimScript writes some data all over a disk, trims the disk whole in the largest requests that
// there are, all of them in flight at once, and prints how many seconds that took; then it
// looks whether all of it reads as zeros.
const trimScript = `
import time
size = h.get_size()
places = [i * (size // 97) // 65536 * 65536 for i in range(97)]
for at in places:
    h.pwrite(b"x" * 131072, at)
h.flush()
most = 0x100000000 - 65536
began = time.monotonic()
cookies = [h.aio_trim(min(most, size - at), at) for at in range(0, size, most)]
while h.aio_in_flight() > 0:
    h.poll(-1)
took = time.monotonic() - began
assert all(h.aio_command_completed(c) for c in cookies)
for at in places:
    assert h.pread(131072, at) == bytes(131072), "at %d" % at
print(took)
`

// trimWhole measures the trim of a whole sparse disk of 1 TiB, as mkfs does it.
func trimWhole(c *config, w *workload) error {
	c.report.say("\n## %s\n\n%s.", w.name, w.about)
	var took []float64
	for range c.rounds {
		path := filepath.Join(c.dir, "trim.img")
		if err := c.discard(path, sparseImage); err != nil {
			return err
		}
		if out, err := exec.Command(c.jnbd, "create", path, "--size", "1T").CombinedOutput(); err != nil {
			return fmt.Errorf("jnbd create: %w\n%s", err, out)
		}
		p, err := c.start(jnbdAuto, path)
		if err != nil {
			return err
		}
		out, err := nbdsh(p.uri(), trimScript)
		p.kill()
		if err != nil {
			return fmt.Errorf("nbdsh: %w\n%s", err, out)
		}
		seconds, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
		if err != nil {
			return fmt.Errorf("nbdsh said %q: %w", out, err)
		}
		took = append(took, seconds*1e3)
		if err := c.discard(path, sparseImage); err != nil {
			return err
		}
	}
	limit := &want{figure: "ms", atMost: 100}
	c.report.table([]string{"median ms", "spread", "wanted", ""}, [][]string{c.report.verdict(took, limit)})
	return nil
}

// nbdsh runs a script on a connection to uri. It runs the first python3 of PATH; the
// distribution's is the one with libnbd.
func nbdsh(uri, script string) ([]byte, error) {
	cmd := exec.Command("nbdsh", "-u", uri, "-c", script)
	cmd.Env = append(os.Environ(), "PATH=/usr/bin:"+os.Getenv("PATH"))
	return cmd.CombinedOutput()
}
