package packaging

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"jnbd/testtool"
)

// TestContainer builds what the Containerfile says, by hand, where there may be no engine. Its
// files must be in the release, and the program must run where nothing else is.
func TestContainer(t *testing.T) {
	testtool.Need(t, "tar", "unshare")
	context := t.TempDir()
	run(t, "tar", "-xf", tarFile(t), "-C", context)
	context = filepath.Join(context, releaseName())
	image := t.TempDir()
	var entrypoint, user []string
	known := []string{"FROM", "COPY", "USER", "WORKDIR", "VOLUME", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
	for line := range strings.Lines(string(read(t, filepath.Join(context, "Containerfile")))) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		words := strings.Fields(line)
		if !slices.Contains(known, words[0]) {
			t.Errorf("%s: not an instruction that this test understands", words[0])
		}
		switch words[0] {
		case "FROM":
			if words[1] != "scratch" {
				t.Errorf("FROM %s: something else is in the image", words[1])
			}
		case "COPY":
			target := filepath.Join(image, words[2])
			if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
				t.Fatal(err)
			}
			run(t, "cp", "-p", filepath.Join(context, words[1]), target)
		case "WORKDIR":
			if err := os.MkdirAll(filepath.Join(image, words[1]), 0o755); err != nil {
				t.Fatal(err)
			}
		case "USER":
			user = strings.Split(words[1], ":")
		case "ENTRYPOINT":
			if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "ENTRYPOINT ")), &entrypoint); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
	}
	// Names would need an /etc/passwd.
	if len(user) != 2 || strings.Trim(user[0]+user[1], "0123456789") != "" || user[0] == "0" {
		t.Errorf("USER %v: want a number that is not root's", user)
	}
	if len(entrypoint) == 0 {
		t.Fatal("no ENTRYPOINT")
	}
	// Nothing but the image is there: no libraries, no /tmp. An engine would give it /proc,
	// which check needs, to read past the page cache.
	args := append([]string{"--map-root-user", "--net", "--root=" + image, "--wd=/disks", entrypoint[0]}, entrypoint[1:]...)
	for _, command := range [][]string{
		{"version"},
		{"create", "disk.img", "--size", "64M", "--journal-size", "64M"},
		{"info", "disk.img"},
		{"close", "disk.img"},
	} {
		out, err := exec.Command("unshare", append(args, command...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("in the image: jnbd %v: %v\n%s", command, err, out)
		}
		if command[0] == "version" && !strings.Contains(string(out), version) {
			t.Errorf("in the image: %s, want version %s", out, version)
		}
	}
}
