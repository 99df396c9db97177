package journal

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"jnbd/jsuper"
)

// TestCheckpointOfAFullLog: a checkpoint flushes the log on its way. However full clients have
// made the log meanwhile, and whatever barriers they have asked for, there is room for that: it
// lies in the two segments that clients can't have (wal/space.go), because a barrier is written
// only behind something else. A flush that found none would poison the disk.
func TestCheckpointOfAFullLog(t *testing.T) {
	for _, mode := range []jsuper.Mode{jsuper.Data, jsuper.Ordered, jsuper.Auto} {
		for seed := range uint64(8) {
			synctest.Test(t, func(t *testing.T) {
				l := tiny
				l.mode = mode
				d, g := opened(t, l, Options{})
				hang := stallAt(g, "flush backing")
				stop := make(chan struct{})
				ended := make(chan error)
				go func() { // ends when stop is closed
					rnd := rand.New(rand.NewPCG(seed, 7))
					for i := uint64(0); ; i++ {
						select {
						case <-stop:
							ended <- nil
							return
						default:
						}
						n := 1 + rnd.IntN(3*blockBytes) // parts of blocks are logged in every mode
						p := pattern(i, n)
						if _, err := d.WriteAt(p, rnd.Int64N(l.disk-int64(n))); err != nil {
							ended <- err
							return
						}
					}
				}()
				<-hang.reached
				time.Sleep(time.Minute) // long enough for a writer that is held back to fill it
				synctest.Wait()
				full := d.log.Stats()
				if full.Free > int64(4*blockBytes) {
					t.Errorf("mode %s, seed %d: %d bytes of the log are still free", mode, seed, full.Free)
				}
				synced := make(chan error, 1)
				go func() { synced <- d.Sync() }() // ends with its answer
				synctest.Wait()
				close(hang.release)
				close(stop)
				if err := <-ended; err != nil {
					t.Errorf("mode %s, seed %d: write: %v", mode, seed, err)
				}
				if err := <-synced; err != nil {
					t.Errorf("mode %s, seed %d: sync: %v", mode, seed, err)
				}
				if err := d.Checkpoint(t.Context(), nil); err != nil {
					t.Errorf("mode %s, seed %d: checkpoint: %v", mode, seed, err)
				}
				if now := d.log.Stats(); now.Tail <= full.Tail {
					t.Errorf("mode %s, seed %d: the tail is still at %#x", mode, seed, now.Tail)
				}
				closed(t, d, l, g)
			})
		}
	}
}
