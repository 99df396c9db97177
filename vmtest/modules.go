package vmtest

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// guestModules are what the guest's kernel must have: virtio's bus, its disk and its card,
// and the NBD client. What they need in turn comes by itself.
var guestModules = []string{"virtio_pci", "virtio_blk", "virtio_net", "nbd"}

// module is one kernel module, ready to be loaded.
type module struct {
	name  string
	image []byte // an ELF object, uncompressed
}

// orderModules returns the named modules of a module tree and all that they need, each
// after those it needs. The order comes from the `depends=` lines in the modules
// themselves, since an unpacked package has no modules.dep. Modules that the kernel has
// built in are left out.
func orderModules(tree string, names []string) ([]module, error) {
	paths, err := modulePaths(tree)
	if err != nil {
		return nil, err
	}
	builtin, err := builtinModules(tree)
	if err != nil {
		return nil, err
	}
	var ordered []module
	const visiting, finished = 1, 2
	state := make(map[string]int)
	var visit func(name string) error
	visit = func(name string) error {
		switch {
		case state[name] == finished || builtin[name]:
			return nil
		case state[name] == visiting:
			return fmt.Errorf("module %s needs itself", name)
		}
		state[name] = visiting
		path, ok := paths[name]
		if !ok {
			return fmt.Errorf("module %s is not below %s", name, tree)
		}
		image, err := readModule(path)
		if err != nil {
			return err
		}
		needed, err := moduleDepends(image)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, other := range needed {
			if err := visit(other); err != nil {
				return fmt.Errorf("module %s: %w", name, err)
			}
		}
		state[name] = finished
		ordered = append(ordered, module{name, image})
		return nil
	}
	for _, name := range names {
		if err := visit(moduleName(name)); err != nil {
			return nil, err
		}
	}
	return ordered, nil
}

// modulePaths finds every module file below tree, by its module's name.
func modulePaths(tree string) (map[string]string, error) {
	paths := make(map[string]string)
	err := filepath.WalkDir(tree, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base, _, isModule := strings.Cut(entry.Name(), ".ko")
		if isModule && entry.Type().IsRegular() {
			paths[moduleName(base)] = path
		}
		return nil
	})
	return paths, err
}

// builtinModules reads which modules are part of the kernel itself.
func builtinModules(tree string) (map[string]bool, error) {
	list, err := os.ReadFile(filepath.Join(tree, "modules.builtin"))
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	builtin := make(map[string]bool)
	for line := range strings.Lines(string(list)) {
		base := filepath.Base(strings.TrimSpace(line))
		builtin[moduleName(strings.TrimSuffix(base, ".ko"))] = true
	}
	return builtin, nil
}

// moduleName is a module's name as the kernel spells it: file names may have dashes where
// it has underscores.
func moduleName(name string) string {
	return strings.ReplaceAll(name, "-", "_")
}

// readModule reads a module file, .ko or .ko.xz.
func readModule(path string) ([]byte, error) {
	switch {
	case strings.HasSuffix(path, ".ko"):
		return os.ReadFile(path)
	case strings.HasSuffix(path, ".ko.xz"):
		image, err := exec.Command("xz", "-dc", path).Output()
		if err != nil {
			return nil, fmt.Errorf("unpack %s with xz: %w", path, err)
		}
		return image, nil
	}
	return nil, fmt.Errorf("%s: neither .ko nor .ko.xz", path)
}

// moduleDepends reads the names in a module's `depends=` line.
func moduleDepends(image []byte) ([]string, error) {
	object, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	section := object.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no .modinfo section: not a kernel module")
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf(".modinfo: %w", err)
	}
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		list, ok := strings.CutPrefix(string(entry), "depends=")
		if !ok || list == "" {
			continue
		}
		names := strings.Split(list, ",")
		for k := range names {
			names[k] = moduleName(names[k])
		}
		return names, nil
	}
	return nil, nil
}
