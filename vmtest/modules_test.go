package vmtest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakeModule is an ELF object with nothing in it but a .modinfo section.
func fakeModule(t *testing.T, modinfo string) []byte {
	t.Helper()
	const header, sectionHeader = 64, 64
	names := "\x00.modinfo\x00.shstrtab\x00"
	infoOffset := uint64(header)
	namesOffset := infoOffset + uint64(len(modinfo))
	tableOffset := namesOffset + uint64(len(names))
	var image bytes.Buffer
	for _, part := range []any{
		elf.Header64{
			Ident: [elf.EI_NIDENT]byte{
				0x7f, 'E', 'L', 'F',
				elf.EI_CLASS: byte(elf.ELFCLASS64), elf.EI_DATA: byte(elf.ELFDATA2LSB), elf.EI_VERSION: byte(elf.EV_CURRENT),
			},
			Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
			Shoff: tableOffset, Ehsize: header, Shentsize: sectionHeader, Shnum: 3, Shstrndx: 2,
		},
		[]byte(modinfo),
		[]byte(names),
		elf.Section64{},
		elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: infoOffset, Size: uint64(len(modinfo))},
		elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: namesOffset, Size: uint64(len(names))},
	} {
		if err := binary.Write(&image, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return image.Bytes()
}

func TestOrderModules(t *testing.T) {
	for _, c := range []struct {
		name    string
		modules map[string]string // file name → depends=
		builtin string
		asked   []string
		want    []string
		err     string // part of the error
	}{
		{
			name:    "needs come first",
			modules: map[string]string{"nic.ko": "failover,bus", "failover.ko": "", "bus.ko": "ring", "ring.ko": ""},
			asked:   []string{"nic"},
			want:    []string{"failover", "ring", "bus", "nic"},
		},
		{
			name:    "each once",
			modules: map[string]string{"disk.ko": "bus", "nic.ko": "bus", "bus.ko": ""},
			asked:   []string{"disk", "nic", "bus"},
			want:    []string{"bus", "disk", "nic"},
		},
		{
			name:    "dashes are underscores",
			modules: map[string]string{"virtio-net.ko": "net-failover", "net-failover.ko": ""},
			asked:   []string{"virtio_net"},
			want:    []string{"net_failover", "virtio_net"},
		},
		{
			name:    "built in",
			modules: map[string]string{"nbd.ko": ""},
			builtin: "kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio-pci.ko\n",
			asked:   []string{"virtio_pci", "nbd", "ext4"},
			want:    []string{"nbd"},
		},
		{
			name:    "a need is missing",
			modules: map[string]string{"nbd.ko": "blk"},
			asked:   []string{"nbd"},
			err:     "module nbd: module blk is not below",
		},
		{
			name:    "a circle",
			modules: map[string]string{"a.ko": "b", "b.ko": "a"},
			asked:   []string{"a"},
			err:     "module a needs itself",
		},
		{
			name:    "compressed in a way we can't read",
			modules: map[string]string{"nbd.ko.zst": ""},
			asked:   []string{"nbd"},
			err:     "neither .ko nor .ko.xz",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree := t.TempDir()
			drivers := filepath.Join(tree, "kernel", "drivers")
			if err := os.MkdirAll(drivers, 0o755); err != nil {
				t.Fatal(err)
			}
			for file, depends := range c.modules {
				image := fakeModule(t, "license=GPL\x00depends="+depends+"\x00name=x\x00")
				if err := os.WriteFile(filepath.Join(drivers, file), image, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(tree, "modules.builtin"), []byte(c.builtin), 0o644); err != nil {
				t.Fatal(err)
			}
			ordered, err := orderModules(tree, c.asked)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want one with %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, m := range ordered {
				got = append(got, m.name)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("order (-want +got):\n%s", diff)
			}
		})
	}
}

func TestModuleDependsRefuses(t *testing.T) {
	whole := fakeModule(t, "depends=a,b\x00")
	for _, c := range []struct {
		name  string
		image []byte
	}{
		{"empty", nil},
		{"not ELF", []byte("#!/bin/sh\n")},
		{"cut off", whole[:len(whole)/2]},
		{"no .modinfo", bytes.Replace(whole, []byte(".modinfo"), []byte(".modjnbd"), 1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := moduleDepends(c.image); err == nil {
				t.Errorf("no error, but %q", got)
			}
		})
	}
}
