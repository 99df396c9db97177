package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strconv"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/pflag"

	"jnbd/nbd"
)

// listenOptions say where to listen.
type listenOptions struct {
	unix     string
	unixMode modeFlag
	ip       string
	port     uint16
	tcp      bool // --ipaddr or --port was given
}

// modeFlag is a flag for the permissions of a socket, in octal.
type modeFlag fs.FileMode

func (m *modeFlag) String() string { return strconv.FormatUint(uint64(*m), 8) }
func (m *modeFlag) Type() string   { return "OCTAL" }

func (m *modeFlag) Set(text string) error {
	mode, err := strconv.ParseUint(text, 8, 32)
	if err != nil || mode&^0o666 != 0 || mode&0o600 != 0o600 {
		return errors.New("want permissions in octal from 600 to 666, like 660 for the group")
	}
	*m = modeFlag(mode)
	return nil
}

// given notes which flags were there: --port alone means TCP, none means the default.
func (o *listenOptions) given(flags *pflag.FlagSet) {
	o.tcp = o.tcp || flags.Changed("ipaddr") || flags.Changed("port")
}

// openListeners binds the sockets: those systemd passed, else those the flags name, else
// the unix socket beside the first disk. The URI that is printed is the first one's.
func openListeners(options listenOptions, first *export) (listeners []net.Listener, passed bool, err error) {
	listeners, err = passedListeners()
	if listeners != nil || err != nil {
		return listeners, true, err
	}
	if options.unix == "" && !options.tcp {
		options.unix = first.store.place.disk + ".sock"
	}
	if options.unix != "" {
		l, err := nbd.ListenUnix(options.unix, fs.FileMode(options.unixMode))
		if err != nil {
			return nil, false, err
		}
		listeners = append(listeners, l)
	}
	if options.tcp {
		l, err := nbd.Listen("tcp", net.JoinHostPort(options.ip, strconv.Itoa(int(options.port))))
		if err != nil {
			return nil, false, errors.Join(err, closeListeners(listeners))
		}
		listeners = append(listeners, l)
	}
	return listeners, false, nil
}

// passedListeners are the sockets of systemd's socket activation (LISTEN_FDS), which
// nbdinfo, nbdcopy and qemu speak too; nil if there are none.
func passedListeners() ([]net.Listener, error) {
	files := activation.Files(true)
	var listeners []net.Listener
	for _, f := range files {
		l, err := net.FileListener(f)
		err = errors.Join(err, f.Close()) // the listener has a descriptor of its own
		if err != nil {
			return nil, errors.Join(fmt.Errorf("socket passed by LISTEN_FDS (%s): %w", f.Name(), err), closeListeners(listeners))
		}
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // its maker removes it
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

func closeListeners(listeners []net.Listener) error {
	var failed error
	for _, l := range listeners {
		if l != nil {
			failed = errors.Join(failed, l.Close())
		}
	}
	return failed
}
