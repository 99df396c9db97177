package mutation

import (
	"errors"
	"fmt"
	"strings"
)

// The table of breakages stands in docs/crash-testing.md between these two lines.
const (
	tableBegin = "<!-- breakages: begin; written by JNBD_UPDATE=1 go test ./mutation -->\n"
	tableEnd   = "<!-- breakages: end -->\n"
)

// table is the list as a table in Markdown.
func table(list []Breakage) string {
	var t strings.Builder
	fmt.Fprintf(&t, "| Breakage | What is done wrong | Breaks | Caught by |\n|---|---|---|---|\n")
	for _, b := range list {
		fmt.Fprintf(&t, "| `%s` | %s | %s | `%s` %s |\n", b.Name, b.What, b.Breaks, b.Package, strings.ReplaceAll(b.Run, "|", ", "))
	}
	return t.String()
}

// withTable returns page with the table of list in its place.
func withTable(page string, list []Breakage) (string, error) {
	before, rest, ok := strings.Cut(page, tableBegin)
	_, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		return "", errors.New("the page has no place for the table of breakages")
	}
	return before + tableBegin + "\n" + table(list) + "\n" + tableEnd + after, nil
}
