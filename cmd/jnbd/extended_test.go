package main

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"jnbd/testtool"
)

// TestExtendedHeaders: somebody else's client that speaks extended headers, libnbd of Debian 13,
// against the real binary. It must have agreed on them; then it trims, zeroes and asks for the
// state of more than 4 GiB in one request, which no other header can say.
func TestExtendedHeaders(t *testing.T) {
	libnbd := testtool.FromDebian(t, "trixie", "libnbd-bin", "python3-libnbd")
	eachKind(t, func(t *testing.T, kind diskKind) { testExtendedHeaders(t, libnbd, kind) })
}

func testExtendedHeaders(t *testing.T, libnbd testtool.Newer, kind diskKind) {
	s, diskPath := interopDisk(t, append(kind.flags(), "--size", "16G")...)
	mustSpeak(t, libnbd.Command("python3", "-c", extendedChecks+extendedScript, s.uri))
	s.kill()
	s = startServer(t, diskPath)
	mustSpeak(t, libnbd.Command("python3", "-c", extendedChecks+"Disk().check_end()", s.uri))

	var info struct {
		Structured, Extended bool
	}
	if err := json.Unmarshal(mustSpeak(t, libnbd.Command("nbdinfo", "--json", s.uri)), &info); err != nil || !info.Extended || !info.Structured {
		t.Errorf("nbdinfo says %+v (%v), want extended headers and structured replies", info, err)
	}
	got := string(mustSpeak(t, libnbd.Command("nbdinfo", "--map", "--totals", s.uri)))
	if want := "8192 0.0% 0 data 17179860992 100.0% 3 hole,zero"; strings.Join(strings.Fields(got), " ") != want {
		t.Errorf("nbdinfo --map --totals says\n%swant %s", got, want)
	}
	s.stop(t)
}

// mustSpeak is what a client prints, which must succeed.
func mustSpeak(t *testing.T, client *exec.Cmd) []byte {
	t.Helper()
	out, err := client.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", client.Args[3], err, out)
	}
	return out
}

// extendedChecks is a client that compares what it is told with what it wants.
const extendedChecks = `
import nbd, sys
G = 1 << 30
HOLE, DATA = 3, 0           # base:allocation
ABSENT, LOCAL = 0, 1        # qemu:allocation-depth

class Disk:
    def __init__(self, extended=True):
        self.h = h = nbd.NBD()
        h.set_request_extended_headers(extended)
        h.set_strict_mode(nbd.STRICT_AUTO_FLAG)     # what the server must refuse is asked, too
        h.add_meta_context("base:allocation")
        h.add_meta_context("qemu:allocation-depth")
        h.connect_uri(sys.argv[1])
        assert h.get_extended_headers_negotiated() == extended
        assert h.get_structured_replies_negotiated()
        assert h.get_size() == 16 * G

    def maps(self, offset, length):
        found = {}
        def extents(context, offset, entries, error):
            assert not error.value and context not in found
            found[context] = [tuple(e) for e in entries]
        self.h.block_status_64(length, offset, extents)
        return found["base:allocation"], found["qemu:allocation-depth"]

    # check wants the pieces of a range to be (length, whether there is data), in order.
    def check(self, offset, pieces):
        allocation, depth = self.maps(offset, sum(length for length, _ in pieces))
        assert allocation == [(length, DATA if data else HOLE) for length, data in pieces], (allocation, pieces)
        assert depth == [(length, LOCAL if data else ABSENT) for length, data in pieces], (depth, pieces)

    def check_end(self):
        self.check(0, [(7 * G, 0), (4096, 1), (8 * G - 4096, 0), (4096, 1), (G - 4096, 0)])
        assert self.h.pread(4096, 7 * G) == b"c" * 4096
        assert self.h.pread(4096, 15 * G) == b"e" * 4096

    def refused(self, errno, call, *args):
        try:
            call(*args)
        except nbd.Error as e:
            assert e.errno == errno, e
        else:
            assert False, errno
`

// extendedScript leaves 4 KiB at 7 GiB and at 15 GiB, and nothing else.
const extendedScript = `
d = Disk()
h = d.h
d.check(0, [(16 * G, 0)])
for at, byte in (1, b"a"), (5, b"b"), (7, b"c"), (9, b"d"), (15, b"e"):
    h.aio_pwrite(byte * 4096, at * G)
while h.aio_in_flight() > 0:
    h.poll(-1)
d.check(0, [(G, 0), (4096, 1), (4 * G - 4096, 0), (4096, 1), (2 * G - 4096, 0), (4096, 1),
    (2 * G - 4096, 0), (4096, 1), (6 * G - 4096, 0), (4096, 1), (G - 4096, 0)])

h.zero(6 * G, G, nbd.CMD_FLAG_FAST_ZERO)                # [1 GiB, 7 GiB)
d.check(0, [(7 * G, 0), (4096, 1)])
h.trim(8 * G - 4096, 7 * G + 4096, nbd.CMD_FLAG_FUA)    # up to 15 GiB
d.check_end()

# A structured read: a hole, data, a hole.
M = 1 << 20
read = {}
def chunk(data, offset, status, error):
    read[offset - 7 * G] = (status, bytes(data))
h.pread_structured(2 * M, 7 * G - M, chunk)
assert read == {-M: (nbd.READ_HOLE, bytes(M)), 0: (nbd.READ_DATA, b"c" * 4096),
    4096: (nbd.READ_HOLE, bytes(M - 4096))}, {at: (r[0], len(r[1])) for at, r in read.items()}

d.refused("EINVAL", h.trim, 12 * G, 8 * G)
d.refused("ENOSPC", h.zero, 12 * G, 8 * G)
d.refused("ENOSPC", h.zero, (1 << 64) - 4096, 8192)       # its end is 4096 in 64 bits
d.check_end()

# The same disk without them: an extent has 32 bits then, and the rest is asked for again.
old = Disk(extended=False)
allocation, _ = old.maps(0, 4 * G - 512)
assert allocation == [(4 * G - 512, HOLE)], allocation
h.flush()
`
