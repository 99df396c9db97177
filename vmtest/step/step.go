// Package step is the language between a test on the host and init in the guest.
//
// It travels over the guest's second serial port, one JSON object per line:
//
//  1. The host sends a Step, with an ID of its choice.
//  2. The guest begins it at once, beside the steps that are already running.
//  3. While it runs, the guest may send Answers with Done false: some Files each, sent only
//     after what they say has become true (written, or written and fsynced).
//  4. It ends with one Answer with Done true. Err says what went wrong, if anything did.
//
// A line holds at most MaxLine bytes, so that neither side's serial buffer runs over.
package step

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
)

// MaxLine is the longest line that either side sends, its newline included.
const MaxLine = 16 << 10

// MaxOutput is how much text an Answer carries. Longer output loses its beginning. Quoting
// can make a byte six, and a line must still hold it.
const MaxOutput = 2 << 10

// MaxFiles is how many files an Answer names. A line of its own for each would cost more
// than to write it.
const MaxFiles = 64

// Mark begins the lines on the first serial port (the console) that the host looks for.
// What follows it is one of the words below.
const Mark = "@@jnbd "

// The words that follow Mark.
const (
	Ready = "READY" // modules are loaded, the network is up, steps are taken
	End   = "END"   // init was told to end, and does; a guest that dies says nothing
	Fail  = "FAIL"  // init can't go on; the rest of the line says why
)

// RootOption begins the word of the kernel's command line that names the device with the root of a
// whole system, which init hands the machine over to.
const RootOption = "jnbd.root="

// What a Step can ask for.
const (
	Run         = "run"          // runs Args to its end; Answer.Out, Answer.Code
	Start       = "start"        // starts Args, waits for its first line of output: Answer.Out, Answer.PID; with Notify Answer.Notified
	Stop        = "stop"         // sends Signal to PID, waits for its end; Answer.Out, Answer.Code
	Read        = "read"         // reads the text file Path; Answer.Out
	KernelLog   = "kernel-log"   // the last warnings, and worse, of the kernel, but for lines like Options; Answer.Out
	Blocked     = "blocked"      // threads that wait and can't be ended (state D), a line each; Answer.Out
	Load        = "load"         // loads the kernel modules in the directory Path
	Mount       = "mount"        // mounts Device at Dir, as Type with Options
	Unmount     = "unmount"      // unmounts Dir
	WriteTree   = "write-tree"   // writes Files files under Dir from Seed, syncs, names them
	ReadTree    = "read-tree"    // reads and names every file under Dir
	WriteSynced = "write-synced" // writes and fsyncs Files files in Dir, or until one fails, names each
	WriteBlock  = "write-block"  // writes BlockSize bytes from Seed at Offset of Device, past the page cache
	ReadBlock   = "read-block"   // reads them, past the page cache, and names them as a file
	UseMemory   = "use-memory"   // has a process with at most Limit bytes of memory fill Size bytes from Seed, and find every page as it was
	MoveClock   = "move-clock"   // unmounts Dir, if given, and at once sets the clock Seconds forward
	Quit        = "quit"         // prints End on the console and resets the machine
)

// Step is one thing that the host asks for. Which fields count depends on Do.
type Step struct {
	ID      int      `json:"id"`
	Do      string   `json:"do"`
	Args    []string `json:"args,omitempty"`   // program (looked up in /bin) and arguments
	Notify  bool     `json:"notify,omitempty"` // the program gets a NOTIFY_SOCKET, as from systemd
	PID     int      `json:"pid,omitempty"`    // from the Answer to Start
	Signal  int      `json:"signal,omitempty"` // number, as in signal(7)
	Path    string   `json:"path,omitempty"`
	Device  string   `json:"device,omitempty"`
	Dir     string   `json:"dir,omitempty"`
	Type    string   `json:"type,omitempty"`    // of a file system; "" is ext4
	Options string   `json:"options,omitempty"` // of a mount; for KernelLog a regular expression
	Seed    uint64   `json:"seed,omitempty"`
	Offset  int64    `json:"offset,omitempty"` // bytes, a multiple of BlockSize
	Size    int64    `json:"size,omitempty"`   // bytes
	Limit   int64    `json:"limit,omitempty"`  // bytes
	Files   int      `json:"files,omitempty"`
	Seconds int64    `json:"seconds,omitempty"` // below 0: back
}

// Answer is one line of what the guest has to say to the Step with the same ID.
type Answer struct {
	ID   int    `json:"id"`
	Done bool   `json:"done,omitempty"` // the last answer to this step
	Err  string `json:"err,omitempty"`  // why the step failed; "" when it did not
	Out  string `json:"out,omitempty"`
	Code int    `json:"code,omitempty"` // exit code; -1 when a signal ended the program
	PID  int    `json:"pid,omitempty"`
	// Notified is what the program had sent to its NOTIFY_SOCKET by its first line of output.
	Notified string `json:"notified,omitempty"`
	// Files are at most MaxFiles files that the step has written or read.
	Files []File `json:"files,omitempty"`
}

// File is one file: its name below the step's Dir, its length in bytes, and the checksum of
// its content. The checksum is one that an emulated processor is quick at.
type File struct {
	Name  string `json:"name"`
	Size  int64  `json:"size"`
	CRC64 uint64 `json:"crc64"` // ECMA polynomial
}

// WriteLine sends v as one line.
func WriteLine(w io.Writer, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a line: %w", err)
	}
	if len(line) >= MaxLine {
		return fmt.Errorf("encode a line: %d bytes, at most %d fit", len(line)+1, MaxLine)
	}
	if _, err := w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("send a line: %w", err)
	}
	return nil
}

// NewScanner returns a scanner over the lines of r that refuses one above MaxLine.
func NewScanner(r io.Reader) *bufio.Scanner {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4<<10), MaxLine)
	return lines
}

// Tail is the last MaxOutput bytes of out, as text.
func Tail(out []byte) string {
	if len(out) > MaxOutput {
		out = out[len(out)-MaxOutput:]
	}
	return string(out)
}
