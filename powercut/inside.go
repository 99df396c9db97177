package powercut

import (
	"context"
	"errors"
	"net"
	"sync/atomic"

	"jnbd/disk"
	"jnbd/journal"
	"jnbd/jsuper"
	"jnbd/nbd"
)

// The engine on recorders, in this process, behind the real protocol server. It needs
// nothing of the host, its journal may be as small as the engine takes, and its writes may
// run beside its flushes, which FUSE never lets happen.

// inside is one life of the server.
type inside struct {
	fences []*fence // one for each disk
	disk   *journal.Disk
	server *nbd.Server
	listen string
	served chan error // Serve's end
}

// errFenced is what a server of an earlier life gets for everything it still tries.
var errFenced = errors.New("this server was killed")

// fence is the disk as one life of the server has it.
type fence struct {
	*Recorder
	dead atomic.Bool
}

func (f *fence) alive() error {
	if f.dead.Load() {
		return errFenced
	}
	return nil
}

func (f *fence) WriteAt(p []byte, off int64) (int, error) {
	if err := f.alive(); err != nil {
		return 0, err
	}
	return f.Recorder.WriteAt(p, off)
}

// WriteVAt makes one write of many buffers: what the engine gathers is one operation.
func (f *fence) WriteVAt(bufs [][]byte, off int64) (int64, error) {
	var all []byte
	for _, b := range bufs {
		all = append(all, b...)
	}
	n, err := f.WriteAt(all, off)
	return int64(n), err
}

func (f *fence) Zero(off, n int64, punch bool) error {
	if err := f.alive(); err != nil {
		return err
	}
	return f.Recorder.Zero(off, n, punch)
}

func (f *fence) Flush() error {
	if err := f.alive(); err != nil {
		return err
	}
	return f.Recorder.Flush()
}

var _ disk.VectorWriter = (*fence)(nil)

// partsOf is a backing with its journal inside, or a backing and a journal beside it.
func partsOf[D disk.Device](devices []D) journal.Parts {
	if len(devices) == 1 {
		return journal.Parts{Backing: devices[0], Journal: devices[0], Placement: jsuper.Internal}
	}
	return journal.Parts{Backing: devices[backingDisk], Journal: devices[journalDisk], Placement: jsuper.Beside}
}

// createInside formats the recorders.
func createInside(recorders []*Recorder, opt Options) error {
	_, err := journal.Format(partsOf(recorders), opt.format())
	return err
}

// serveInside opens the disk on the recorders, which recovers it, and serves it.
func serveInside(recorders []*Recorder, socket string) (*inside, error) {
	s := &inside{listen: socket, served: make(chan error, 1)}
	for _, rec := range recorders {
		s.fences = append(s.fences, &fence{Recorder: rec})
	}
	var err error
	if s.disk, err = journal.Open(partsOf(s.fences), journal.Options{CommitInterval: commitInterval}); err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, errors.Join(err, s.disk.Close(context.Background()))
	}
	s.server = &nbd.Server{Exports: []nbd.Export{{Name: "disk", Device: s.disk}}}
	go func() { s.served <- s.server.Serve(listener) }() // ends with kill or stop
	return s, nil
}

func (s *inside) socket() string { return s.listen }

// kill lets the calls that run come to their end, unheard, and then cuts the server off.
func (s *inside) kill() error {
	err := s.server.Close()
	<-s.served
	for _, f := range s.fences {
		f.dead.Store(true)
	}
	_ = s.disk.Close(context.Background()) // fails: its disk is gone
	return err
}

func (s *inside) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	err := s.server.Shutdown(ctx)
	<-s.served
	return errors.Join(err, s.disk.Close(ctx))
}
