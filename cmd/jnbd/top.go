package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"jnbd/metrics"
	"jnbd/metrics/top"
	"jnbd/nbd/nbdclient"
)

type topOptions struct {
	interval time.Duration
	once     bool
}

func (a *app) topCommand() *cobra.Command {
	options := topOptions{interval: time.Second}
	cmd := &cobra.Command{
		Use:   "top DISK|URI",
		Short: "Show what a disk that is served does, live",
		Long: `Top shows the log's ring with tail, head and barriers, rates, latencies, and what clients'
writes cost the host, and draws it anew every second. It asks the server over the control
socket beside the disk; a URI with a unix socket names that, too, if it is DISK.sock. With
http://HOST:PORT it asks the address of serve --metrics, from anywhere.

Keys: q ends it, tab shows the server's next disk. Where stdout is no terminal it prints one
picture, of one interval, and ends.`,
		Args: exactArgs("DISK"),
		RunE: func(_ *cobra.Command, args []string) error {
			if options.interval < 100*time.Millisecond {
				return usagef("--interval %s: want 100ms or longer", options.interval)
			}
			return a.top(args[0], options)
		},
	}
	cmd.Flags().DurationVar(&options.interval, "interval", options.interval, "how often to draw")
	cmd.Flags().BoolVar(&options.once, "once", false, "print one picture and end, also on a terminal")
	return cmd
}

// top is a client of a server's states and what it has of them.
func (a *app) top(target string, options topOptions) error {
	client, export, err := topClient(target)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, stopSignals := catchSignals()
	defer stopSignals()
	t := &topScreen{client: client, export: export, history: &top.History{}}
	if err := t.ask(ctx); err != nil {
		if errors.Is(err, metrics.ErrNoServer) {
			return fmt.Errorf("%w; is the disk being served?", err)
		}
		return err
	}
	file, ok := a.stdout.(*os.File)
	if !ok || options.once || !term.IsTerminal(int(file.Fd())) || !term.IsTerminal(int(os.Stdin.Fd())) {
		return a.topOnce(ctx, t, options.interval)
	}
	return t.run(ctx, file, options.interval)
}

// topClient is who to ask about a target, and of which export; empty for whichever the server
// says.
func topClient(target string) (client *metrics.Client, export string, err error) {
	switch {
	case strings.HasPrefix(target, "http://"):
		return metrics.NewHTTPClient(target), "", nil
	case !isURI(target):
		diskPath, err := resolveDisk(target)
		if err != nil {
			return nil, "", err
		}
		if _, err := os.Stat(diskPath); errors.Is(err, fs.ErrNotExist) {
			return nil, "", fmt.Errorf("disk %s: %w", diskPath, err)
		}
		return metrics.NewClient(metrics.ControlSocket(diskPath)), "", nil
	}
	uri, err := nbdclient.ParseURI(target)
	if err != nil {
		return nil, "", &usageError{err}
	}
	diskPath, ok := strings.CutSuffix(uri.Address, ".sock")
	if uri.Network != "unix" || !ok {
		return nil, "", usagef("%s does not tell where the server's control socket is: name the DISK, or http://HOST:PORT of serve --metrics", target)
	}
	return metrics.NewClient(metrics.ControlSocket(diskPath)), uri.Export, nil
}

// topScreen is what is known of a server, and what of it is shown.
type topScreen struct {
	client  *metrics.Client
	export  string
	now     *metrics.State
	earlier *metrics.State
	history *top.History
	problem error // why now is not of now
}

// ask gets a new state.
func (t *topScreen) ask(ctx context.Context) error {
	st, err := t.client.State(ctx)
	if err != nil {
		t.problem = err
		return err
	}
	if len(st.Disks) == 0 {
		return errors.New("the server has no disk")
	}
	t.problem, t.earlier, t.now = nil, t.now, st
	if t.export == "" {
		if t.export = st.Export; t.export == "" {
			t.export = st.Disks[0].Export
		}
	}
	if t.earlier != nil {
		rates := top.Between(t.earlier, t.now, t.export)
		t.history.Add(&rates)
	}
	return nil
}

// next shows the server's next disk.
func (t *topScreen) next() {
	at := 0
	for i := range t.now.Disks {
		if t.now.Disks[i].Export == t.export {
			at = i + 1
		}
	}
	t.export, t.history = t.now.Disks[at%len(t.now.Disks)].Export, &top.History{}
}

// lines is the picture.
func (t *topScreen) lines(width int, color bool) []string {
	view := top.View{Now: t.now, Earlier: t.earlier, Export: t.export, History: t.history, Width: width, Color: color}
	lines := view.Lines()
	if t.problem != nil {
		lines = append(lines, "", " "+t.problem.Error()+"; waiting for it")
	}
	return lines
}

// topOnce prints one picture, of the interval from now on.
func (a *app) topOnce(ctx context.Context, t *topScreen, interval time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(interval):
	}
	if err := t.ask(ctx); err != nil {
		return err
	}
	_, err := fmt.Fprintln(a.stdout, strings.Join(t.lines(100, false), "\n"))
	return err
}

// What a terminal is told: to show its second screen without a cursor, and the first again.
const (
	screenOn  = "\x1b[?1049h\x1b[?25l"
	screenOff = "\x1b[?25h\x1b[?1049l"
	homeward  = "\x1b[H"
	lineEnd   = "\x1b[K\r\n"
	clearRest = "\x1b[J"
)

// run draws until q, Ctrl-C or a signal. The terminal is as before afterwards.
func (t *topScreen) run(ctx context.Context, out *os.File, interval time.Duration) (err error) {
	stdin := int(os.Stdin.Fd())
	before, err := term.MakeRaw(stdin)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	if _, err := out.WriteString(screenOn); err != nil {
		return err
	}
	defer func() {
		_, failed := out.WriteString(screenOff)
		err = errors.Join(err, failed, term.Restore(stdin, before))
	}()
	color := os.Getenv("NO_COLOR") == ""
	for {
		if err := t.draw(out, color); err != nil {
			return err
		}
		for until := time.Now().Add(interval); time.Now().Before(until); {
			key, err := awaitKey(ctx, stdin, time.Until(until))
			switch {
			case err != nil:
				return err
			case key == 'q':
				return nil
			case key == 3: // Ctrl-C, which a raw terminal does not make a signal of
				return errInterrupted
			case key == '\t':
				t.next()
				until = time.Now()
			}
		}
		_ = t.ask(ctx) // it is shown, and asked again
	}
}

// draw draws the picture over the last one, as much of it as there is room for.
func (t *topScreen) draw(out *os.File, color bool) error {
	width, height, err := term.GetSize(int(out.Fd()))
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	lines := append(t.lines(width, color), "", " q: quit   tab: next disk")
	lines = lines[:min(len(lines), max(1, height-1))]
	_, err = out.WriteString(homeward + strings.Join(lines, lineEnd) + lineEnd + clearRest)
	return err
}

// awaitKey waits so long for a key; 0 if none came.
func awaitKey(ctx context.Context, stdin int, wait time.Duration) (key byte, err error) {
	ready := []unix.PollFd{{Fd: int32(stdin), Events: unix.POLLIN}}
	n, err := unix.Poll(ready, int(max(0, wait).Milliseconds())+1)
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if errors.Is(err, unix.EINTR) || err == nil && n == 0 {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("terminal: %w", err)
	}
	var b [1]byte
	if n, err = unix.Read(stdin, b[:]); err != nil || n == 0 {
		return 'q', nil // the terminal is gone
	}
	return b[0], nil
}
