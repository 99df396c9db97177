package kernel

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestIndex(t *testing.T) {
	link := filepath.Join(t.TempDir(), "disk")
	if err := os.Symlink("/dev/nbd12", link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int64{
		"/dev/nbd0": 0, "/dev/nbd15": 15, "/dev/nbd": -1, "/dev/nbd01": -1, "/dev/nbd-1": -1,
		"/dev/nbd0p1": -1, "/dev/sda": -1, "nbd0": -1, "/dev/nbd4294967296": -1, "": -1,
	} {
		index, err := Index(path)
		if (err != nil) != (want < 0) || err == nil && int64(index) != want {
			t.Errorf("%q: %d, %v, want %d", path, index, err, want)
		}
	}
}

// TestLook reads a device's directory of sysfs.
func TestLook(t *testing.T) {
	root := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	look := func(want State) {
		t.Helper()
		if got, err := lookBelow(root, 3); err != nil || got != want {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
	look(State{}) // not even there
	put("nbd3/size", "0\n")
	put("nbd3/mq/0/cpu_list", "0\n")
	look(State{})
	put("nbd3/pid", "412\n")
	put("nbd3/size", "2048\n")
	put("nbd3/mq/1/cpu_list", "1\n")
	look(State{Attached: true, Size: 1 << 20, Queues: 2})
	put("nbd3/backend", "disk/1\n")
	look(State{Attached: true, Size: 1 << 20, Queues: 2, Backend: "disk/1"})
	put("nbd3/size", "x")
	if _, err := lookBelow(root, 3); err == nil {
		t.Error("a size that is none is believed")
	}
}

// TestLockOut: whoever looks at a device locks it, as udev does; until he is through, and not
// longer, it can't be locked for this process alone.
func TestLockOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() *os.File {
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
		return file
	}
	hold, looker := &Hold{open()}, open()
	if err := unix.Flock(int(looker.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	if alone, err := hold.LockOut(); alone || err != nil {
		t.Errorf("while somebody looks: %v, %v", alone, err)
	}
	if err := looker.Close(); err != nil {
		t.Fatal(err)
	}
	if alone, err := hold.LockOut(); !alone || err != nil {
		t.Errorf("when nobody looks: %v, %v", alone, err)
	}
	if err := unix.Flock(int(open().Fd()), unix.LOCK_SH|unix.LOCK_NB); err == nil {
		t.Error("somebody begins to look at a device that is locked")
	}
}
