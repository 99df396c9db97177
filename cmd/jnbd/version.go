package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print which jnbd this is",
		Args:  exactArgs(),
		RunE: func(_ *cobra.Command, _ []string) error {
			version, revision := buildVersion()
			if asJSON {
				return printJSON(a.stdout, struct {
					Version  string `json:"version"`
					Revision string `json:"revision"`
					Go       string `json:"go"`
				}{version, revision, runtime.Version()})
			}
			_, err := fmt.Fprintf(a.stdout, "jnbd %s %s (%s)\n", version, revision, runtime.Version())
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// What scripts/release sets with -ldflags -X; empty in a binary built by hand.
var releaseVersion, releaseRevision string

// buildVersion is the release that the binary is of. Without one it is what the Go tool
// noted: the module's version, and the commit it was built from.
func buildVersion() (version, revision string) {
	if releaseVersion != "" {
		return releaseVersion, releaseRevision
	}
	version, revision = "(devel)", "unknown"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version, revision
	}
	if info.Main.Version != "" {
		version = info.Main.Version
	}
	for _, setting := range info.Settings {
		switch {
		case setting.Key == "vcs.revision":
			revision = setting.Value
		case setting.Key == "vcs.modified" && setting.Value == "true":
			revision += "+changes"
		}
	}
	return version, revision
}
