// Package nbdclient is the other end of package nbd: a client of any NBD server that
// speaks the newstyle handshake.
//
// The path of a connection:
//
//  1. uri.go        ParseURI turns nbd://, nbd+unix:// and their TLS forms into an address.
//  2. handshake.go  Dial connects, exchanges greetings, and agrees on what Options ask for.
//  3. option.go     List, Info and Go ask for the exports, one export, and to use one.
//  4. client.go     NewClient takes the connection that Go hands over and sends requests on
//     it, as many at a time as its callers like. Or the kernel takes it: up to here not one
//     byte more was read than the handshake has.
//  5. send.go       one request, in one write.
//  6. receive.go    one goroutine reads the replies, simple and structured, and finishes
//     the calls that they belong to.
//
// A server is not trusted: every length is compared with its limit before anything is
// allocated, and what can't be is an error that ends the connection.
package nbdclient
