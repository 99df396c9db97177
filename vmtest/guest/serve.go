package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"jnbd/vmtest/step"
)

// openPort opens a serial port for bytes as they are: no echo, no line editing.
func openPort(path string) (*os.File, error) {
	port, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the port for steps: %w", err)
	}
	raw, err := port.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("open the port for steps: %w", err)
	}
	var modeErr error
	err = raw.Control(func(fd uintptr) {
		modeErr = unix.IoctlSetTermios(int(fd), unix.TCSETS, &unix.Termios{
			Cflag:  unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200,
			Ispeed: unix.B115200,
			Ospeed: unix.B115200,
			Cc:     [19]uint8{unix.VMIN: 1},
		})
	})
	if err == nil {
		err = modeErr
	}
	if err != nil {
		return nil, fmt.Errorf("set %s to raw mode: %w", path, err)
	}
	return port, nil
}

// server takes steps from the host.
type server struct {
	programs programs

	mu   sync.Mutex // one line at a time on the port
	port io.Writer
}

// serve takes steps until Quit. Steps that run then are cut off with the machine.
func serve(port io.ReadWriter) error {
	s := &server{port: port}
	lines := step.NewScanner(port)
	for lines.Scan() {
		var asked step.Step
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			return fmt.Errorf("step %q: %w", lines.Text(), err)
		}
		if asked.Do == step.Quit {
			return s.send(step.Answer{ID: asked.ID, Done: true})
		}
		// Ends with the step, at the latest with the machine.
		go s.perform(asked)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("take steps: %w", err)
	}
	return fmt.Errorf("take steps: the port is closed")
}

// perform does one step and answers it.
func (s *server) perform(asked step.Step) {
	say := func(files ...step.File) error {
		for part := range slices.Chunk(files, step.MaxFiles) {
			if err := s.send(step.Answer{ID: asked.ID, Files: part}); err != nil {
				return err
			}
		}
		return nil
	}
	answer, err := s.do(asked, say)
	answer.ID, answer.Done = asked.ID, true
	if err != nil {
		answer.Err = err.Error()
	}
	if err := s.send(answer); err != nil {
		mark(step.Fail + " " + err.Error())
	}
}

// send writes one answer to the port.
func (s *server) send(answer step.Answer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return step.WriteLine(s.port, answer)
}
