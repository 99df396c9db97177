package nbd

import "time"

// EventKind says what an Event tells.
type EventKind int

// The kinds of events.
const (
	// ConnOpened: a connection was accepted and starts to negotiate.
	ConnOpened EventKind = iota + 1
	// ConnRefused: a connection was closed at once, because MaxConns are open. Err says so.
	ConnRefused
	// ConnAttached: the client has chosen an export; requests may follow.
	ConnAttached
	// ConnClosed: the connection has ended and nothing of it is left. Err is nil when the
	// client disconnected in order, or left before it chose an export.
	ConnClosed
	// RequestFailed: the Device failed a request; Err is the cause that the client's error
	// number stands for. Told once for each connection and error number.
	RequestFailed
	// AcceptFailed: a listener could not accept for a moment; Err says why. Serve goes on.
	AcceptFailed
	// RequestSlow: a request took SlowRequest or longer.
	RequestSlow
	// RequestTraced: TraceEvery chose this one.
	RequestTraced
)

// String is the kind in words.
func (k EventKind) String() string {
	switch k {
	case ConnOpened:
		return "connection opened"
	case ConnRefused:
		return "connection refused"
	case ConnAttached:
		return "connection attached"
	case ConnClosed:
		return "connection closed"
	case RequestFailed:
		return "request failed"
	case AcceptFailed:
		return "accept failed"
	case RequestSlow:
		return "slow request"
	case RequestTraced:
		return "request"
	}
	return "unknown event"
}

// Event is something that happened, for an operator's log.
type Event struct {
	Kind   EventKind
	Conn   uint64 // the connection's number, counted from 1; 0 in AcceptFailed
	Remote string // the client's address; unix sockets often have none
	Export string // the export's name, from ConnAttached on
	Client string // ConnAttached: the first name of the client's certificate, if one was verified
	Reason string // ConnClosed: why, in a few words
	Err    error  // see the kinds

	// The request, in RequestSlow and RequestTraced. Of a change with FUA Took lasts until it
	// was durable.
	Command Command
	Offset  uint64
	Length  uint64
	FUA     bool
	Took    time.Duration

	// Sums of the connection, in ConnClosed.
	Requests     uint64
	Failed       uint64 // requests that were answered with an error
	BytesRead    uint64 // payload bytes sent to the client
	BytesWritten uint64 // payload bytes of writes that succeeded
}
