package journal

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"jnbd/jsuper"
)

// A script is one life of a disk as text, so that a failure can be printed, kept, read and
// played again. One step a line:
//
//	disk 128K mode ordered spare 64K internal   first: the layout; all but the size optional
//	disk 128K mode ordered flushed 16K           bulk flushes by itself each 16 KiB
//	write 4K 8K seed 3 fua                       offset, length
//	zero 0 100 keep                              keep the space
//	trim 0 64K
//	flush
//	churn 0 8K 40                                40 writes to one place
//	checkpoint                                   the log goes home, as far as it is there
//	batch                                        one batch of it
//	part 3                                       one that gives way before its 3rd extent
//	tick                                         the checkpointer looks after what is free
//	idle                                         long enough for homing
//	full 3                                       the host has no space for 3 writes of homes, spare or state
//	full-state 3                                 for 3 of the stored state
//	restart                                      the process dies and comes back
//	lose 3                                       the power goes now, image 3 is what is left
//	close                                        in order, and opened again
//	finish                                       to a raw image, and opened again
//	crash 17 3                                   last: the power goes at operation 17, image 3
//	again 4 1                                    and once more at operation 4 of recovery
//	cut barrier                                  and recovery cuts at the last barrier
//
// Without crash, every operation is one to crash at (explore_test.go). # begins a comment.
type script struct {
	layout
	flushed int64 // Options.UnflushedBulk
	steps   []step

	crash, image int // crash 0: not given
	again, then  int
	barrier      bool
}

// step is one line of a script.
type step struct {
	what  string
	off   int64
	n     int64
	seed  uint64
	count int // of churn, of part and of what is refused, and the image of lose
	fua   bool
	keep  bool
}

// scriptLog is the smallest journal.
const scriptLog = logStart + 512<<10

// words are the steps, and how many numbers each takes.
var words = map[string]int{
	"write": 2, "zero": 2, "trim": 2, "churn": 3, "part": 1, "lose": 1, "full": 1, "full-state": 1,
	"flush": 0, "checkpoint": 0, "batch": 0, "tick": 0, "idle": 0, "restart": 0, "close": 0, "finish": 0,
}

func parseScript(text string) (*script, error) {
	s := &script{}
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if err := s.parseLine(fields); err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	if s.disk == 0 {
		return nil, fmt.Errorf("no line that begins with disk")
	}
	return s, nil
}

func (s *script) parseLine(fields []string) error {
	switch fields[0] {
	case "disk":
		return s.parseLayout(fields[1:])
	case "crash":
		return numbers(fields[1:], &s.crash, &s.image)
	case "again":
		return numbers(fields[1:], &s.again, &s.then)
	case "cut":
		s.barrier = len(fields) == 2 && fields[1] == "barrier"
		return nil
	}
	st := step{what: fields[0]}
	takes, ok := words[st.what]
	if !ok || len(fields) < 1+takes {
		return fmt.Errorf("%q: no such step, or too few numbers", strings.Join(fields, " "))
	}
	var err error
	switch args := fields[1 : 1+takes]; st.what {
	case "part", "lose", "full", "full-state":
		err = numbers(args, &st.count)
	case "churn":
		err = numbers(args[2:], &st.count)
		fallthrough
	default:
		if takes >= 2 && err == nil {
			if st.off, err = size(args[0]); err == nil {
				st.n, err = size(args[1])
			}
		}
	}
	if err == nil {
		err = st.parseFlags(fields[1+takes:])
	}
	if err == nil && (st.off < 0 || st.n < 0 || st.off+st.n > s.disk) {
		err = fmt.Errorf("[%d,+%d) is not on a disk of %d bytes", st.off, st.n, s.disk)
	}
	s.steps = append(s.steps, st)
	return err
}

func (st *step) parseFlags(fields []string) (err error) {
	for len(fields) > 0 && err == nil {
		switch {
		case fields[0] == "fua":
			st.fua = true
		case fields[0] == "keep":
			st.keep = true
		case fields[0] == "seed" && len(fields) > 1:
			st.seed, err = strconv.ParseUint(fields[1], 10, 64)
			fields = fields[1:]
		default:
			err = fmt.Errorf("%q is none of fua, keep, seed N", fields[0])
		}
		fields = fields[1:]
	}
	return err
}

func (s *script) parseLayout(fields []string) (err error) {
	s.layout = layout{name: "script", journal: scriptLog, mode: jsuper.Data}
	if len(fields) == 0 {
		return fmt.Errorf("disk without a size")
	}
	if s.disk, err = size(fields[0]); err != nil {
		return err
	}
	for fields = fields[1:]; len(fields) > 0; {
		if fields[0] == "internal" {
			s.internal = true
			s.journal = scriptLog - logStart + jsuper.ReservedBytes + blockBytes
			fields = fields[1:]
			continue
		}
		if len(fields) < 2 {
			return fmt.Errorf("%q without a value", fields[0])
		}
		switch fields[0] {
		case "mode":
			modes := []jsuper.Mode{jsuper.Data, jsuper.Ordered, jsuper.Auto}
			i := slices.IndexFunc(modes, func(m jsuper.Mode) bool { return m.String() == fields[1] })
			if i < 0 {
				return fmt.Errorf("no mode %q", fields[1])
			}
			s.mode = modes[i]
		case "spare":
			if s.spare, err = size(fields[1]); err != nil {
				return err
			}
		case "flushed":
			if s.flushed, err = size(fields[1]); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%q is none of mode, spare, flushed, internal", fields[0])
		}
		fields = fields[2:]
	}
	return nil
}

// String is the script as text that parses to the same.
func (s *script) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "disk %s mode %s", short(s.disk), s.mode)
	if s.spare != 0 {
		fmt.Fprintf(&b, " spare %s", short(s.spare))
	}
	if s.flushed != 0 {
		fmt.Fprintf(&b, " flushed %s", short(s.flushed))
	}
	if s.internal {
		b.WriteString(" internal")
	}
	b.WriteByte('\n')
	for i := range s.steps {
		b.WriteString(s.steps[i].String() + "\n")
	}
	if s.crash != 0 {
		fmt.Fprintf(&b, "crash %d %d\n", s.crash, s.image)
	}
	if s.again != 0 {
		fmt.Fprintf(&b, "again %d %d\n", s.again, s.then)
	}
	if s.barrier {
		b.WriteString("cut barrier\n")
	}
	return b.String()
}

func (st *step) String() string {
	t := st.what
	switch words[t] {
	case 1:
		t += fmt.Sprintf(" %d", st.count)
	case 2:
		t += " " + short(st.off) + " " + short(st.n)
	case 3:
		t += fmt.Sprintf(" %s %s %d", short(st.off), short(st.n), st.count)
	}
	if st.seed != 0 {
		t += fmt.Sprintf(" seed %d", st.seed)
	}
	if st.fua {
		t += " fua"
	}
	if st.keep {
		t += " keep"
	}
	return t
}

// numbers reads exactly as many numbers as there are places for.
func numbers(fields []string, into ...*int) error {
	if len(fields) != len(into) {
		return fmt.Errorf("%d numbers, want %d", len(fields), len(into))
	}
	for i, f := range fields {
		n, err := strconv.Atoi(f)
		if err != nil || n < 0 {
			return fmt.Errorf("%q is no number", f)
		}
		*into[i] = n
	}
	return nil
}

// size reads bytes, or KiB with a K.
func size(field string) (int64, error) {
	unit := int64(1)
	digits, ok := strings.CutSuffix(field, "K")
	if ok {
		unit = 1 << 10
	}
	n, err := strconv.ParseInt(digits, 10, 40)
	return n * unit, err
}

func short(n int64) string {
	if n != 0 && n%1024 == 0 {
		return fmt.Sprintf("%dK", n/1024)
	}
	return strconv.FormatInt(n, 10)
}
