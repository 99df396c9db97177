package powercut

import (
	"errors"
	"fmt"
	"math/rand/v2"
)

// lane is one connection of the raw writer, and the requests it makes by seed.
//
// Most lanes write all over one range, several requests at a time, and over each other. One
// lane has a range of its own and waits for each answer: it also zeroes and trims, and the
// judge must be able to tell its zeros apart (judge.go).
type lane struct {
	random   *rand.Rand
	off, n   int64 // its range, bytes
	most     int64 // bytes of one write
	depth    int   // requests under way
	zeroes   bool
	requests int // in one round
}

// lanes are those of a run.
func lanes(opt Options) []*lane {
	var all []*lane
	shared := opt.DiskBytes / sectorBytes * 3 / 4 * sectorBytes
	for i := range opt.Lanes {
		l := &lane{
			random: rand.New(rand.NewPCG(opt.Seed, uint64(i))),
			n:      shared, most: opt.MostBytes, depth: 4, requests: opt.Requests,
		}
		if i == opt.Lanes-1 {
			l.off, l.n, l.depth, l.zeroes = shared, opt.DiskBytes/sectorBytes*sectorBytes-shared, 1, true
		}
		all = append(all, l)
	}
	return all
}

// next is the lane's next request.
func (l *lane) next() Request {
	r := l.random
	if r.IntN(16) == 0 {
		return Request{Kind: Flush}
	}
	// All magnitudes of size alike up to 64 KiB, larger ones seldom.
	n := int64(sectorBytes) << r.IntN(8)
	if r.IntN(16) == 0 {
		n = l.most / 2
	}
	n += r.Int64N(n) / sectorBytes * sectorBytes
	n = min(n, l.most, l.n)
	q := Request{Off: l.off + r.Int64N((l.n-n)/sectorBytes+1)*sectorBytes, N: n, FUA: r.IntN(10) == 0}
	if r.IntN(2) == 0 {
		q.Off = max(l.off, q.Off/4096*4096)
	}
	if l.zeroes {
		switch r.IntN(6) {
		case 0:
			q.Kind = Zero
		case 1:
			q.Kind = Trim
		}
	}
	return q
}

// serverError is an answer that says no.
type serverError struct{ cause error }

func (e *serverError) Error() string { return e.cause.Error() }
func (e *serverError) Unwrap() error { return e.cause }

// run sends the requests of one round. It ends when all are answered, or with an error: a
// serverError where the server said no, another where the connection ended.
func (l *lane) run(socket string, h *history) error {
	c, err := dial(socket)
	if err != nil {
		return err
	}
	defer c.conn.Close()
	slots := make(chan struct{}, l.depth)
	received := make(chan error, 1)
	go func() { // ends with the last answer, or with the connection
		received <- l.receive(c, h, slots)
	}()
	for range l.requests {
		select {
		case slots <- struct{}{}:
		case err := <-received:
			return err
		}
		if err := sendRequest(c, h, l.next()); err != nil {
			c.conn.Close()
			return errors.Join(err, <-received)
		}
	}
	return <-received
}

func (l *lane) receive(c *client, h *history, slots <-chan struct{}) error {
	for range l.requests {
		number, err := c.receive()
		if number != 0 && err != nil {
			return &serverError{err}
		}
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		h.reply(number)
		<-slots
	}
	return nil
}

// sendRequest notes a request and sends it; its number is its handle.
func sendRequest(c *client, h *history, q Request) error {
	number := h.send(q)
	command, flags, data := uint16(0), uint16(0), []byte(nil)
	switch q.Kind {
	case Write:
		command, data = nbdCmdWrite, payload(number, q.Off, q.N)
	case Zero:
		command = nbdCmdZeroes
	case Trim:
		command = nbdCmdTrim
	case Flush:
		command = nbdCmdFlush
	}
	if q.FUA {
		flags = nbdFlagFUA
	}
	if err := c.send(command, flags, number, q.Off, q.N, data); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}
