package nbd

import (
	"context"
	"errors"
	"testing"
)

// twoExports serves "a" and "b".
func twoExports(t *testing.T) (s *Server, path string, a, b *memDisk, log *eventLog) {
	t.Helper()
	a, b, log = newMemDisk(1<<20), newMemDisk(1<<20), newEventLog()
	s = &Server{Exports: []Export{{Name: "a", Device: a}, {Name: "b", Device: b}}, OnEvent: log.add}
	return s, startServer(t, s), a, b, log
}

// connectTo dials and chooses an export.
func connectTo(t *testing.T, path, name string) *client {
	t.Helper()
	c := dial(t, path)
	c.chooseExport(name)
	return c
}

// names is what LIST tells.
func names(t *testing.T, path string) string {
	t.Helper()
	return describe(dial(t, path).option(optList, nil))
}

func TestAddExport(t *testing.T) {
	s, path, _, _, _ := twoExports(t)
	early := dial(t, path)
	if got := describe(early.option(optInfo, infoRequest("c"))); got != "ERR_UNKNOWN" {
		t.Fatalf("info of what is not there yet: %s", got)
	}
	if err := s.AddExport(Export{Name: "c", Device: newMemDisk(4096)}); err != nil {
		t.Fatal(err)
	}
	early.chooseExport("c")
	early.must(cmdWrite, cfFUA, 0, 0, []byte("hello"))
	if got, want := names(t, path), "SERVER a|\nSERVER b|\nSERVER c|\nACK"; got != want {
		t.Errorf("list:\n%s\nwant:\n%s", got, want)
	}
	for want, x := range map[string]Export{
		"same name": {Name: "c", Device: newMemDisk(4096)},
		"too large": {Name: "d", Device: newMemDisk(4096), MaxBlock: 64 << 20},
		"no device": {Name: "d"},
		"needs tls": {Name: "d", Device: newMemDisk(4096), AllowedNames: []string{"alice"}},
	} {
		if err := s.AddExport(x); err == nil {
			t.Errorf("an export with the flaw %q was added", want)
		}
	}
	if got := len(s.ExportStats()); got != 3 {
		t.Errorf("%d exports have figures, want 3", got)
	}
}

func TestSetDefault(t *testing.T) {
	s, path, a, b, _ := twoExports(t)
	attach(t, path).must(cmdWrite, 0, 0, 0, []byte("to a"))
	if err := s.SetDefault("b"); err != nil {
		t.Fatal(err)
	}
	attach(t, path).must(cmdWrite, 0, 0, 0, []byte("to b"))
	if string(a.content(0, 4)) != "to a" || string(b.content(0, 4)) != "to b" {
		t.Errorf("a holds %q, b holds %q", a.content(0, 4), b.content(0, 4))
	}
	if err := s.SetDefault("c"); !errors.Is(err, ErrNoExport) {
		t.Errorf("an unknown default: %v", err)
	}
}

// What an export's clients have sent is finished when it is removed; then they are closed.
// The clients of the other one notice nothing, and new ones find only that.
func TestRemoveExportDrains(t *testing.T) {
	s, path, a, _, log := twoExports(t)
	entered, release := stall(a)
	busy, idle, other := connectTo(t, path, "a"), connectTo(t, path, "a"), connectTo(t, path, "b")
	negotiating := dial(t, path)
	first := busy.send(cmdWrite, 0, 0, 0, []byte("outstanding"))
	<-entered

	removed := make(chan error, 1)
	go func() { removed <- s.RemoveExport(context.Background(), "a") }()
	idle.mustBeClosed()
	other.must(cmdWrite, cfFUA, 0, 0, []byte("not concerned"))
	if got := describe(negotiating.option(optInfo, infoRequest("a"))); got != "ERR_UNKNOWN" {
		t.Errorf("info of a removed export: %s", got)
	}
	negotiating.chooseExport("") // the other one is the default now
	negotiating.must(cmdRead, 0, 0, 5, nil)
	select {
	case err := <-removed:
		t.Fatalf("RemoveExport returned %v while a request was in the device", err)
	default:
	}
	close(release)
	if r := busy.receive(); r.cookie != first || r.errno != 0 {
		t.Errorf("reply to what was outstanding: %+v", r)
	}
	busy.mustBeClosed()
	if err := <-removed; err != nil {
		t.Errorf("RemoveExport: %v", err)
	}
	if got := string(a.content(0, 11)); got != "outstanding" {
		t.Errorf("the disk holds %q", got)
	}
	for id := range uint64(2) {
		if e := log.await(t, closedOf(id+1)); e.Reason != reasonRemoved || e.Err != nil {
			t.Errorf("connection %d ended because %q (%v), want %q", id+1, e.Reason, e.Err, reasonRemoved)
		}
	}
	other.must(cmdRead, 0, 0, 5, nil)
	if err := s.RemoveExport(context.Background(), "a"); !errors.Is(err, ErrNoExport) {
		t.Errorf("a second removal: %v", err)
	}
	if st := s.Stats(); st.Writes != 2 {
		t.Errorf("%d writes are counted, want those of the removed export as well: 2", st.Writes)
	}
	// The name is free again.
	if err := s.AddExport(Export{Name: "a", Device: a}); err != nil {
		t.Fatal(err)
	}
	connectTo(t, path, "a").must(cmdRead, 0, 0, 5, nil)
}

// A client that can't be finished in time is closed, and what it had not been promised is
// dropped.
func TestRemoveExportInTime(t *testing.T) {
	s, path, a, _, _ := twoExports(t)
	entered, release := stall(a)
	c := connectTo(t, path, "a")
	c.send(cmdWrite, 0, 0, 0, []byte("late"))
	<-entered
	ctx, cancel := context.WithCancel(context.Background())
	removed := make(chan error, 1)
	go func() { removed <- s.RemoveExport(ctx, "a") }()
	cancel()
	c.mustBeClosed()
	close(release)
	if err := <-removed; err != nil {
		t.Errorf("RemoveExport: %v", err)
	}
	if got := string(a.content(0, 4)); got == "late" {
		t.Error("a change was applied after its connection was closed")
	}
}

// The last export may go; new clients are told so.
func TestRemoveAllExports(t *testing.T) {
	s, path, _, _, _ := twoExports(t)
	for _, name := range []string{"a", "b"} {
		if err := s.RemoveExport(context.Background(), name); err != nil {
			t.Fatal(err)
		}
	}
	c := dial(t, path)
	for _, name := range []string{"", "a"} {
		if got := describe(c.option(optGo, infoRequest(name))); got != "ERR_UNKNOWN" {
			t.Errorf("go to %q: %s", name, got)
		}
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveExport(context.Background(), "b"); !errors.Is(err, ErrServerClosed) {
		t.Errorf("removal after the end: %v", err)
	}
	if err := s.AddExport(Export{Device: newMemDisk(4096)}); !errors.Is(err, ErrServerClosed) {
		t.Errorf("addition after the end: %v", err)
	}
}

// A disk that grew is served to its new end, also on connections of before.
func TestGrownDisk(t *testing.T) {
	bothKinds(t, func(t *testing.T, attach func(testing.TB, string) *client) {
		d := &growingDisk{memDisk: newMemDisk(1 << 20)}
		d.size.Store(1 << 19)
		c := attach(t, serveDisk(t, d))
		if r := c.do(cmdWrite, 0, 1<<19, 0, []byte("behind the end")); r.errno != ENOSPC {
			t.Errorf("write behind the end: %v, want ENOSPC", r.errno)
		}
		d.size.Store(1 << 20)
		c.must(cmdWrite, 0, 1<<19, 0, []byte("within the new end"))
		c.must(cmdRead, 0, 1<<20-512, 512, nil)
		if r := c.do(cmdRead, 0, 1<<20-512, 513, nil); r.errno != EINVAL {
			t.Errorf("read behind the new end: %v, want EINVAL", r.errno)
		}
	})
}
