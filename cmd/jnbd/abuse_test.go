package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"jnbd/nbd"
)

// abuseMemory is --memory of the servers that are abused, and what their processes may have
// besides it: Go's runtime, stacks, the binary.
const (
	abuseMemory   = "128M"
	abuseResident = (128 + 32 + 64) << 20
	// abuseFiles are open besides those of the clients that misbehave.
	abuseFiles = 50
)

// promptly runs an operation of a client that behaves, which must succeed in time.
func promptly(t *testing.T, what string, do func() error) {
	t.Helper()
	began := time.Now()
	if err := do(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("%s took %v", what, took)
	}
}

// mustWork has c write and read back.
func mustWork(t *testing.T, what string, c *client, value byte) {
	t.Helper()
	p := bytes.Repeat([]byte{value}, 64<<10)
	promptly(t, what, func() error {
		if err := c.write(1<<20, p); err != nil {
			return err
		}
		if err := c.flush(); err != nil {
			return err
		}
		got, err := c.read(1<<20, len(p))
		if err == nil && !bytes.Equal(got, p) {
			err = fmt.Errorf("read other data than was written")
		}
		return err
	})
}

// mustBeSmall checks the most memory that the process ever had, and how many files it has open.
func (s *server) mustBeSmall(t *testing.T, files int) {
	t.Helper()
	pid := s.cmd.Process.Pid
	kilobytes := procKilobytes(t, pid, "VmHWM")
	if kilobytes<<10 > abuseResident {
		t.Errorf("the server had %d MiB of memory at its peak, want at most %d", kilobytes>>10, abuseResident>>20)
	}
	open, err := s.openFiles()
	if err != nil {
		t.Fatal(err)
	}
	if open > files {
		t.Errorf("the server has %d files open, want at most %d", open, files)
	}
}

// openFiles counts the files that the process has open.
func (s *server) openFiles() (int, error) {
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	return len(open), err
}

// abuser opens connections that misbehave, and keeps them.
type abuser struct {
	t       *testing.T
	uri     string
	address string // of uri
	random  *rand.Rand
	opened  []net.Conn
	// attached counts the connections that chose an export.
	attached int
}

func newAbuser(t *testing.T, s *server) *abuser {
	address := strings.TrimSuffix(strings.TrimPrefix(s.uri, "nbd://"), "/d.img")
	return &abuser{t: t, uri: s.uri, address: address, random: rand.New(rand.NewPCG(1, 2))}
}

// connect opens a connection.
func (a *abuser) connect() net.Conn {
	conn, err := net.Dial("tcp", a.address)
	if err != nil {
		a.t.Fatal(err)
	}
	a.opened = append(a.opened, conn)
	return conn
}

// attach opens a connection that may send requests.
func (a *abuser) attach() net.Conn {
	c, err := dial(a.uri)
	if err != nil {
		a.t.Fatalf("attach beside %d connections: %v", len(a.opened), err)
	}
	a.opened = append(a.opened, c.conn)
	a.attached++
	return c.conn
}

func (a *abuser) garbage() []byte {
	p := make([]byte, 1000)
	for i := range p {
		p[i] = byte(a.random.Uint32())
	}
	return p
}

// close closes all that are open still.
func (a *abuser) close() {
	for _, conn := range a.opened {
		_ = conn.Close()
	}
}

// resetConn closes a connection in a way that its peer can't overlook.
func resetConn(conn net.Conn) {
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}

// badHeader is a request's header, of a request that will not be finished in order.
func badHeader(command uint16, length uint32) []byte {
	p := []byte{0x25, 0x60, 0x95, 0x13, 0, 0, byte(command >> 8), byte(command)}
	p = append(p, make([]byte, 16)...)
	return binary.BigEndian.AppendUint32(p, length)
}

// badKinds are the ways to misbehave. What a client writes may fail: the server may have closed
// the connection already.
var badKinds = []struct {
	name     string
	attaches bool
	seldom   bool // the client's own part takes long
	do       func(a *abuser)
}{
	{"silent", false, false, func(a *abuser) { a.connect() }},
	{"garbage", false, false, func(a *abuser) { _, _ = a.connect().Write(a.garbage()) }},
	{"garbage when attached", true, false, func(a *abuser) { _, _ = a.attach().Write(a.garbage()) }},
	{"reset", false, false, func(a *abuser) { resetConn(a.connect()) }},
	{"reset with requests outstanding", true, false, func(a *abuser) {
		c := a.attach()
		_, _ = c.Write(bytes.Repeat(badHeader(nbdCmdRead, 64<<10), 20))
		resetConn(c)
	}},
	{"half a payload", true, false, func(a *abuser) {
		_, _ = a.attach().Write(append(badHeader(nbdCmdWrite, 1<<20), make([]byte, 1000)...))
	}},
	{"half a payload, and away", true, false, func(a *abuser) {
		c := a.attach()
		_, _ = c.Write(append(badHeader(nbdCmdWrite, 1<<20), make([]byte, 1000)...))
		_ = c.Close()
	}},
	{"options without end", false, false, func(a *abuser) {
		c := a.connect()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = c.Write([]byte{0, 0, 0, 3})
		for range 100 {
			if _, err := c.Write([]byte("IHAVEOPT\x00\x00\x00\x03\x00\x00\x00\x00")); err != nil {
				return
			}
		}
	}},
	{"never reading", true, true, func(a *abuser) {
		c := a.attach()
		_ = c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		_, _ = c.Write(bytes.Repeat(badHeader(nbdCmdRead, 1<<20), 2000))
	}},
}

// A thousand connections of every bad kind at once, and one client that works through it all. None
// of them is refused, so that each is as bad as its name says.
func TestAbuse(t *testing.T) {
	diskPath := filepath.Join(t.TempDir(), "d.img")
	s := startServer(t, diskPath, "--size", "64M", "--journal-size", "64M", "--memory", abuseMemory, "-p", "0")
	good := mustDial(t, s.uri)
	mustWork(t, "before", good, 1)
	a := newAbuser(t, s)
	defer a.close()
	const rounds, seldom = 112, 8 // 1,008 in all
	wanted := 0
	for round := range rounds {
		for _, kind := range badKinds {
			if kind.seldom && round%seldom > 0 {
				a.connect()
				continue
			}
			if kind.attaches {
				wanted++
			}
			if kind.do(a); a.attached != wanted {
				t.Fatalf("%s: %d clients were attached, want %d", kind.name, a.attached, wanted)
			}
		}
		if round%16 == 0 {
			mustWork(t, fmt.Sprintf("round %d", round), good, byte(round))
		}
	}
	mustWork(t, "after it", good, 100)
	s.mustBeSmall(t, len(a.opened)+abuseFiles)
	a.close()
	mustWork(t, "a new client", mustDialWhenFree(t, "attach when the others have left", s.uri), 101)
	s.awaitFiles(t, abuseFiles)
	s.stop(t)
	log := s.stderr.String()
	if got := strings.Count(log, nbd.ConnAttached.String()); got < wanted {
		t.Errorf("the log tells of %d clients that were attached, want %d", got, wanted)
	}
	if strings.Contains(log, "connections are open, the limit") {
		t.Error("connections were refused")
	}
}

// awaitFiles waits until the server has closed the files of clients that have left.
func (s *server) awaitFiles(t *testing.T, most int) {
	t.Helper()
	promptly(t, "closing files", func() error {
		for deadline := time.Now().Add(5 * time.Second); ; {
			open, err := s.openFiles()
			if err != nil || open <= most {
				return err
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("the server has %d files open when all but two clients have left, want at most %d", open, most)
			}
		}
	})
}

// The process may open no more files: who is connected is served, and others are as soon as
// some have left.
func TestOutOfFiles(t *testing.T) {
	requireTools(t, "prlimit")
	diskPath := filepath.Join(t.TempDir(), "d.img")
	s := startServer(t, diskPath, "--size", "64M", "--journal-size", "64M")
	good := mustDial(t, s.uri)
	limit := exec.Command("prlimit", "--pid", strconv.Itoa(s.cmd.Process.Pid), "--nofile=40:40")
	if out, err := limit.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", limit, err, out)
	}
	var conns []net.Conn
	for range 60 {
		conn, err := net.Dial("unix", diskPath+".sock")
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	mustWork(t, "without files", good, 1)
	for _, conn := range conns {
		_ = conn.Close()
	}
	promptly(t, "a client when files are free again", func() error {
		c, err := dial(s.uri)
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.conn.Close() })
		return c.write(0, []byte("hello"))
	})
	s.stop(t)
	if !strings.Contains(s.stderr.String(), "too many open files") {
		t.Errorf("the log does not speak of too many open files:\n%s", s.stderr)
	}
}

// stopSecondsVariable names the environment variable for a longer pause.
const stopSecondsVariable = "JNBD_STOP_SECONDS"

// The server sleeps for seconds, as after SIGSTOP or with a suspended machine. A client that
// waits gets its replies; so do those that were in the middle of payloads, though they hold
// memory that others wait for; and one that gave up and sent something newer on another
// connection is not overtaken by what lay in the socket.
func TestStopAndContinue(t *testing.T) {
	seconds := 3 // longer than a client may be silent with memory that others wait for
	scanVariable(t, stopSecondsVariable, &seconds)
	diskPath := filepath.Join(t.TempDir(), "d.img")
	s := startServer(t, diskPath, "--size", "64M", "--journal-size", "128M", "--memory", abuseMemory)
	finish := startHugeWrites(t, s.uri, 5)
	patient, ghost := mustDial(t, s.uri), mustDial(t, s.uri)
	pid := s.cmd.Process.Pid
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(20) {
		if err := patient.send(nbdCmdWrite, 0, i, 8192+i*512, 512, bytes.Repeat([]byte{byte(i)}, 512)); err != nil {
			t.Fatal(err)
		}
	}
	if err := ghost.send(nbdCmdWrite, 0, 1, 0, 3, []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := ghost.conn.Close(); err != nil { // it gives up
		t.Fatal(err)
	}
	asleep := time.NewTimer(time.Duration(seconds) * time.Second)
	<-asleep.C
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	successor := mustDial(t, s.uri)
	if err := successor.write(0, []byte("new")); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if _, errno, _, err := patient.receive(); err != nil || errno != 0 {
			t.Fatalf("reply after the pause: error %d, %v", errno, err)
		}
	}
	for range 20 { // the ghost has every chance
		if got, err := successor.read(0, 3); err != nil || string(got) != "new" {
			t.Fatalf("the disk holds %q, %v; want what was written last", got, err)
		}
	}
	got, err := successor.read(8192, 20*512)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if got[i] != byte(i/512) {
			t.Fatalf("byte %d of what was outstanding in the pause is %d, want %d", i, got[i], i/512)
		}
	}
	finish()
	s.stop(t)
}

// startHugeWrites begins so many writes of the largest size, each from a client of its own: more
// than there is memory for at once. finish sends the rest of each, and each must succeed.
func startHugeWrites(t *testing.T, uri string, n int) (finish func()) {
	t.Helper()
	const size, begun = 32 << 20, 1000
	payload := make([]byte, size)
	var clients []*client
	for range n {
		c := mustDial(t, uri)
		if err := c.send(nbdCmdWrite, 0, 1, 32<<20, size, payload[:begun]); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	return func() {
		t.Helper()
		failed := make(chan error, n)
		for i, c := range clients {
			go func() { // ends with its reply
				_, err := c.conn.Write(payload[begun:])
				errno := uint32(0)
				if err == nil {
					_, errno, _, err = c.receive()
				}
				if err == nil && errno != 0 {
					err = syscall.Errno(errno)
				}
				if err != nil {
					err = fmt.Errorf("huge write %d: %w", i, err)
				}
				failed <- err
			}()
		}
		for range clients {
			if err := <-failed; err != nil {
				t.Error(err)
			}
		}
	}
}
