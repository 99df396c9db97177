package packaging

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"jnbd/testtool"
)

// install installs the .deb into an empty system of its own, a directory, and returns that.
// The machine stays as it was.
func install(t *testing.T) string {
	t.Helper()
	testtool.Need(t, "dpkg", "systemd-sysusers")
	root := t.TempDir()
	for _, dir := range []string{"info", "updates", "triggers"} {
		if err := os.MkdirAll(filepath.Join(root, "var/lib/dpkg", dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	dpkg(t, root, "--install", debFile(t))
	return root
}

// dpkg runs dpkg on the system below root. Its scripts run with DPKG_ROOT set and look there
// for everything. Without root's rights a user namespace gives what looks like them.
func dpkg(t *testing.T, root string, args ...string) string {
	t.Helper()
	words := append([]string{
		"dpkg", "--root=" + root, "--force-script-chrootless", "--log=" + os.DevNull,
		"--path-include=/*", // minimal systems are told to leave manuals out
	}, args...)
	if os.Getuid() != 0 {
		words = append([]string{"unshare", "--map-root-user"}, words...)
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

// TestDebLivesAndDies installs the package, changes its configuration, upgrades, removes and
// purges it. Configuration that was changed outlives all but the purge, disks outlive that
// as well.
func TestDebLivesAndDies(t *testing.T) {
	root := install(t)
	if out := run(t, filepath.Join(root, "usr/bin/jnbd"), "version"); !strings.HasPrefix(out, "jnbd "+version+" ") {
		t.Errorf("the installed program says %q, want version %s", out, version)
	}
	if passwd := string(read(t, filepath.Join(root, "etc/passwd"))); !strings.Contains(passwd, "jnbd:x:") {
		t.Errorf("no user jnbd: %q", passwd)
	}
	conffile := filepath.Join(root, "etc/jnbd/example.toml")
	if out := dpkg(t, root, "--status", "jnbd"); !strings.Contains(out, "/etc/jnbd/example.toml ") {
		t.Errorf("/etc/jnbd/example.toml is no conffile:\n%s", out)
	}
	changed := append(read(t, conffile), "# changed here\n"...)
	image := filepath.Join(root, "var/lib/jnbd/disk.img")
	if err := errors.Join(
		os.WriteFile(conffile, changed, 0o644),
		os.MkdirAll(filepath.Dir(image), 0o750),
		os.WriteFile(image, []byte("a disk"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	dpkg(t, root, "--install", debFile(t)) // an upgrade, to the same version
	if string(read(t, conffile)) != string(changed) {
		t.Error("the upgrade took away what was changed in the configuration")
	}
	dpkg(t, root, "--remove", "jnbd")
	if string(read(t, conffile)) != string(changed) {
		t.Error("the removal took away the configuration")
	}
	if _, err := os.Stat(filepath.Join(root, "usr/bin/jnbd")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the program after the removal: %v", err)
	}
	dpkg(t, root, "--purge", "jnbd")
	if string(read(t, image)) != "a disk" {
		t.Error("the purge changed a disk")
	}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && path != image && strings.Contains(strings.TrimPrefix(path, root), "jnbd") {
			t.Errorf("left after the purge: %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestManual renders every installed page, and wants no warning.
func TestManual(t *testing.T) {
	testtool.Need(t, "man", "mandoc")
	root := install(t)
	pages, err := filepath.Glob(filepath.Join(root, "usr/share/man/man1/*.gz"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, page := range pages {
		name := strings.TrimSuffix(filepath.Base(page), ".1.gz")
		seen[name] = true
		// It prints nothing and ends with 0 when there is nothing to warn of.
		run(t, "mandoc", "-T", "lint", "-W", "warning", page)
		cmd := exec.Command("man", "--warnings", "--local-file", page)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANWIDTH=80", "MANPAGER=cat")
		var warnings strings.Builder
		cmd.Stderr = &warnings
		text, err := cmd.Output()
		if err != nil || warnings.Len() > 0 {
			t.Errorf("man %s: %v\n%s", page, err, &warnings)
		}
		for _, want := range []string{"NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "SEE ALSO", "jnbd " + version} {
			if !strings.Contains(string(text), want) {
				t.Errorf("man %s: no %q in it:\n%s", name, want, text)
			}
		}
	}
	for line := range strings.Lines(run(t, filepath.Join(root, "usr/bin/jnbd"), "__complete", "")) {
		command, _, described := strings.Cut(line, "\t")
		if described && command != "help" && !seen["jnbd-"+command] {
			t.Errorf("no manual page of 'jnbd %s'", command)
		}
	}
	if !seen["jnbd"] || len(seen) < 2 {
		t.Errorf("pages: %v", seen)
	}
}

// TestCompletions loads each shell's script as that shell does and completes a command.
func TestCompletions(t *testing.T) {
	testtool.Need(t, "bash", "zsh", "fish")
	root := install(t)
	path := filepath.Join(root, "usr/bin") + ":" + os.Getenv("PATH")
	for _, test := range []struct {
		shell, file string
		command     []string
	}{
		{"bash", "usr/share/bash-completion/completions/jnbd", []string{"bash", "--norc", "-ec", `
			source /usr/share/bash-completion/bash_completion
			compopt() { :; } # bash has it while it completes only
			source "$0"
			COMP_WORDS=(jnbd se) COMP_CWORD=1 COMP_LINE="jnbd se" COMP_POINT=7
			$(complete -p jnbd | sed 's/.*-F \([^ ]*\) .*/\1/') jnbd se jnbd
			echo "${COMPREPLY[@]}"`}},
		// zsh completes in its line editor only: here its own loader must find the function,
		// and the function must run the program and offer what it says.
		{"zsh", "usr/share/zsh/vendor-completions/_jnbd", []string{"zsh", "-fc", `
			fpath=("${0:h}" $fpath) words=(jnbd se) CURRENT=2
			autoload -Uz compinit && compinit -u -D
			[[ $_comps[jnbd] = _jnbd ]] || exit 1
			_describe() { print -r -- ${(P)2} }
			compdef() { }
			autoload +X _jnbd
			_jnbd`}},
		{"fish", "usr/share/fish/vendor_completions.d/jnbd.fish", []string{"fish", "--no-config", "-c", `source $argv[1]; complete --do-complete "jnbd se"`}},
	} {
		t.Run(test.shell, func(t *testing.T) {
			cmd := exec.Command(test.command[0], append(test.command[1:], filepath.Join(root, test.file))...)
			cmd.Env = append(os.Environ(), "PATH="+path, "HOME="+home(t), "TERM=dumb")
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "serve") {
				t.Errorf("jnbd se<TAB>: %v\n%s", err, out)
			}
		})
	}
}
