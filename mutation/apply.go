package mutation

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// apply returns the content of each file that b changes, by its path from the root.
func (b *Breakage) apply(root string) (map[string]string, error) {
	changed := map[string]string{}
	for _, e := range b.Edits {
		text, ok := changed[e.File]
		if !ok {
			content, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(e.File)))
			if err != nil {
				return nil, fmt.Errorf("breakage %s: %w", b.Name, err)
			}
			text = string(content)
		}
		after, err := e.apply(text)
		if err != nil {
			return nil, fmt.Errorf("breakage %s no longer fits %s: %w\nchange it to what does the same harm now",
				b.Name, e.File, err)
		}
		changed[e.File] = after
	}
	return changed, nil
}

// apply replaces e's lines in text, where they must stand exactly once.
func (e *Edit) apply(text string) (string, error) {
	lined, old := "\n"+text, "\n"+e.Old
	at := strings.Index(lined, old)
	if at < 0 {
		return "", fmt.Errorf("these lines do not stand there:\n%s", e.Old)
	}
	if strings.Contains(lined[at+1:], old) {
		return "", fmt.Errorf("these lines stand there more than once:\n%s", e.Old)
	}
	return (lined[:at] + "\n" + e.New + lined[at+len(old):])[1:], nil
}

// overlay writes the changed files and the list of them that `go build -overlay` takes into
// dir, and returns the list's path.
func (b *Breakage) overlay(root, dir string) (string, error) {
	changed, err := b.apply(root)
	if err != nil {
		return "", err
	}
	return writeOverlay(root, dir, changed)
}

// writeOverlay is overlay for files by their paths from the root, of which some may be new.
func writeOverlay(root, dir string, changed map[string]string) (string, error) {
	replace := map[string]string{}
	for file, text := range changed {
		to := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
			return "", err
		}
		replace[filepath.Join(root, filepath.FromSlash(file))] = to
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, list, 0o644)
}
