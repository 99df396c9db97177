package wal

import "time"

// Defaults of Options.
const (
	DefaultSoftFlushBytes  = 32 << 20
	DefaultSoftFlushBeside = 256 << 20
)

// Options shape a log that is appended to. The zero value is usable.
type Options struct {
	// Node goes into every frame: which cluster node wrote it. Default 0.
	Node uint32
	// Now gives the time of frames. Default time.Now.
	Now func() time.Time
	// SoftFlushBytes is how much may be appended since the last flush before the log
	// starts one by itself, in the background. It bounds what a recovery has to checksum.
	// Default 32 MiB.
	SoftFlushBytes int64
	// SoftFlushBeside is the same for what was written beside the log (Record.Beside). Default
	// 256 MiB.
	SoftFlushBeside int64

	// FlushBeside, if not nil, is asked in every flush, behind the barrier frame, for what must
	// be flushed beside the log's device: what the frames speak of and other devices hold.
	// What it returns, if not nil, is called beside the flush of the log's device. Nothing
	// counts as durable before both have returned nil.
	FlushBeside func() (flush func() error)

	// OnFlush, if not nil, is told after each flush that has succeeded how long the devices
	// took for it. It must not call the log.
	OnFlush func(took time.Duration)

	// OnFail, if not nil, is called once, from the goroutine that met the log's failure. It
	// must not call the log.
	OnFail func(error)

	newEpoch func() Epoch // tests fix the epochs
}

// withDefaults fills what was left at zero.
func (o Options) withDefaults() Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.SoftFlushBytes <= 0 {
		o.SoftFlushBytes = DefaultSoftFlushBytes
	}
	if o.SoftFlushBeside <= 0 {
		o.SoftFlushBeside = DefaultSoftFlushBeside
	}
	if o.newEpoch == nil {
		o.newEpoch = NewEpoch
	}
	return o
}
