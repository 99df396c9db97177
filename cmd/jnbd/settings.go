package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Where a setting comes from, the first that has it: flag, environment (JNBD_NAME), the
// file's table of the export, the file's top, default.

// envName is the variable that stands for a flag.
func envName(flag string) string {
	return "JNBD_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// applyEnvironment sets the flags that were not given and have a variable.
func applyEnvironment(flags *pflag.FlagSet) error {
	var failed error
	flags.VisitAll(func(f *pflag.Flag) {
		value, ok := os.LookupEnv(envName(f.Name))
		if !ok || f.Changed || f.Name == "help" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			failed = errors.Join(failed, usagef("%s: %w", envName(f.Name), err))
		}
	})
	return failed
}

// givenFlags are the names of the flags that were set.
func givenFlags(flags *pflag.FlagSet) map[string]bool {
	given := map[string]bool{}
	flags.Visit(func(f *pflag.Flag) { given[f.Name] = true })
	return given
}

// settable reports whether a file may set a flag.
func settable(flag string) bool { return flag != "help" && flag != "config" }

// apply sets flags by the file's settings, but for those that were given otherwise.
func (c *config) apply(flags *pflag.FlagSet, settings []setting, given map[string]bool) error {
	for _, s := range settings {
		f := flags.Lookup(s.key)
		if f == nil || !settable(s.key) {
			return usagef("%s:%d: unknown key %q%s", c.path, s.line, s.key, didYouMean(flags, s.key))
		}
		if given[s.key] {
			continue
		}
		if err := setFlag(flags, f, s.values); err != nil {
			return usagef("%s:%d: %s: %w", c.path, s.line, s.key, err)
		}
	}
	return nil
}

// setFlag sets one flag.
func setFlag(flags *pflag.FlagSet, f *pflag.Flag, values []string) error {
	if list, ok := f.Value.(pflag.SliceValue); ok {
		f.Changed = true
		return list.Replace(values)
	}
	if len(values) != 1 {
		return errors.New("want one value, not an array")
	}
	return flags.Set(f.Name, values[0])
}

// didYouMean names the flag that a mistyped one may have meant.
func didYouMean(flags *pflag.FlagSet, key string) string {
	spelled := func(s string) string { return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(s)) }
	sorted := func(s string) string {
		letters := []rune(spelled(s))
		slices.Sort(letters)
		return string(letters)
	}
	meant := ""
	flags.VisitAll(func(f *pflag.Flag) {
		if settable(f.Name) && sorted(f.Name) == sorted(key) {
			meant = fmt.Sprintf("; did you mean %q?", f.Name)
		}
	})
	return meant
}
