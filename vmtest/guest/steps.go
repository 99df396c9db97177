package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"jnbd/vmtest/step"
)

// do performs a step. It calls say for files as soon as they are what the step makes them.
func (s *server) do(asked step.Step, say func(...step.File) error) (step.Answer, error) {
	switch asked.Do {
	case step.Run:
		return s.programs.run(asked.Args)
	case step.Start:
		return s.programs.start(asked.Args, asked.Notify)
	case step.Stop:
		return s.programs.stop(asked.PID, unix.Signal(asked.Signal))
	case step.Read:
		text, err := os.ReadFile(asked.Path)
		return step.Answer{Out: step.Tail(text)}, err
	case step.Load:
		return step.Answer{}, loadModules(asked.Path)
	case step.KernelLog:
		warnings, err := kernelLog(asked.Options)
		return step.Answer{Out: step.Tail(warnings)}, err
	case step.Blocked:
		blocked, err := blockedThreads()
		return step.Answer{Out: step.Tail(blocked)}, err
	case step.WriteBlock:
		return step.Answer{}, writeBlock(asked.Device, asked.Offset, step.Block(asked.Seed))
	case step.ReadBlock:
		block, err := readBlock(asked.Device, asked.Offset)
		return step.Answer{}, errors.Join(err, say(step.Describe(asked.Device, block)))
	case step.Mount:
		return step.Answer{}, mount(asked)
	case step.Unmount:
		return step.Answer{}, unmount(asked.Dir)
	case step.WriteTree:
		files, err := writeTree(asked.Dir, asked.Seed, asked.Files)
		return step.Answer{}, errors.Join(err, say(files...))
	case step.ReadTree:
		files, err := step.Walk(asked.Dir)
		return step.Answer{}, errors.Join(err, say(files...))
	case step.WriteSynced:
		return step.Answer{}, writeSynced(asked.Dir, asked.Seed, asked.Files, say)
	case step.UseMemory:
		return step.Answer{}, useMemory(asked.Size, asked.Limit, asked.Seed)
	case step.MoveClock:
		if asked.Dir != "" {
			if err := unmount(asked.Dir); err != nil {
				return step.Answer{}, err
			}
		}
		return step.Answer{}, moveClock(asked.Seconds)
	}
	return step.Answer{}, fmt.Errorf("unknown step %q", asked.Do)
}

// moveClock sets the clock, as an operator or a time daemon does.
func moveClock(seconds int64) error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	if err := unix.Settimeofday(&unix.Timeval{Sec: now.Sec + seconds}); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}

// mount mounts a file system. Its directory is made when it is not there.
func mount(asked step.Step) error {
	if err := os.MkdirAll(asked.Dir, 0o755); err != nil {
		return err
	}
	kind := cmp.Or(asked.Type, "ext4")
	if err := unix.Mount(asked.Device, asked.Dir, kind, 0, asked.Options); err != nil {
		return fmt.Errorf("mount %s at %s as %s: %w", asked.Device, asked.Dir, kind, err)
	}
	return nil
}

// unmount unmounts dir, and waits until its last dirty block is written or has failed.
func unmount(dir string) error {
	if err := unix.Unmount(dir, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}
