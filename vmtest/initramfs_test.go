package vmtest

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"
)

// readArchive reads an archive back: names in order, and contents.
func readArchive(t *testing.T, archive []byte) (names []string, contents map[string]string) {
	t.Helper()
	contents = make(map[string]string)
	r := cpio.NewReader(bytes.NewReader(archive))
	for {
		header, err := r.Next()
		if err == io.EOF {
			return names, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, header.Name)
		contents[header.Name] = string(content)
	}
}

// TestBuildInitramfs: the archive holds what was put in, each name once, and each directory
// before what lies in it, since the kernel makes no directory by itself.
func TestBuildInitramfs(t *testing.T) {
	dir := t.TempDir()
	modules := filepath.Join(dir, "modules")
	if err := os.Mkdir(modules, 0o755); err != nil {
		t.Fatal(err)
	}
	images := make(map[string]string)
	for name, depends := range map[string]string{"nbd": "", "xfs": "virtio_ring,libcrc32c", "libcrc32c": "", "virtio_pci": "virtio_ring", "virtio_ring": "", "virtio_blk": "", "virtio_net": ""} {
		images[name] = string(fakeModule(t, "depends="+depends+"\x00"))
		if err := os.WriteFile(filepath.Join(modules, name+".ko"), []byte(images[name]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	init, err := os.Executable() // any static or dynamic program will do
	if err != nil {
		t.Fatal(err)
	}
	shell, err := findProgram("sh")
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	err = BuildInitramfs(&archive, Kernel{Release: "1.2.3", Modules: modules}, init, []Program{{"sh", shell}, {"bash", shell}}, "xfs")
	if err != nil {
		t.Fatal(err)
	}
	names, contents := readArchive(t, archive.Bytes())

	seen := map[string]bool{".": true}
	for _, name := range names {
		if seen[name] {
			t.Errorf("%s occurs twice", name)
		}
		if !seen[path.Dir(name)] {
			t.Errorf("%s comes before its directory", name)
		}
		seen[name] = true
	}
	for name, from := range map[string]string{"init": init, "bin/sh": shell, "bin/bash": shell} {
		want, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if contents[name] != string(want) {
			t.Errorf("%s: %d bytes that are not those of %s", name, len(contents[name]), from)
		}
	}
	var loaded []string
	for _, name := range names {
		if modules, ok := strings.CutPrefix(name, "modules/"); ok && path.Ext(name) == ".ko" {
			loaded = append(loaded, modules)
		}
	}
	want := []string{"00-virtio_ring.ko", "01-virtio_pci.ko", "02-virtio_blk.ko", "03-virtio_net.ko", "04-nbd.ko", "xfs/01-libcrc32c.ko", "xfs/02-xfs.ko"}
	if diff := cmp.Diff(want, loaded); diff != "" {
		t.Errorf("modules (-want +got):\n%s", diff)
	}
}

// TestFindLibraries holds our search against that of the host's own loader.
func TestFindLibraries(t *testing.T) {
	shell, err := findProgram("sh")
	if err != nil {
		t.Fatal(err)
	}
	found, err := findLibraries(shell)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ldd", shell).Output()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(out)) {
		soname, library, ok := strings.Cut(strings.TrimSpace(line), " => ") // libc.so.6 => /lib/… (0x…)
		if !ok {
			continue
		}
		want = append(want, soname)
		library, _, _ = strings.Cut(library, " ")
		same, err := sameFile(found.libraries[soname], library)
		if err != nil {
			t.Errorf("%s: %v", soname, err)
		} else if !same {
			t.Errorf("%s: found %s, the loader takes %s", soname, found.libraries[soname], library)
		}
	}
	var got []string
	for soname := range found.libraries {
		if soname != filepath.Base(found.loader) { // ldd shows the loader without an arrow
			got = append(got, soname)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" || len(want) == 0 {
		t.Errorf("libraries of %s (-ldd +found):\n%s", shell, diff)
	}
	if found.loader == "" {
		t.Errorf("%s has no loader", shell)
	}
}

func sameFile(a, b string) (bool, error) {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	if err := errors.Join(errA, errB); err != nil {
		return false, err
	}
	return os.SameFile(infoA, infoB), nil
}

// TestConfiguredDirs: includes, relative and not, comments, files that include each other.
func TestConfiguredDirs(t *testing.T) {
	dir := t.TempDir()
	more := filepath.Join(dir, "conf.d")
	if err := os.Mkdir(more, 0o755); err != nil {
		t.Fatal(err)
	}
	main := filepath.Join(dir, "ld.so.conf")
	for file, text := range map[string]string{
		main:                           "# comment\n/opt/first\ninclude conf.d/*.conf\n/opt/last # why\n",
		filepath.Join(more, "a.conf"):  "/opt/a\n\n",
		filepath.Join(more, "b.conf"):  "/opt/b\ninclude " + main,
		filepath.Join(more, "c.other"): "/opt/never\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"/opt/first", "/opt/a", "/opt/b", "/opt/last"}
	if diff := cmp.Diff(want, configuredDirs(main, nil)); diff != "" {
		t.Errorf("directories (-want +got):\n%s", diff)
	}
	if got := configuredDirs(filepath.Join(dir, "absent"), nil); len(got) != 0 {
		t.Errorf("a file that is not there names %q", got)
	}
}
