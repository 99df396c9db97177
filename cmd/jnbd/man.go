package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The manual: one page in man(7)'s language for each command, made from the same texts as
// its --help, so that neither can say what the other doesn't. Packages ship them.

// manSection is where the pages stand: user commands.
const manSection = "1"

func (a *app) manCommand() *cobra.Command {
	var date string
	cmd := &cobra.Command{
		Use:   "man DIRECTORY",
		Short: "Write the manual pages into a directory",
		Long: `Man writes one manual page for each command into DIRECTORY, which is made if it is
not there. It is how the packages get theirs.`,
		Hidden: true,
		Args:   exactArgs("DIRECTORY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := time.Parse(time.DateOnly, date); err != nil {
				return usagef("--date %q: want a day like 2026-02-28", date)
			}
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("write manual: %w", err)
			}
			return writeManual(cmd.Root(), args[0], date)
		},
	}
	cmd.Flags().StringVar(&date, "date", time.Now().UTC().Format(time.DateOnly), "the `DAY` that the pages bear; give it for pages that are the same each time")
	return cmd
}

// writeManual writes the page of a command and those of the commands below it.
func writeManual(cmd *cobra.Command, directory, date string) error {
	path := filepath.Join(directory, manName(cmd)+"."+manSection)
	if err := os.WriteFile(path, []byte(manPage(cmd, date)), 0o644); err != nil {
		return fmt.Errorf("write manual: %w", err)
	}
	for _, below := range manCommands(cmd) {
		if err := writeManual(below, directory, date); err != nil {
			return err
		}
	}
	return nil
}

// manCommands are those below cmd that get a page of their own. The shells that completion
// knows are not worth one each.
func manCommands(cmd *cobra.Command) []*cobra.Command {
	var found []*cobra.Command
	for _, below := range cmd.Commands() {
		if below.IsAvailableCommand() && cmd.Name() != "completion" {
			found = append(found, below)
		}
	}
	return found
}

// manName is jnbd, jnbd-serve, and so on.
func manName(cmd *cobra.Command) string {
	return strings.ReplaceAll(cmd.CommandPath(), " ", "-")
}

// manPage is the page of one command.
func manPage(cmd *cobra.Command, date string) string {
	version, _ := buildVersion()
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s %s %s \"jnbd %s\" \"User Commands\"\n", roff(strings.ToUpper(manName(cmd))), manSection, date, roff(version))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(manName(cmd)), roff(cmd.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n%s\n", manSynopsis(cmd))
	long := cmd.Long
	if long == "" {
		long = cmd.Short + "."
	}
	b.WriteString(".SH DESCRIPTION\n" + manText(long))
	if cmd.Example != "" {
		b.WriteString(".SH EXAMPLES\n.nf\n" + roffLines(cmd.Example) + ".fi\n")
	}
	manFlags(&b, "OPTIONS", cmd.NonInheritedFlags())
	manFlags(&b, "GLOBAL OPTIONS", cmd.InheritedFlags())
	if below := manCommands(cmd); len(below) > 0 {
		b.WriteString(".SH COMMANDS\n")
		for _, c := range below {
			fmt.Fprintf(&b, ".TP\n.BR %s (%s)\n%s\n", roff(manName(c)), manSection, roff(c.Short))
		}
	}
	b.WriteString(".SH EXIT STATUS\n")
	for _, e := range exitMeanings {
		fmt.Fprintf(&b, ".TP\n.B %d\n%s\n", e.code, roff(e.meaning))
	}
	b.WriteString(".SH SEE ALSO\n" + manSeeAlso(cmd))
	return b.String()
}

// manSynopsis is the command in bold, and what follows it as in --help.
func manSynopsis(cmd *cobra.Command) string {
	_, operands, _ := strings.Cut(cmd.Use, " ")
	if len(manCommands(cmd)) > 0 {
		operands = "COMMAND"
	}
	return ".B " + roff(cmd.CommandPath()) + "\n" + roff(strings.TrimSpace("[OPTION...] "+operands))
}

// manText sets the paragraphs of a help text. One that is indented keeps its form.
func manText(text string) string {
	var b strings.Builder
	for i, paragraph := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			b.WriteString(".PP\n")
		}
		if strings.HasPrefix(paragraph, " ") || strings.HasPrefix(paragraph, "\t") {
			b.WriteString(".nf\n" + roffLines(paragraph) + ".fi\n")
			continue
		}
		b.WriteString(roffLines(paragraph))
	}
	return b.String()
}

// manFlags lists flags, if there are any.
func manFlags(b *strings.Builder, title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	fmt.Fprintf(b, ".SH %s\n", title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		b.WriteString(".TP\n")
		if f.Shorthand != "" {
			fmt.Fprintf(b, "\\fB\\-%s\\fR, ", f.Shorthand)
		}
		fmt.Fprintf(b, "\\fB\\-\\-%s\\fR", roff(f.Name))
		if value != "" {
			fmt.Fprintf(b, "=\\fI%s\\fR", roff(strings.ToUpper(value)))
		}
		fmt.Fprintf(b, "\n%s", roff(usage))
		if d := f.DefValue; d != "" && d != "false" && d != "0" && d != "[]" && !strings.Contains(usage, "(default") {
			fmt.Fprintf(b, " (default %s)", roff(d))
		}
		b.WriteString("\n")
	})
}

// manSeeAlso names the pages beside this one.
func manSeeAlso(cmd *cobra.Command) string {
	root, names := cmd.Root(), []string{}
	if cmd != root {
		names = append(names, manName(root))
	}
	for _, other := range manCommands(root) {
		if other != cmd {
			names = append(names, manName(other))
		}
	}
	var b strings.Builder
	for i, name := range names {
		comma := ","
		if i == len(names)-1 {
			comma = ""
		}
		fmt.Fprintf(&b, ".BR %s (%s)%s\n", roff(name), manSection, comma)
	}
	return b.String()
}

// roff writes a line of text so that man(7) takes no part of it for its own: backslashes,
// hyphens that must stay hyphens, quotes, and a dot at the beginning of a line.
func roff(line string) string {
	line = strings.NewReplacer(`\`, `\e`, "-", `\-`, `"`, `\(dq`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, "…", "...").Replace(line)
	if strings.HasPrefix(line, ".") {
		line = `\&` + line
	}
	return line
}

// roffLines is roff for several lines, each ended.
func roffLines(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(roff(strings.TrimRight(line, "\n")) + "\n")
	}
	return b.String()
}
