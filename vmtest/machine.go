package vmtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"jnbd/vmtest/step"
)

// dieTimeout is how long a killed QEMU may take to go. One that hangs inside the kernel
// may never do.
const dieTimeout = 10 * time.Second

// Config says what machine to start.
type Config struct {
	Kernel      Kernel
	Initramfs   string        // path of what BuildInitramfs wrote
	Accelerator string        // "kvm" or "tcg"
	Memory      int           // MiB; 0 means 512
	CPUs        int           // 0 means 2
	Recorded    *RecordedDisk // if not nil, /dev/vda; the others follow it
	Disks       []string      // raw image files: /dev/vda, /dev/vdb, …
	Root        string        // device with the root of a whole system that runs this package's guest; "" for the guest alone
	Network     bool          // with a card; the guest's 10.0.2.2 is the host's 127.0.0.1
	Deadline    time.Duration // the machine's whole life; 0 means 2 minutes. Then it is killed.
}

// Machine is a running virtual machine. Do may be called from many goroutines at once.
type Machine struct {
	cmd     *exec.Cmd
	console *console
	talk    *talk
	stderr  *firstWords // what QEMU itself had to say

	deadline *time.Timer
	gone     chan struct{} // closed when QEMU has ended and the console is read

	mu      sync.Mutex
	killed  string // why we killed it; "" when we did not
	waitErr error  // how QEMU ended; set before gone is closed
}

// Start starts a machine and waits until init takes steps, or until ctx ends. The caller
// must call Quit or Kill. Its error wraps ErrUnavailable when there is no QEMU.
func Start(ctx context.Context, config Config) (*Machine, error) {
	qemu, err := findProgram("qemu-system-x86_64")
	if err != nil {
		return nil, err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("start a machine: %w", err)
	}
	defer theirs.Close()
	m := &Machine{
		cmd:     exec.Command(qemu, config.arguments()...),
		console: newConsole(),
		talk:    newTalk(ours),
		stderr:  &firstWords{},
		gone:    make(chan struct{}),
	}
	m.cmd.ExtraFiles = []*os.File{theirs} // descriptor 3, see arguments
	m.cmd.Stderr = m.stderr
	// A test binary that dies (go test's own time limit) takes its machines along.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	screen, err := m.cmd.StdoutPipe()
	if err == nil {
		err = m.cmd.Start()
	}
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start a machine: %w", err)
	}
	m.deadline = time.AfterFunc(config.deadline(), func() { m.kill("it reached its deadline of " + config.deadline().String()) })
	go m.talk.listen() // ends when watch closes the port
	go m.watch(screen) // ends with QEMU
	select {
	case <-m.console.ready:
		return m, nil
	case <-m.gone:
		return nil, fmt.Errorf("start a machine: %w", m.obituary())
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("start a machine: %w", context.Cause(ctx)), m.Kill())
	}
}

// arguments is QEMU's command line.
func (c Config) arguments() []string {
	memory, cpus := c.Memory, c.CPUs
	if memory == 0 {
		memory = 512
	}
	if cpus == 0 {
		cpus = 2
	}
	accelerator := c.Accelerator
	if accelerator == "tcg" {
		accelerator = "tcg,thread=multi"
	}
	args := []string{
		"-accel", accelerator,
		"-M", "q35",
		"-cpu", "max", // crc32c and random numbers in hardware
		"-smp", strconv.Itoa(cpus),
		"-m", strconv.Itoa(memory),
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-kernel", c.Kernel.Image,
		"-initrd", c.Initramfs,
		"-append", c.kernelLine(),
		"-serial", "stdio", // the console
		"-chardev", "socket,id=steps,fd=3", // the socket of talk
		"-serial", "chardev:steps",
	}
	if c.Recorded != nil {
		args = append(args, c.Recorded.arguments()...)
	}
	for k, disk := range c.Disks {
		args = append(args,
			"-drive", fmt.Sprintf("if=none,id=disk%d,format=raw,discard=unmap,file=%s", k, quoted(disk)),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d", k))
	}
	if c.Network {
		args = append(args,
			"-netdev", "user,id=net0",
			"-device", "virtio-net-pci,netdev=net0,romfile=") // no boot from the network
	}
	return args
}

// kernelLine is the kernel's command line.
func (c Config) kernelLine() string {
	// What protects processes from each other takes a tenth of an emulated processor, and decides
	// nothing here.
	line := "console=ttyS0 quiet panic=-1 mitigations=off"
	if c.Root != "" {
		line += " " + step.RootOption + c.Root + " systemd.mask=serial-getty@ttyS0.service"
	}
	return line
}

// quoted is a path as a value of one of QEMU's options: a comma would end it, unless doubled.
func quoted(path string) string { return strings.ReplaceAll(path, ",", ",,") }

func (c Config) deadline() time.Duration {
	if c.Deadline == 0 {
		return 2 * time.Minute
	}
	return c.Deadline
}

// Do performs one step in the guest and waits for its end, at most until ctx ends or the
// machine does. onFile, which may be nil, gets each file as soon as the guest vouches for
// it; it must return soon. An error says what the guest said went wrong.
func (m *Machine) Do(ctx context.Context, asked step.Step, onFile func(step.File)) (step.Answer, error) {
	answer, err := m.talk.do(ctx, asked, onFile)
	if errors.Is(err, errGone) {
		<-m.gone
		err = m.obituary()
	}
	if err != nil {
		return answer, fmt.Errorf("guest: %s: %w", asked.Do, err)
	}
	return answer, nil
}

// Run runs a program in the guest and returns what it printed. An exit code other than 0
// is an error that holds it.
func (m *Machine) Run(ctx context.Context, args ...string) (string, error) {
	answer, err := m.Do(ctx, step.Step{Do: step.Run, Args: args}, nil)
	if err == nil && answer.Code != 0 {
		err = fmt.Errorf("guest: %s: exit code %d: %s", strings.Join(args, " "), answer.Code, answer.Out)
	}
	return answer.Out, err
}

// Quit ends the machine from inside and returns an error unless init printed its END.
func (m *Machine) Quit(ctx context.Context) error {
	// The reset may overtake the last answer, so an error counts only where the machine goes on.
	_, quitErr := m.talk.do(ctx, step.Step{Do: step.Quit}, nil)
	if err := m.Await(ctx); err != nil {
		return errors.Join(err, quitErr)
	}
	return nil
}

// Await waits until a machine ends that was told to, and returns an error unless init printed its
// END.
func (m *Machine) Await(ctx context.Context) error {
	select {
	case <-m.gone:
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("end of the machine: %w", context.Cause(ctx)), m.Kill())
	}
	if ended, _ := m.console.verdict(); !ended {
		return fmt.Errorf("end of the machine: %w", m.obituary())
	}
	return nil
}

// Kill ends the machine from outside, as if its plug were pulled; on a machine that is
// gone it does nothing. It returns an error when QEMU stays.
func (m *Machine) Kill() error {
	m.kill("Kill was called")
	timeout := time.NewTimer(dieTimeout)
	defer timeout.Stop()
	select {
	case <-m.gone:
		return nil
	case <-timeout.C:
		return fmt.Errorf("qemu (process %d) is still there %v after SIGKILL", m.cmd.Process.Pid, dieTimeout)
	}
}

// Console is the end of what the guest printed on its console, for a failing test to show.
func (m *Machine) Console() string {
	return m.console.String()
}

// kill sends SIGKILL to this QEMU and no other process.
func (m *Machine) kill(why string) {
	m.mu.Lock()
	if m.killed == "" {
		m.killed = why
	}
	m.mu.Unlock()
	// The only error is that it has ended already.
	_ = m.cmd.Process.Kill()
}

// watch reads the console until QEMU ends, and buries it.
func (m *Machine) watch(screen io.Reader) {
	m.console.watch(screen)
	err := m.cmd.Wait()
	m.deadline.Stop()
	m.talk.port.Close()
	m.mu.Lock()
	m.waitErr = err
	m.mu.Unlock()
	close(m.gone)
}

// obituary says how a machine ended that should not have. Call it after gone.
func (m *Machine) obituary() error {
	ended, failed := m.console.verdict()
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case failed != "":
		return fmt.Errorf("init failed: %s", failed)
	case m.killed != "":
		return fmt.Errorf("the machine was killed: %s", m.killed)
	case ended:
		return errors.New("the machine has ended")
	}
	return fmt.Errorf("the machine died without END (qemu: %v) %s; end of its console:\n%s", m.waitErr, m.stderr, m.console)
}

// socketPair makes the two ends of the line that carries steps.
func socketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	file := os.NewFile(uintptr(fds[0]), "steps")
	theirs = os.NewFile(uintptr(fds[1]), "steps (qemu)")
	ours, err = net.FileConn(file)
	if err = errors.Join(err, file.Close()); err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// firstWords keeps the first 4 KiB that a program says; QEMU says its reason first.
type firstWords struct {
	mu   sync.Mutex
	text []byte
}

func (w *firstWords) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if room := 4<<10 - len(w.text); room > 0 {
		w.text = append(w.text, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

func (w *firstWords) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.TrimSpace(string(w.text))
}
