package vmtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"jnbd/vmtest/step"
)

// errGone is what a step gets that the end of the machine cut off.
var errGone = errors.New("the machine is gone")

// talk carries steps to the guest and brings their answers back.
type talk struct {
	port io.ReadWriteCloser // the host's end of the guest's second serial port

	sending sync.Mutex // one line at a time on port

	mu      sync.Mutex
	lastID  int
	waiting map[int]pending // by step ID
	err     error           // why no answer comes any more; nil while answers come
}

// pending is a step that waits for answers.
type pending struct {
	answers chan step.Answer // closed when no answer can come any more
	left    chan struct{}    // closed when nobody takes answers any more
}

func newTalk(port io.ReadWriteCloser) *talk {
	return &talk{port: port, waiting: make(map[int]pending)}
}

// listen brings each answer to the step it belongs to, until the port is closed.
func (t *talk) listen() {
	lines := step.NewScanner(t.port)
	for lines.Scan() {
		var answer step.Answer
		if err := json.Unmarshal(lines.Bytes(), &answer); err != nil {
			t.end(fmt.Errorf("answer %q: %w", lines.Text(), err))
			return
		}
		t.mu.Lock()
		asked, ok := t.waiting[answer.ID]
		t.mu.Unlock()
		if !ok {
			continue // its asker went away
		}
		select {
		case asked.answers <- answer:
		case <-asked.left:
		}
	}
	t.end(errGone)
}

// end tells every waiting step that no answer will come. Only listen calls it, so nothing
// is sent on the channels that it closes.
func (t *talk) end(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = err
	for _, asked := range t.waiting {
		close(asked.answers)
	}
}

// do performs one step and returns its last answer; onFile, when not nil, gets the files
// that come before. onFile holds up the answers to other steps, so it must return soon.
// What the guest calls an error is returned as one.
func (t *talk) do(ctx context.Context, asked step.Step, onFile func(step.File)) (step.Answer, error) {
	mine := pending{answers: make(chan step.Answer, 1), left: make(chan struct{})}
	id, err := t.expect(mine)
	if err != nil {
		return step.Answer{}, err
	}
	defer t.forget(id, mine)
	asked.ID = id
	t.sending.Lock()
	err = step.WriteLine(t.port, asked)
	t.sending.Unlock()
	if err != nil {
		return step.Answer{}, err
	}
	for {
		select {
		case answer, ok := <-mine.answers:
			switch {
			case !ok:
				return step.Answer{}, t.reason()
			case answer.Done && answer.Err != "":
				return answer, errors.New(answer.Err)
			case answer.Done:
				return answer, nil
			case onFile != nil:
				for _, file := range answer.Files {
					onFile(file)
				}
			}
		case <-ctx.Done():
			return step.Answer{}, fmt.Errorf("no answer: %w", context.Cause(ctx))
		}
	}
}

// expect makes a place for answers and returns the ID they will bear.
func (t *talk) expect(mine pending) (id int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return 0, t.err
	}
	t.lastID++
	t.waiting[t.lastID] = mine
	return t.lastID, nil
}

// forget drops what still comes for a step.
func (t *talk) forget(id int, mine pending) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.waiting, id)
	close(mine.left)
}

// reason says why no answers come any more.
func (t *talk) reason() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}
