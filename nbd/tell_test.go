package nbd

import (
	"slices"
	"testing"
	"time"
)

// told serves one request of each kind and way, and returns what was told of them.
func told(t *testing.T, s *Server) []Event {
	t.Helper()
	events := newEventLog()
	s.Exports = []Export{{Name: "d", Device: newMemDisk(1 << 20)}}
	s.OnEvent = events.add
	c := dial(t, startServer(t, s))
	c.option(optStructuredReply, nil)
	c.mustAck(c.option(optSetMetaContext, metaQuery("d", "base:allocation")))
	c.chooseExport("d")
	c.must(cmdRead, 0, 4096, 512, nil)
	c.must(cmdRead, 0, 0, inPlaceBytes+1, nil)
	c.must(cmdWrite, 0, 8192, 3, []byte("abc"))
	c.must(cmdWrite, cfFUA, 8192, 3, []byte("def"))
	c.must(cmdWrite, 0, 0, inPlaceBytes+1, make([]byte, inPlaceBytes+1))
	c.must(cmdWrite, cfFUA, 0, inPlaceBytes+2, make([]byte, inPlaceBytes+2))
	c.must(cmdTrim, 0, 1024, 2048, nil)
	c.must(cmdWriteZeroes, cfFUA, 0, 4096, nil)
	c.must(cmdFlush, 0, 0, 0, nil)
	c.must(cmdCache, 0, 0, 10, nil)
	c.must(cmdBlockStatus, 0, 0, 20, nil)
	c.send(cmdDisc, 0, 0, 0, nil)
	c.mustBeClosed()
	events.await(t, ofKind(ConnClosed))
	events.mu.Lock()
	defer events.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(events.events), func(e Event) bool {
		return e.Kind != RequestSlow && e.Kind != RequestTraced
	})
}

// Every request is told of once if all are slow or all are traced, as what it was; and none
// by default.
func TestTold(t *testing.T) {
	for _, tt := range []struct {
		name   string
		server *Server
		want   EventKind
		inMem  bool // a READ from memory is told, too
	}{
		{"all are slow", &Server{SlowRequest: 1}, RequestSlow, false},
		{"all are traced", &Server{SlowRequest: time.Hour, TraceEvery: 1}, RequestTraced, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := []Event{
				{Command: CommandRead, Offset: 4096, Length: 512},
				{Command: CommandRead, Length: inPlaceBytes + 1},
				{Command: CommandWrite, Offset: 8192, Length: 3},
				{Command: CommandWrite, Offset: 8192, Length: 3, FUA: true},
				{Command: CommandWrite, Length: inPlaceBytes + 1},
				{Command: CommandWrite, Length: inPlaceBytes + 2, FUA: true},
				{Command: CommandTrim, Offset: 1024, Length: 2048},
				{Command: CommandWriteZeroes, Length: 4096, FUA: true},
				{Command: CommandFlush},
				{Command: CommandCache, Length: 10},
				{Command: CommandBlockStatus, Length: 20},
			}
			if !tt.inMem {
				want = want[1:]
			}
			got := told(t, tt.server)
			if len(got) != len(want) {
				t.Fatalf("told of %d requests, want %d: %+v", len(got), len(want), got)
			}
			for i, e := range got {
				if e.Took <= 0 || e.Kind != tt.want || e.Export != "d" || e.Conn != 1 {
					t.Errorf("%+v", e)
				}
				e = Event{Command: e.Command, Offset: e.Offset, Length: e.Length, FUA: e.FUA}
				if e != want[i] {
					t.Errorf("told of %+v, want %+v", e, want[i])
				}
			}
		})
	}
	if got := told(t, &Server{}); len(got) != 0 {
		t.Errorf("told of %+v, and nobody asked", got)
	}
	if got := told(t, &Server{TraceEvery: 4}); len(got) != 2 {
		t.Errorf("told of %d of 11 requests, want each fourth", len(got))
	}
}
