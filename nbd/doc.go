// Package nbd serves disks by the NBD protocol, as proto.md of the NetworkBlockDevice
// project specifies it: fixed newstyle negotiation, TLS (tls.go), simple and structured
// replies, extended headers (style.go).
//
// The life of a connection, and where to read about it:
//
//  1. Server.Serve accepts it and counts it (server.go, conn.go).
//  2. It negotiates: options, the export, meta contexts (negotiate.go, option.go, meta.go).
//  3. One goroutine reads its requests, many for each read call (transmit.go), and checks
//     them (request.go).
//  4. Small writes are done at once, where they lie in the read buffer (batch.go); small
//     reads of what is in memory go straight into the reply buffer (read.go); all that
//     could wait for the medium goes to a bounded pool (op.go, workers.go), and what must
//     be durable first to the export's group of flushes, or is flushed in place (flush.go).
//  5. Replies that are ready together leave together (outbox.go, reply.go).
//  6. A change is applied only while its client is still there (alive.go).
//  7. The connection ends: what is in flight is finished or dropped, and only then is it
//     forgotten (conn.go).
//
// A client that has not chosen an export is closed after HandshakeTimeout, or after a second
// when MaxConns are open and another one comes.
//
// Memory is bounded: MaxBufferBytes for payloads and large replies (buffers.go, flight.go), and
// for each connection about 20 KiB, and as long as it has something to do the read buffer and
// the small replies that wait. Few connections take up to 1 MiB each for these; the more are
// attached, the less each takes (share.go).
//
// A client that stalls, in the middle of a payload or by not reading its replies, costs
// others time only when they need a buffer of the same size range (up to 256 KiB, up to
// 4 MiB, larger) and all of its pool is lent out. Shares shrink as a pool fills
// (flight.go), so that takes more than four clients, unless their requests are the largest
// of the range. A silent client's loans then end, with its connection, within 2.5 s of its
// falling silent or of the wait's beginning, whichever is later. One that moves its loan
// more slowly than 32 s for the whole allows loses it within 35 s; a reply that waits
// behind another, within twice that (stalled.go). Who waits is served in the order of
// arrival, so these bounds count once for each time that those before it in line fill the
// pool.
//
// Nothing here logs; Server.OnEvent tells what an operator may want to know.
package nbd
