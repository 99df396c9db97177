package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The kill test (P2, P4): several clients write as fast as they can, the server gets
// kill -9 at a random moment, is started again, and everything is read back.
//
//   - What was replied is there.
//   - What was sent and not replied is there whole, or not at all.
//
// So in every mode, with the journal beside the disk and at its end; and writes are small,
// bulk, zeros and trims, so that every way a write can go is gone.
//
// Each client owns a region of the disk, and never has two overlapping writes under way,
// so it knows what every byte must be.

const (
	killRounds     = 9 // of each mode and placement
	killClients    = 3
	killRegion     = 16 << 20 // bytes of disk per client
	killDepth      = 16       // writes under way per client
	killMaxWrite   = 256 << 10
	killMaxBulk    = 1 << 20
	killMaxReplies = 400 // a round ends after a random number of replies, at most this
)

// killSeedVariable names the environment variable that repeats a run, as far as the host's
// timing allows. killRoundsVariable names that for longer runs.
const (
	killSeedVariable   = "JNBD_KILL_SEED"
	killRoundsVariable = "JNBD_KILL_ROUNDS"
)

func TestKillLosesNothing(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	scanVariable(t, killSeedVariable, &seed)
	rounds := killRounds
	if testing.Short() {
		rounds = 2
	}
	scanVariable(t, killRoundsVariable, &rounds)
	t.Logf("%s=%d", killSeedVariable, seed)
	for i, kind := range allDiskKinds {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			killRun(t, kind, rounds, rand.New(rand.NewPCG(seed, uint64(i))))
		})
	}
}

// scanVariable reads a number from the environment, if it is there.
func scanVariable(t *testing.T, name string, number any) {
	t.Helper()
	if text := os.Getenv(name); text != "" {
		if _, err := fmt.Sscan(text, number); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

// killRun is the kill test of one kind of disk.
func killRun(t *testing.T, kind diskKind, rounds int, random *rand.Rand) {
	diskPath := filepath.Join(t.TempDir(), "d.img")
	args := append(kind.flags(), diskPath, "--size", fmt.Sprint(killClients*killRegion), "--journal-size", "64M", "--commit-interval", "20ms")
	regions := make([]*killRegionModel, killClients)
	for i := range regions {
		regions[i] = &killRegionModel{start: uint64(i * killRegion), want: make([]byte, killRegion)}
	}
	displaced := int64(0) // the most that a kill left in spare
	for round := range rounds {
		s := startServer(t, args...)
		killRound(t, s, regions, random)
		displaced = max(displaced, displacedBytes(t, diskPath))
		if random.IntN(4) == 0 {
			killInRecovery(t, diskPath, time.Duration(random.IntN(30))*time.Millisecond)
		}
		if random.IntN(5) == 0 {
			runJnbd(t, 0, "check", diskPath)
		}
		s = startServer(t, args...)
		for i, region := range regions {
			c := mustDial(t, s.uri)
			if err := region.compare(c); err != nil {
				t.Fatalf("round %d, client %d: %v", round, i, err)
			}
			c.conn.Close()
		}
		if random.IntN(2) == 0 {
			s.stop(t)
		} else {
			s.kill()
		}
	}
	// In few rounds no bulk may have been overwritten.
	if got := displaced > 0; got != kind.writesOnce() && (got || rounds >= killRounds) {
		t.Errorf("the most that was displaced after a kill is %d bytes: the ways of mode %s were not gone", displaced, kind.mode)
	}
	// The raw image at the end is what the clients know.
	runJnbd(t, 0, "close", diskPath)
	image, err := os.ReadFile(diskPath)
	if err != nil {
		t.Fatal(err)
	}
	for i, region := range regions {
		if !bytes.Equal(image[region.start:][:killRegion], region.want) {
			t.Errorf("after close: region %d of the raw image differs", i)
		}
	}
}

// killRound lets all clients write until one of them has counted enough replies, and
// kills the server then.
func killRound(t *testing.T, s *server, regions []*killRegionModel, random *rand.Rand) {
	t.Helper()
	var left atomic.Int64
	left.Store(1 + random.Int64N(killMaxReplies))
	connections := make([]*client, len(regions))
	for i := range regions {
		connections[i] = mustDial(t, s.uri)
	}
	var clients sync.WaitGroup
	for i, region := range regions {
		c := connections[i]
		mine := rand.New(rand.NewPCG(random.Uint64(), 1))
		clients.Go(func() { // ends when the server is dead
			region.write(c, mine, func() {
				if left.Add(-1) == 0 {
					s.cmd.Process.Kill()
				}
			})
		})
	}
	clients.Wait()
	s.kill()
}

// killInRecovery starts the server, and kills it while it recovers, or soon after.
func killInRecovery(t *testing.T, diskPath string, after time.Duration) {
	t.Helper()
	s, err := startUnready(t, diskPath)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(after) // a moment of a real process: nothing tells how far it has come
	s.kill()
}

func mustDial(t *testing.T, uri string) *client {
	t.Helper()
	c, err := dial(uri)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.conn.Close() })
	return c
}

// killRegionModel is what one client knows of its region.
type killRegionModel struct {
	start uint64
	want  []byte // every replied write
	tag   uint64 // of the last write sent

	mu      sync.Mutex
	pending map[uint64]killWrite // sent and not replied, by handle
}

type killWrite struct {
	command uint16
	off     int // within the region
	payload []byte
}

// sent is what of the payload goes over the wire.
func (w *killWrite) sent() []byte {
	if w.command == nbdCmdWrite {
		return w.payload
	}
	return nil // zeros
}

// write keeps killDepth writes under way until the connection breaks, and calls replied
// after every reply. A flush or FUA is mixed in now and then.
func (r *killRegionModel) write(c *client, random *rand.Rand, replied func()) {
	r.pending = map[uint64]killWrite{}
	slots := make(chan struct{}, killDepth)
	for range killDepth {
		slots <- struct{}{}
	}
	done := make(chan struct{})
	go func() { // ends when the connection breaks
		defer close(done)
		for {
			handle, errno, _, err := c.receive()
			if err != nil {
				return
			}
			r.mu.Lock()
			if w, ok := r.pending[handle]; ok && errno == 0 {
				copy(r.want[w.off:], w.payload)
				delete(r.pending, handle)
			}
			r.mu.Unlock()
			replied()
			slots <- struct{}{}
		}
	}()
	defer func() { <-done }()
	for {
		select {
		case <-slots:
		case <-done:
			return
		}
		r.tag++
		if random.IntN(20) == 0 {
			if c.send(nbdCmdFlush, 0, r.tag, 0, 0, nil) != nil {
				return
			}
			continue
		}
		w := r.next(random)
		flags := uint16(0)
		if random.IntN(20) == 0 {
			flags = nbdFlagFUA
		}
		if c.send(w.command, flags, r.tag, r.start+uint64(w.off), len(w.payload), w.sent()) != nil {
			return
		}
	}
}

// next makes a write that overlaps none under way. Unless they are zeros its bytes name it:
// no two writes have eight bytes in common.
func (r *killRegionModel) next(random *rand.Rand) killWrite {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		length := 1 + random.IntN(1<<(1+random.IntN(18)))
		switch random.IntN(8) {
		case 0:
			length = killMaxWrite + random.IntN(killMaxBulk-killMaxWrite)
		case 1, 2, 3, 4:
			length = 4096 * (1 + random.IntN(4))
		}
		off := random.IntN(killRegion - length)
		if random.IntN(2) == 0 {
			off &^= 4095
		}
		if r.overlapsLocked(off, length) {
			continue
		}
		w := killWrite{nbdCmdWrite, off, make([]byte, length+8)[:length]}
		switch random.IntN(16) {
		case 0:
			w.command = nbdCmdTrim
		case 1:
			w.command = nbdCmdZeroes
		default:
			for i := 0; i < length; i += 8 {
				binary.LittleEndian.PutUint64(w.payload[i:i+8], r.tag*0x9e3779b97f4a7c15+uint64(i))
			}
		}
		r.pending[r.tag] = w
		return w
	}
}

func (r *killRegionModel) overlapsLocked(off, length int) bool {
	for _, w := range r.pending {
		if off < w.off+len(w.payload) && w.off < off+length {
			return true
		}
	}
	return false
}

// compare reads the region back. Writes that were under way become part of what is wanted
// where they are found whole.
func (r *killRegionModel) compare(c *client) error {
	var got []byte
	for off := uint64(0); off < killRegion; off += 1 << 20 {
		piece, err := c.read(r.start+off, 1<<20)
		if err != nil {
			return err
		}
		got = append(got, piece...)
	}
	var torn []error
	for handle, w := range r.pending {
		found := got[w.off:][:len(w.payload)]
		switch {
		case bytes.Equal(found, w.payload):
			copy(r.want[w.off:], w.payload)
		case !bytes.Equal(found, r.want[w.off:][:len(w.payload)]):
			torn = append(torn, fmt.Errorf("write %d, %d bytes at %d, was not replied and is torn", handle, len(w.payload), r.start+uint64(w.off)))
		}
	}
	clear(r.pending)
	if !bytes.Equal(got, r.want) {
		torn = append(torn, firstDifference(r.start, got, r.want))
	}
	return errors.Join(torn...)
}

func firstDifference(start uint64, got, want []byte) error {
	for i := range got {
		if got[i] != want[i] {
			return fmt.Errorf("byte %d is %#x, but %#x was replied", start+uint64(i), got[i], want[i])
		}
	}
	return nil
}

// TestCreateStopped: a create that is killed, or told to stop, leaves the image as it was,
// no disk that looks whole, and nothing that the next create can't deal with.
func TestCreateStopped(t *testing.T) {
	for _, stop := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT} {
		t.Run(stop.String(), func(t *testing.T) {
			diskPath := filepath.Join(t.TempDir(), "d.img")
			content := bytes.Repeat([]byte{7}, 1<<20)
			if err := os.WriteFile(diskPath, content, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := startUnready(t, diskPath, "create", "--journal-size", "4G")
			if err != nil {
				t.Fatal(err)
			}
			// The journal's file appears long before its gigabytes are written.
			unfinished := unfinishedName(beside(diskPath))
			for began := time.Now(); time.Since(began) < startTimeout; time.Sleep(time.Millisecond) {
				if _, err := os.Stat(unfinished); !errors.Is(err, fs.ErrNotExist) {
					break
				}
			}
			if err := s.cmd.Process.Signal(stop); err != nil {
				t.Fatal(err)
			}
			s.cmd.Wait() // its exit code is looked at below
			if stop != syscall.SIGKILL {
				if code := s.cmd.ProcessState.ExitCode(); code != exitInterrupted {
					t.Errorf("create exited with %d, want %d\n%s", code, exitInterrupted, s.stderr)
				}
				if left, err := filepath.Glob(diskPath + ".*"); err != nil || len(left) != 0 {
					t.Errorf("create left %v (%v)", left, err)
				}
			}
			image, err := os.ReadFile(diskPath)
			if err != nil || !bytes.Equal(image, content) {
				t.Errorf("the image has changed (%v)", err)
			}
			runJnbd(t, exitNoJournal, "info", diskPath)
			runJnbd(t, exitOK, "create", diskPath, "--journal-size", "64M")
			runJnbd(t, exitOK, "check", diskPath)
			if _, err := os.Stat(unfinished); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is still there: %v", unfinished, err)
			}
		})
	}
}

// TestCreateStoppedInSpare: a create that writes a large spare area can be stopped in the middle.
func TestCreateStoppedInSpare(t *testing.T) {
	const spare = 4 << 30
	diskPath := filepath.Join(t.TempDir(), "d.img")
	s, err := startUnready(t, diskPath, "create", "--size", "4G", "--journal-size", "64M", "--preallocate")
	if err != nil {
		t.Fatal(err)
	}
	unfinished := unfinishedName(beside(diskPath))
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		var st syscall.Stat_t
		if err := syscall.Stat(unfinished, &st); err == nil && st.Blocks*512 > spare/8 {
			break // the log is written, and the space of the spare area being taken
		}
		if time.Since(began) > startTimeout {
			t.Fatal("create does not write the spare area")
		}
	}
	if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	s.cmd.Wait() // its exit code is looked at below
	if code := s.cmd.ProcessState.ExitCode(); code != exitInterrupted {
		t.Errorf("create exited with %d, want %d\n%s", code, exitInterrupted, s.stderr)
	}
	if written := s.cmd.ProcessState.SysUsage().(*syscall.Rusage).Oublock * 512; written > spare/2 {
		t.Errorf("create wrote %d bytes after it was told to stop", written)
	}
	if left, err := filepath.Glob(diskPath + "*"); err != nil || len(left) != 0 {
		t.Errorf("create left %v (%v)", left, err)
	}
}

// TestCreateStoppedWhileLooking: the tail of a large device takes long to read; a create that
// does so can be stopped.
func TestCreateStoppedWhileLooking(t *testing.T) {
	if !mayUseLoop() {
		t.Skip("this process may not make loop devices") // no installation gives a container that right
	}
	s, err := startUnready(t, newLoop(t, 1<<42), "create", "--journal-size", "64M")
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", s.cmd.Process.Pid))
		var read int64
		if _, scanErr := fmt.Sscanf(string(text), "rchar: %d", &read); err != nil || scanErr != nil {
			t.Fatalf("%v, %v: %q", err, scanErr, text)
		}
		if read > 100<<20 {
			break
		}
		if time.Since(began) > startTimeout {
			t.Fatal("create does not read the device")
		}
	}
	if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	hung := time.AfterFunc(startTimeout, func() { s.cmd.Process.Kill() })
	defer hung.Stop()
	s.cmd.Wait() // its exit code is looked at below
	if code := s.cmd.ProcessState.ExitCode(); code != exitInterrupted {
		t.Errorf("create exited with %d, want %d\n%s", code, exitInterrupted, s.stderr)
	}
}
