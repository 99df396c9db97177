package main

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"golang.org/x/sys/unix"
)

// notifySocket is systemd's end of a program's NOTIFY_SOCKET. A nil one hears nothing.
type notifySocket struct{ conn *net.UnixConn }

// listenNotify makes one, under an abstract name that the kernel chooses.
func listenNotify() (*notifySocket, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("make a NOTIFY_SOCKET: %w", err)
	}
	return &notifySocket{conn}, nil
}

// address is the value of NOTIFY_SOCKET.
func (n *notifySocket) address() string { return n.conn.LocalAddr().String() }

// heard is what was sent so far, joined by newlines. It does not wait: a message is there as
// soon as its sender has sent it.
func (n *notifySocket) heard() (string, error) {
	if n == nil {
		return "", nil
	}
	raw, err := n.conn.SyscallConn()
	if err != nil {
		return "", err
	}
	var messages []string
	buffer := make([]byte, 4096)
	var received error
	err = raw.Control(func(fd uintptr) {
		for received == nil {
			var length int
			if length, _, received = unix.Recvfrom(int(fd), buffer, unix.MSG_DONTWAIT); received == nil {
				messages = append(messages, string(buffer[:length]))
			}
		}
	})
	if errors.Is(received, unix.EAGAIN) {
		received = nil
	}
	return strings.Join(messages, "\n"), errors.Join(err, received)
}

func (n *notifySocket) close() {
	if n != nil {
		n.conn.Close()
	}
}
