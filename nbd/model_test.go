package nbd

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// modelStep is a request that waits for its reply, with what it must bring.
type modelStep struct {
	cmd    uint16
	offset int
	length int
	want   []byte // READ
}

// The server against a plain array: several clients, each in a part of the disk of its
// own, keep many random requests in flight. Requests in flight at a time don't overlap
// unless both read, because NBD leaves their order open.
func TestModel(t *testing.T) {
	const part, clients, steps = 1 << 20, 3, 600
	certificates := makePKI(t)
	for _, transport := range []string{"unix", "pipe", "tls"} {
		for _, style := range []style{simple, structured, extended} {
			seed := rand.Uint64()
			t.Run(fmt.Sprintf("%s, style %d, seed %d", transport, style, seed), func(t *testing.T) {
				d := newMemDisk(clients * part)
				s := &Server{Exports: []Export{{Device: d}}, Workers: 3, TLS: TLSOn, TLSConfig: certificates.server(t)}
				path := startServer(t, s)
				if err := s.setUp(); err != nil {
					t.Fatal(err)
				}
				model := make([]byte, clients*part)
				var wg sync.WaitGroup
				for i := range clients {
					var c *client
					if transport == "pipe" {
						near, far := net.Pipe()
						s.accepted(far)
						c = newClient(t, near)
					} else {
						c = dial(t, path)
					}
					if transport == "tls" {
						c.secure(certificates.client(t, certificates.dir))
					}
					switch style {
					case structured:
						c.mustAck(c.option(optStructuredReply, nil))
					case extended:
						c.mustAck(c.option(optExtendedHeaders, nil))
					}
					c.chooseExport("")
					random := rand.New(rand.NewPCG(seed, uint64(i)))
					wg.Go(func() { runModel(c, d, random, model[i*part:(i+1)*part], i*part, steps) })
				}
				wg.Wait()
				if !bytes.Equal(d.content(0, len(model)), model) {
					t.Error("at the end the disk differs from the model")
				}
			})
		}
	}
}

// runModel keeps up to 24 requests of c in flight over model, which lies at base.
func runModel(c *client, d *memDisk, random *rand.Rand, model []byte, base, steps int) {
	inFlight := make(map[uint64]modelStep)
	for steps > 0 || len(inFlight) > 0 {
		if steps > 0 && len(inFlight) < 24 && random.IntN(3) > 0 {
			d.notCached.Store(random.IntN(2) == 0)
			if step, flags, payload, ok := nextStep(random, model, inFlight); ok {
				offset := uint64(base + step.offset)
				if step.cmd == cmdFlush {
					offset = 0
				}
				cookie := c.send(step.cmd, flags, offset, uint32(step.length), payload)
				inFlight[cookie] = step
				steps--
			}
			continue
		}
		if len(inFlight) == 0 {
			continue
		}
		r := c.receive()
		step, ok := inFlight[r.cookie]
		switch {
		case !ok:
			c.t.Errorf("a reply to request %d, which is not in flight", r.cookie)
			return
		case r.errno != 0:
			c.t.Errorf("command %d at %d length %d: %v %s", step.cmd, step.offset, step.length, r.errno, r.text)
		case step.cmd == cmdRead && !bytes.Equal(r.data, step.want):
			c.t.Errorf("read at %d length %d brought other data than was written", step.offset, step.length)
		}
		delete(inFlight, r.cookie)
	}
}

// nextStep chooses a request and applies it to the model. It reports false when the request
// would meet one in flight.
func nextStep(random *rand.Rand, model []byte, inFlight map[uint64]modelStep) (step modelStep, flags uint16, payload []byte, ok bool) {
	sizes := []int{1, 100, 512, 4096, 4096, 4096, 30000, 64 << 10, 64<<10 + 1, 200 << 10}
	step.cmd = []uint16{cmdRead, cmdRead, cmdWrite, cmdWrite, cmdWrite, cmdTrim, cmdWriteZeroes, cmdFlush, cmdCache}[random.IntN(9)]
	if random.IntN(4) == 0 {
		flags = cfFUA
	}
	if step.cmd != cmdFlush {
		step.length = 1 + random.IntN(sizes[random.IntN(len(sizes))])
		step.offset = random.IntN(len(model) - step.length + 1)
	}
	reads := step.cmd == cmdRead || step.cmd == cmdCache || step.cmd == cmdFlush
	for _, other := range inFlight {
		otherReads := other.cmd == cmdRead || other.cmd == cmdCache || other.cmd == cmdFlush
		apart := step.offset+step.length <= other.offset || other.offset+other.length <= step.offset
		if !apart && !(reads && otherReads) {
			return step, 0, nil, false
		}
	}
	area := model[step.offset : step.offset+step.length]
	switch step.cmd {
	case cmdRead:
		step.want = bytes.Clone(area)
	case cmdWrite:
		payload = make([]byte, step.length)
		for i := range payload {
			payload[i] = byte(random.Uint32())
		}
		copy(area, payload)
	case cmdTrim, cmdWriteZeroes:
		clear(area)
	}
	return step, flags, payload, true
}
