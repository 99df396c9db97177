package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the test binary be jnbd itself, and nbdio, when scripts call them.
func TestMain(m *testing.M) {
	testscript.Main(tidy{m}, map[string]func(){
		"jnbd":  main,
		"nbdio": func() { os.Exit(nbdio(os.Args[1:])) },
	})
}

// tidy runs the tests and removes the binary that some of them built.
type tidy struct{ m *testing.M }

func (t tidy) Run() int {
	defer removeBinary()
	return t.m.Run()
}

// TestScripts runs testdata/script, one behaviour of the command line per file.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		Cmds:                scriptCommands(),
		RequireExplicitExec: true,
		Condition:           scriptCondition,
	})
}

// TestScriptsInEachMode runs testdata/modes, where $MODE is each mode in turn.
func TestScriptsInEachMode(t *testing.T) {
	for _, mode := range []string{"data", "ordered", "auto"} {
		t.Run(mode, func(t *testing.T) {
			testscript.Run(t, testscript.Params{
				Dir:                 "testdata/modes",
				Cmds:                scriptCommands(),
				RequireExplicitExec: true,
				Condition:           scriptCondition,
				Setup: func(env *testscript.Env) error {
					env.Setenv("MODE", mode)
					return nil
				},
			})
		})
	}
}
