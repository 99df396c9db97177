package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// The guest's place in QEMU's user network. 10.0.2.2 is the host's 127.0.0.1; it is on
// the same link, so the route that comes with the address leads there.
var (
	guestAddress = [4]byte{10, 0, 2, 15}
	guestMask    = [4]byte{255, 255, 255, 0}
)

// startNetwork brings lo and eth0 up. A machine without a card has no eth0, and no error.
func startNetwork() error {
	if err := startLink("lo", [4]byte{127, 0, 0, 1}, [4]byte{255, 0, 0, 0}); err != nil {
		return err
	}
	if _, err := os.Stat("/sys/class/net/eth0"); os.IsNotExist(err) {
		return nil
	}
	return startLink("eth0", guestAddress, guestMask)
}

// startLink gives a network interface its address and turns it on.
func startLink(name string, address, mask [4]byte) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	set := func(what string, number uint) error {
		if err := unix.IoctlIfreq(socket, number, request); err != nil {
			return fmt.Errorf("start %s: set its %s: %w", name, what, err)
		}
		return nil
	}
	if err := request.SetInet4Addr(address[:]); err != nil {
		return err
	}
	if err := set("address", unix.SIOCSIFADDR); err != nil {
		return err
	}
	if err := request.SetInet4Addr(mask[:]); err != nil {
		return err
	}
	if err := set("mask", unix.SIOCSIFNETMASK); err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return set("flags", unix.SIOCSIFFLAGS)
}
