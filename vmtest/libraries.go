package vmtest

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// findProgram returns the path of a program of the host. Programs for administrators are
// found too, though they are not in every user's PATH.
func findProgram(name string) (string, error) {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: the program %s; install it", ErrUnavailable, name)
}

// sharedObjects is what a dynamic program needs to run elsewhere.
type sharedObjects struct {
	loader    string            // path of the program interpreter, "" for a static program
	libraries map[string]string // soname → path
}

// findLibraries follows DT_NEEDED from the program at path, and finds each library as
// ld.so does: in the RUNPATH of the object that needs it, in the directories of
// /etc/ld.so.conf, in the system's own. A static program needs nothing.
func findLibraries(path string) (sharedObjects, error) {
	found := sharedObjects{libraries: make(map[string]string)}
	system := append(configuredDirs("/etc/ld.so.conf", nil), "/lib64", "/usr/lib64", "/lib", "/usr/lib")
	queue := []string{path}
	for len(queue) > 0 {
		object := queue[0]
		queue = queue[1:]
		links, err := readLinks(object)
		if err != nil {
			return sharedObjects{}, fmt.Errorf("libraries of %s: %w", object, err)
		}
		if links.loader != "" && object == path {
			found.loader = links.loader
		}
		for _, soname := range links.needed {
			if found.libraries[soname] != "" {
				continue
			}
			library, ok := firstLibrary(soname, links.class, append(slices.Clone(links.runpath), system...))
			if !ok {
				return sharedObjects{}, fmt.Errorf("libraries of %s: %s is in no library directory", object, soname)
			}
			found.libraries[soname] = library
			queue = append(queue, library)
		}
	}
	return found, nil
}

// links is what an ELF file says of the files it needs.
type links struct {
	class   elf.Class
	loader  string
	needed  []string
	runpath []string
}

// readLinks reads the links of the ELF file at path.
func readLinks(path string) (_ links, err error) {
	object, err := elf.Open(path)
	if err != nil {
		return links{}, err
	}
	defer func() { err = errors.Join(err, object.Close()) }()
	l := links{class: object.Class}
	for _, segment := range object.Progs {
		if segment.Type != elf.PT_INTERP {
			continue
		}
		name := make([]byte, segment.Filesz)
		if _, err := segment.ReadAt(name, 0); err != nil {
			return links{}, fmt.Errorf("interpreter: %w", err)
		}
		l.loader = strings.TrimRight(string(name), "\x00")
	}
	if l.needed, err = dynamicStrings(object, elf.DT_NEEDED); err != nil {
		return links{}, err
	}
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		lists, err := dynamicStrings(object, tag)
		if err != nil {
			return links{}, err
		}
		for _, list := range lists {
			for _, dir := range filepath.SplitList(list) {
				l.runpath = append(l.runpath, strings.ReplaceAll(dir, "$ORIGIN", filepath.Dir(path)))
			}
		}
	}
	return l, nil
}

// dynamicStrings reads the strings of a dynamic tag. An object without a dynamic section
// has none.
func dynamicStrings(object *elf.File, tag elf.DynTag) ([]string, error) {
	if object.Section(".dynamic") == nil {
		return nil, nil
	}
	return object.DynString(tag)
}

// firstLibrary finds the first directory that holds soname in the right word size.
func firstLibrary(soname string, class elf.Class, dirs []string) (string, bool) {
	for _, dir := range dirs {
		path := filepath.Join(dir, soname)
		if l, err := readLinks(path); err == nil && l.class == class {
			return path, true
		}
	}
	return "", false
}

// configuredDirs reads the directories in an ld.so.conf and in the files it includes. A
// file that is not there names none, nor does one that includes itself by way of above,
// the files that led here.
func configuredDirs(path string, above []string) []string {
	if slices.Contains(above, path) {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	above = append(slices.Clone(above), path)
	var dirs []string
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		switch {
		case len(words) == 2 && words[0] == "include":
			for _, included := range includedFiles(path, words[1]) {
				dirs = append(dirs, configuredDirs(included, above)...)
			}
		case len(words) == 1:
			dirs = append(dirs, words[0])
		}
	}
	return dirs
}

// includedFiles are the files that match a pattern in the file at path. A pattern without
// sense matches none, as for ld.so.
func includedFiles(path, pattern string) []string {
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(path), pattern)
	}
	files, err := filepath.Glob(pattern)
	if err != nil {
		return nil
	}
	return files
}
