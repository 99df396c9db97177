package journal

import (
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"jnbd/disk/crashdisk"
	"jnbd/jsuper"
)

// fill makes the host of the homes refuse every write; room takes it back.
func fill(g *crashdisk.Group, l layout) (room func()) {
	homes := g.Lookup("backing")
	homes.Refuse(math.MaxInt, func(off, n int64) bool { return off+n <= l.disk })
	return func() { homes.Refuse(0, nil) }
}

// told keeps what OnHostFull tells.
type told []error

func (s *told) add(err error) { *s = append(*s, err) }

// TestFullHostHoldsWriters: on a host without space the log takes what is written until it is
// full; then writers wait, reads and flushes go on, and with space again so does everything,
// without an error to anybody.
func TestFullHostHoldsWriters(t *testing.T) {
	for _, mode := range []jsuper.Mode{jsuper.Data, jsuper.Ordered, jsuper.Auto} {
		synctest.Test(t, func(t *testing.T) {
			l := tiny
			l.mode = mode
			var said told
			d, g := opened(t, l, Options{OnHostFull: said.add})
			room := fill(g, l)
			model := make([]byte, l.disk)
			written, stop := make(chan error), make(chan struct{})
			go func() { // ends when stop is closed
				for i := uint64(0); ; i++ {
					select {
					case <-stop:
						written <- nil
						return
					default:
					}
					off := int64(i) * blockBytes % (l.disk - 70<<10)
					p := pattern(i, 100+int(i%2)*(66<<10)) // parts of blocks, and bulk
					if _, err := d.WriteAt(p, off); err != nil {
						written <- err
						return
					}
					copy(model[off:], p)
				}
			}()
			time.Sleep(time.Minute)
			synctest.Wait()
			if free := d.log.Stats().Free; free > 70<<10 {
				t.Errorf("mode %s: %d bytes of the log are free after a minute", mode, free)
			}
			if err := d.Sync(); err != nil {
				t.Errorf("mode %s: flush: %v", mode, err)
			}
			if _, err := d.ReadAt(make([]byte, blockBytes), 0); err != nil {
				t.Errorf("mode %s: read: %v", mode, err)
			}
			if n := len(said); n != 1 || !errors.Is(said[0], ErrHostFull) || !errors.Is(d.Stats().HostFull, ErrHostFull) {
				t.Errorf("mode %s: it was told %v, and Stats say %v", mode, said, d.Stats().HostFull)
			}
			if tries := g.Ops(); tries > 1000+4*int(time.Minute/idleCheck) {
				t.Errorf("mode %s: %d operations in a minute", mode, tries)
			}
			close(stop)
			room()
			if err := <-written; err != nil {
				t.Errorf("mode %s: write: %v", mode, err)
			}
			time.Sleep(time.Minute)
			if n := len(said); n != 2 || said[1] != nil || d.Err() != nil || d.Stats().HostFull != nil {
				t.Errorf("mode %s: with room again it was told %v, Stats say %v, and Err %v", mode, said, d.Stats().HostFull, d.Err())
			}
			expect(t, d, 0, model)
			closed(t, d, l, g)
		})
	}
}

// TestStopOnAFullHost: a disk whose host is full stops with an error, keeps everything in the
// log, and is closed for good when there is room.
func TestStopOnAFullHost(t *testing.T) {
	for _, mode := range []jsuper.Mode{jsuper.Data, jsuper.Ordered} {
		l := tiny
		l.mode = mode
		d, g := opened(t, l, Options{})
		room := fill(g, l)
		p := pattern(1, 10*blockBytes)
		write(t, d, p, 0)
		for range 2 {
			if err := d.Finish(t.Context(), nil); !errors.Is(err, ErrHostFull) {
				t.Fatalf("mode %s: finish on a full host: %v", mode, err)
			}
			var err error
			if d, err = Open(l.parts(g), Options{}); err != nil {
				t.Fatalf("mode %s: %v", mode, err)
			}
			expect(t, d, 0, p)
		}
		room()
		closed(t, d, l, g)
	}
}
