package journal

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestStepBackIsTakenBack: a thread that worked behind is as quick as before when it is used for
// something else.
func TestStepBackIsTakenBack(t *testing.T) {
	done := make(chan [3]int)
	go func() { // ends with its answer
		nice := func() int {
			n, err := unix.Getpriority(unix.PRIO_PROCESS, unix.Gettid())
			if err != nil {
				t.Error(err)
			}
			return 20 - n
		}
		before := nice()
		forward := stepBack()
		behind := nice()
		forward()
		done <- [3]int{before, behind, nice()}
	}()
	got := <-done
	if want := min(got[0]+behindNice, 19); got[1] != want {
		t.Errorf("behind the thread's niceness is %d, want %d", got[1], want)
	}
	if unix.Geteuid() == 0 && got[2] != got[0] {
		t.Errorf("afterwards the thread's niceness is %d, before it was %d", got[2], got[0])
	}
}
