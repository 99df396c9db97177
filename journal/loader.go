package journal

// loader loads changes into an overlay, in order, beside the one who gathers them.
type loader struct {
	changes []extent // gathered, not passed on yet
	full    chan []extent
	empty   chan []extent
	done    chan struct{}
}

// replayChunk is how many changes are sorted at once: few enough for a processor's cache to hold
// them, with 56 bytes each, and so many that neighbours meet.
const replayChunk = 1 << 16

// newLoader starts it; finish must be called. The two parts grow to their size as changes come: most
// logs have far fewer.
func newLoader(into *overlay) *loader {
	l := &loader{full: make(chan []extent), empty: make(chan []extent, 2), done: make(chan struct{})}
	l.empty <- nil
	go func() { // ends with finish
		defer close(l.done)
		for part := range l.full {
			into.load(part)
			l.empty <- part[:0]
		}
	}()
	return l
}

// perhapsPass passes on what was gathered if that is a whole part.
func (l *loader) perhapsPass() {
	if len(l.changes) >= replayChunk {
		l.full <- l.changes
		l.changes = <-l.empty
	}
}

// finish loads the rest, and returns when all is loaded.
func (l *loader) finish() {
	l.full <- l.changes
	close(l.full)
	<-l.done
}
