package main

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"jnbd/vmtest/step"
)

// TestWriteTree: what the guest says it wrote is what lies there, and nothing else does.
func TestWriteTree(t *testing.T) {
	dir := t.TempDir()
	written, err := writeTree(dir, 7, 30)
	if err != nil {
		t.Fatal(err)
	}
	read, err := step.Walk(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(names(written), names(read)); diff != "" || len(written) != 30 {
		t.Errorf("%d files (-written +read):\n%s", len(written), diff)
	}
	if _, err := writeTree(dir, 7, 30); err == nil {
		t.Error("a second tree in the same place is no error")
	}
}

// names is files under their names.
func names(files []step.File) map[string]step.File {
	named := make(map[string]step.File)
	for _, f := range files {
		named[f.Name] = f
	}
	return named
}

// TestStepsThatFail: what can't be done is an error, and never silence.
func TestStepsThatFail(t *testing.T) {
	var s server
	sayNothing := func(...step.File) error { return nil }
	for _, asked := range []step.Step{
		{Do: "no such step"},
		{Do: step.Read, Path: "/no/such/file"},
		{Do: step.Stop, PID: 1},
		{Do: step.Unmount, Dir: "/no/such/dir"},
		{Do: step.ReadTree, Dir: "/no/such/dir"},
		{Do: step.WriteTree, Dir: "/proc/no/such/dir", Files: 1},
		{Do: step.WriteSynced, Dir: "/proc/no/such/dir"},
	} {
		if answer, err := s.do(asked, sayNothing); err == nil {
			t.Errorf("%s answers %+v", asked.Do, answer)
		}
	}
	deaf := errors.New("nobody listens")
	_, err := s.do(step.Step{Do: step.WriteTree, Dir: t.TempDir(), Files: 1}, func(...step.File) error { return deaf })
	if !errors.Is(err, deaf) {
		t.Errorf("error %v, want %v", err, deaf)
	}
}
