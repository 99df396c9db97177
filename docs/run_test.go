package docs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"jnbd/testtool"
)

// documents are those whose commands are run, with the tools that they use.
func documents(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("*.md")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	return append(paths, "../README.md")
}

// TestCommands runs every command of every document that needs nothing but an empty directory: real
// tools, and the real jnbd. TestTree and tests of packaging and vmtest run the others.
func TestCommands(t *testing.T) {
	testtool.Need(t, "bash", "nbdinfo", "nbdcopy", "qemu-img", "qemu-io", "nbdkit", "curl", "mkfs.ext4", "e2fsck", "python3")
	jnbd := testtool.Jnbd(t)
	for _, path := range documents(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			blocks, err := Read(path)
			if err != nil {
				t.Fatal(err)
			}
			for len(blocks) > 0 {
				end := 0
				for end < len(blocks) && blocks[end].Kind != Anew {
					end++
				}
				for _, problem := range runBlocks(jnbd, blocks[:end]) {
					t.Error(problem)
				}
				blocks = blocks[min(end+1, len(blocks)):]
			}
		})
	}
}

// runBlocks runs blocks in an empty directory, as one bash script, and returns what is wrong
// with them.
func runBlocks(jnbd string, blocks []Block) (problems []string) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	// A directory with a short name: sockets lie in it.
	dir, err := os.MkdirTemp("", "doc")
	if err != nil {
		return []string{err.Error()}
	}
	defer os.RemoveAll(dir)
	home, outputs := filepath.Join(dir, "home"), filepath.Join(dir, "outputs")
	if err := errors.Join(
		os.MkdirAll(filepath.Join(home, "bin"), 0o755),
		os.Mkdir(outputs, 0o755),
		os.Symlink(jnbd, filepath.Join(home, "bin", "jnbd")),
	); err != nil {
		return []string{err.Error()}
	}
	script, expected := scriptOf(blocks, outputs)

	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir = home
	cmd.Env = append(os.Environ(),
		"PATH="+filepath.Join(home, "bin")+":/usr/bin:/bin:/usr/sbin:/sbin", "HOME="+home, "LC_ALL=C.UTF-8")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its servers end with it
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		_ = cmd.Cancel() // what is left of it, if anything is
		problem("%v\n%s", err, out)
	}
	for _, e := range expected {
		printed, err := os.ReadFile(e.path)
		if err != nil {
			continue // the script ended before, and that is told already
		}
		if got := strings.Split(strings.TrimRight(string(printed), "\n"), "\n"); !Matches(e.want, trimmed(got)) {
			problem("%s: the document says\n%s\nand this was printed\n%s", e.where, strings.Join(e.want, "\n"), printed)
		}
	}
	return problems
}

// expectation is a file with what a command printed, and what a document says of it.
type expectation struct {
	where, path string
	want        []string
}

// scriptOf is a script that runs the blocks and leaves what their commands print in a
// directory.
func scriptOf(blocks []Block, outputs string) (string, []expectation) {
	var expected []expectation
	var script strings.Builder
	script.WriteString(prologue)
	step := 0
	for _, b := range blocks {
		where := fmt.Sprintf("%s:%d", b.File, b.Line)
		if b.Kind == CtrlC {
			script.WriteString("press_ctrl_c\n")
			continue
		}
		if b.Place != Here {
			continue
		}
		for i, c := range b.Commands {
			code := 0
			if i == len(b.Commands)-1 {
				code = b.Code
			}
			step++
			path := filepath.Join(outputs, fmt.Sprint(step))
			fmt.Fprintf(&script, "where=%s output=%s want=%d met=no\n", quote(where), quote(path), code)
			if b.Kind == Serve {
				fmt.Fprintf(&script, "start_server %s\n", quote(c.Text))
				continue
			}
			fmt.Fprintf(&script, "eval %s >\"$output\" 2>&1\ncheck\n", quote(c.Text))
			if c.Output != nil {
				expected = append(expected, expectation{where, path, c.Output})
			}
		}
	}
	script.WriteString("press_ctrl_c\n")
	return script.String(), expected
}

// trimmed is no line instead of one empty one.
func trimmed(lines []string) []string {
	if len(lines) == 1 && lines[0] == "" {
		return nil
	}
	return lines
}

// prologue is what the script of a document begins with. The first command that fails ends
// it, and says where; unless the document says that it fails.
const prologue = `
set -uE -o pipefail
exec 3>&2
where= output= want=0 met=no server=
trap 'on_error $?' ERR
fail() {
	trap - ERR
	echo "$where: $1" >&3
	cat "$output" "$output.log" >&3 2>/dev/null
	[ -z "$server" ] || kill -9 "$server"
	exit 1
}
on_error() {
	[ "$1" = "$want" ] || fail "exit code $1, want $want: $BASH_COMMAND"
	met=yes
}
check() {
	[ "$want" = 0 ] || [ "$met" = yes ] || fail "exit code 0, want $want"
}
start_server() {
	press_ctrl_c
	mkfifo "$output.ready"
	bash -c "exec $1" >"$output.ready" 2>"$output.log" &
	server=$!
	exec 4<"$output.ready"
	read -r -t 60 <&4 || fail "the server is not ready"
}
press_ctrl_c() {
	local code=0
	[ -n "$server" ] || return 0
	kill -INT "$server" 2>/dev/null || true
	wait "$server" || code=$?
	server=
	case $code in
	0 | 130 | 137) ;;
	*) fail "the server ended with $code" ;;
	esac
}
`

// quote is a word of bash.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
