package vmtest

import (
	"fmt"
	"io"
	"os"
	"path"
	"slices"

	"github.com/cavaliergopher/cpio"
)

// guestLibraries is where the guest has its shared libraries: all in one directory, which
// init names in LD_LIBRARY_PATH.
const guestLibraries = "lib/programs"

// Program is an executable file of the host that the guest gets as /bin/Name.
type Program struct {
	Name string
	Path string
}

// HostPrograms finds programs of the host by their names. Its error wraps ErrUnavailable
// when one is missing.
func HostPrograms(names ...string) ([]Program, error) {
	var programs []Program
	for _, name := range names {
		found, err := findProgram(name)
		if err != nil {
			return nil, err
		}
		programs = append(programs, Program{name, found})
	}
	return programs, nil
}

// BuildInitramfs writes the guest's root file system as an uncompressed newc archive: the
// program at init as /init, the modules of kernel that the guest needs as
// /modules/NN-NAME.ko, numbered in the order in which they must be loaded, and the
// programs with their libraries. For each name of more, /modules/NAME/ holds that module and
// what it needs beyond those, for a step to load.
func BuildInitramfs(w io.Writer, kernel Kernel, init string, programs []Program, more ...string) error {
	a := newArchive(w)
	if err := a.copyFile("init", init, 0o755); err != nil {
		return err
	}
	loaded, err := a.addModules("modules", kernel, guestModules, nil)
	if err != nil {
		return err
	}
	for _, name := range more {
		if _, err := a.addModules(path.Join("modules", name), kernel, []string{name}, loaded); err != nil {
			return err
		}
	}
	for _, program := range programs {
		if err := a.addProgram(program); err != nil {
			return err
		}
	}
	// mkfs.ext4 takes its defaults from here, as on any Debian.
	const defaults = "etc/mke2fs.conf"
	if _, err := os.Stat("/" + defaults); err == nil {
		if err := a.copyFile(defaults, "/"+defaults, 0o644); err != nil {
			return err
		}
	}
	return a.close()
}

// archive writes a newc archive in which each name occurs once, after its directory.
type archive struct {
	w     *cpio.Writer
	added map[string]bool
}

func newArchive(w io.Writer) *archive {
	return &archive{w: cpio.NewWriter(w), added: map[string]bool{".": true}}
}

// addModules adds the named modules and what they need, in their order, to the directory dir,
// but for those in without. It returns the names it has added.
func (a *archive) addModules(dir string, kernel Kernel, names, without []string) (added []string, err error) {
	modules, err := orderModules(kernel.Modules, names)
	if err != nil {
		return nil, fmt.Errorf("modules of kernel %s: %w", kernel.Release, err)
	}
	for k, m := range modules {
		if slices.Contains(without, m.name) {
			continue
		}
		if err := a.addFile(fmt.Sprintf("%s/%02d-%s.ko", dir, k, m.name), m.image, 0o644); err != nil {
			return nil, err
		}
		added = append(added, m.name)
	}
	return added, nil
}

// addProgram adds a program, its loader and its libraries.
func (a *archive) addProgram(program Program) error {
	if err := a.copyFile("bin/"+program.Name, program.Path, 0o755); err != nil {
		return err
	}
	needs, err := findLibraries(program.Path)
	if err != nil {
		return err
	}
	if needs.loader != "" {
		if err := a.copyFile(needs.loader[1:], needs.loader, 0o755); err != nil {
			return err
		}
	}
	for soname, found := range needs.libraries {
		if err := a.copyFile(path.Join(guestLibraries, soname), found, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// copyFile adds a file of the host, through symbolic links.
func (a *archive) copyFile(name, from string, mode cpio.FileMode) error {
	if a.added[name] {
		return nil
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return a.addFile(name, content, mode)
}

// addFile adds a file and the directories above it. The first file of a name stays.
func (a *archive) addFile(name string, content []byte, mode cpio.FileMode) error {
	if a.added[name] {
		return nil
	}
	if err := a.addDir(path.Dir(name)); err != nil {
		return err
	}
	a.added[name] = true
	header := &cpio.Header{Name: name, Mode: cpio.TypeReg | mode, Size: int64(len(content)), Links: 1}
	if err := a.w.WriteHeader(header); err != nil {
		return fmt.Errorf("initramfs: %s: %w", name, err)
	}
	if _, err := a.w.Write(content); err != nil {
		return fmt.Errorf("initramfs: %s: %w", name, err)
	}
	return nil
}

// addDir adds a directory and those above it.
func (a *archive) addDir(name string) error {
	if a.added[name] {
		return nil
	}
	if err := a.addDir(path.Dir(name)); err != nil {
		return err
	}
	a.added[name] = true
	if err := a.w.WriteHeader(&cpio.Header{Name: name, Mode: cpio.TypeDir | 0o755, Links: 2}); err != nil {
		return fmt.Errorf("initramfs: %s: %w", name, err)
	}
	return nil
}

func (a *archive) close() error {
	if err := a.w.Close(); err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	return nil
}
