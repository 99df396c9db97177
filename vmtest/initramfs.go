package vmtest

import (
	"fmt"
	"io"
	"os"
	"path"

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
// programs with their libraries.
func BuildInitramfs(w io.Writer, kernel Kernel, init string, programs []Program) error {
	a := newArchive(w)
	if err := a.copyFile("init", init, 0o755); err != nil {
		return err
	}
	modules, err := orderModules(kernel.Modules, guestModules)
	if err != nil {
		return fmt.Errorf("modules of kernel %s: %w", kernel.Release, err)
	}
	for k, m := range modules {
		if err := a.addFile(fmt.Sprintf("modules/%02d-%s.ko", k, m.name), m.image, 0o644); err != nil {
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
