package nbd

import (
	"fmt"
	"testing"
)

// What a connection takes shrinks as more are attached, and all together stay below a bound.
func TestShareOf(t *testing.T) {
	for _, tt := range []struct{ attached, want int }{
		{0, maxShare}, {1, maxShare}, {64, maxShare}, {128, 128 << 10}, {1024, 16 << 10}, {2048, minShare}, {100_000, minShare},
	} {
		if got := shareOf(tt.attached); got != tt.want {
			t.Errorf("%d connections: %d bytes each, want %d", tt.attached, got, tt.want)
		}
	}
	sum := 0
	for n := 1; n <= DefaultMaxConns; n++ {
		if sum += shareOf(n); shareOf(n) > shareOf(n-1) {
			t.Errorf("%d connections have a larger share than %d", n, n-1)
		}
	}
	if sum > 4*sharedBytes {
		t.Errorf("%d connections have %d bytes together, want at most %d", DefaultMaxConns, sum, 4*sharedBytes)
	}
}

// Who leaves gives its share back, and who only negotiates has none.
func TestShareComesBack(t *testing.T) {
	s := &Server{Exports: []Export{{Device: newMemDisk(memPage)}}}
	path := startServer(t, s)
	const attached = 100
	var clients []*client
	for range attached {
		c := attach(t, path)
		c.must(cmdRead, 0, 0, 1, nil) // it is counted before its first request is read
		clients = append(clients, c)
	}
	for range attached {
		dial(t, path)
	}
	if got := s.share.bytes(); got != shareOf(attached) {
		t.Errorf("%d connections: %d bytes each, want %d", attached, got, shareOf(attached))
	}
	for _, c := range clients {
		_ = c.nc.Close()
	}
	awaitConns(t, s, attached)
	if got := s.share.bytes(); got != maxShare {
		t.Errorf("when they have left: %d bytes each, want %d", got, maxShare)
	}
}

// With many others attached, all that a connection asks for is done as ever: requests larger than
// its share, and runs of requests that are cut anywhere.
func TestShareOfACrowd(t *testing.T) {
	d := newMemDisk(1 << 20)
	s := &Server{Exports: []Export{{Device: d}}}
	c := attach(t, startServer(t, s))
	s.mu.Lock()
	for range DefaultMaxConns {
		s.share.joinLocked()
	}
	s.mu.Unlock()
	share := s.share.bytes()
	for _, n := range []int{1, 512, 4096, share - 1, share, share + 1, inPlaceBytes, inPlaceBytes + 1, 300 << 10} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(i*7 + n)
			}
			var run []byte
			for i := range uint64(20) {
				run = append(run, encodeRequest(cmdWrite, 0, i, 0, uint32(n), p)...)
			}
			c.write(run)
			for range 20 {
				if r := c.receive(); r.errno != 0 {
					t.Fatalf("write of %d bytes: %v", n, r.errno)
				}
			}
			if got := c.must(cmdRead, 0, 0, uint32(n), nil); string(got.data) != string(p) {
				t.Errorf("read other data than was written")
			}
		})
	}
}
