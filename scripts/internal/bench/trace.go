package main

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"jnbd/nbd/nbdclient"
)

// The trace is of ext4 while a Go source tree is unpacked and a program built from it, recorded in
// a virtual machine by scripts/trace, from mkfs on. It is played as fast as the server answers:
// at most 32 requests at a time, and each only when those are answered that the guest's kernel had
// waited for.

// traceBytes is how large the disk of a trace is.
const traceBytes = 1 << 30

// traceLoad plays the trace.
type traceLoad struct{}

func (traceLoad) run(c *config, p *process) (result, error) {
	f, err := os.Open(c.trace)
	if err != nil {
		return result{}, err
	}
	defer f.Close()
	all, err := readTrace(f)
	if err != nil {
		return result{}, fmt.Errorf("%s: %w", c.trace, err)
	}
	t, err := runClient(p.uri(), 32, play(all))
	if err != nil {
		return result{}, err
	}
	return t.result(), nil
}

// play gives one request after the other.
func play(all []request) source {
	i := 0
	return func() (request, bool) {
		if i == len(all) {
			return request{}, false
		}
		i++
		return all[i-1], true
	}
}

// readTrace reads what vmtest/record writes; its comment has the format.
func readTrace(from io.Reader) ([]request, error) {
	z, err := gzip.NewReader(from)
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(z)
	var size int64
	if !lines.Scan() {
		return nil, errors.New("a trace without a first line")
	}
	if _, err := fmt.Sscanf(lines.Text(), "jnbd-trace-1 %d", &size); err != nil || size > traceBytes {
		return nil, fmt.Errorf("trace begins with %q, want jnbd-trace-1 and at most %d", lines.Text(), int64(traceBytes))
	}
	var all []request
	for lines.Scan() {
		r, err := readRequest(lines.Text(), len(all))
		if err != nil {
			return nil, err
		}
		if r.offset < 0 || r.length < 0 || r.offset+int64(r.length) > size {
			return nil, fmt.Errorf("request %d, %q: beyond the disk", len(all), lines.Text())
		}
		all = append(all, r)
	}
	return all, lines.Err()
}

// readRequest is one line, of the request with this number.
func readRequest(line string, number int) (r request, err error) {
	const letters = "rwWftz"
	var letter string
	var offset, length int64
	var open int
	if _, err := fmt.Sscan(line, &letter, &offset, &length, &open); err != nil || len(letter) != 1 || open < 0 || open > number {
		return r, fmt.Errorf("request %d: can't read %q", number, line)
	}
	r = request{offset: offset * 512, length: int(length * 512), after: number - open}
	switch strings.Index(letters, letter) {
	case 0:
		r.command = nbdclient.Read
	case 1, 2:
		r.command, r.fua = nbdclient.Write, letter == "W"
	case 3:
		r.command = nbdclient.Flush
	case 4:
		r.command = nbdclient.Trim
	case 5:
		r.command = nbdclient.Zero
	default:
		return r, fmt.Errorf("request %d: %q is none", number, letter)
	}
	if (r.command == nbdclient.Read || r.command == nbdclient.Write) && (r.length == 0 || r.length > largestRequest) {
		return r, fmt.Errorf("request %d: %d bytes", number, r.length)
	}
	return r, nil
}

// playIfRecorded is runRace, and says so where no trace was recorded yet: a whole run must not end
// there.
func playIfRecorded(c *config, w *workload) error {
	if _, err := os.Stat(c.trace); errors.Is(err, fs.ErrNotExist) {
		c.report.say("\n## %s\n\nNot measured: there is no %s; scripts/trace records it.", w.name, c.trace)
		return nil
	}
	return runRace(c, w)
}

// traced is the trace on a fast disk and on a slow one.
func traced() []workload {
	on := func(name, about string, slow bool, ours ...server) workload {
		w := against(name, about, 1.2, traceLoad{}, ours...)
		w.run = playIfRecorded
		w.race.image, w.race.slow = traceImage, slow
		if slow {
			// nbd-server writes zeros block by block: mkfs alone takes it half a minute here.
			w.race.servers = slices.DeleteFunc(onDisks(w.race.servers), func(s server) bool { return s == nbdServer })
		}
		return w
	}
	return []workload{
		on("trace", "ext4 while a Go source tree is unpacked and built", false, jnbdAuto),
		on("trace-slow", "ext4 while a Go source tree is unpacked and built; slow disk", true, jnbdAuto, jnbdInside),
	}
}
