package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// A load that can stop and go on is given to several servers in short turns, while all of them are up:
// A B C A B C, some tens of milliseconds each. This machine's speed changes within seconds; two passes of
// the same build, one after the other, were 0.64 to 1.47 of each other. In turns a change meets
// all of them alike. A turn ends when all is answered. Where that would take away what a server gains
// by doing two things at a time, as with a flush of 64 MiB beside the next writes, a turn is a whole
// pass.
//
// What a server of ours writes to its device can't be told from what others do then. So the round
// before the first is one in which each is alone (rounds.go), and bytes on the host are of that one.

// turnLength is how long a turn is that is bounded by time.
const turnLength = 50 * time.Millisecond

// divisible is a load in turns.
type divisible interface {
	load
	// begin connects to a server for a pass.
	begin(c *config, p *process) (player, error)
}

// player is a server's part of a pass.
type player interface {
	// turn goes on for a turn, and reports whether the pass is over.
	turn() (over bool, err error)
	// end is all turns together.
	end() (result, error)
}

// inTurns are the servers of a race that take turns, and those that need to be alone. All of a race's
// loads are divisible, or nobody takes turns.
func (r *race) inTurns() (turns, alone []server) {
	if r.slow || slices.ContainsFunc(r.passes, func(p pass) bool {
		_, ok := p.load.(divisible)
		return !ok || p.cold || p.name == ""
	}) {
		return nil, r.servers
	}
	for _, s := range r.servers {
		if slices.Contains(r.alone, server(strings.TrimSuffix(string(s), otherOne))) {
			alone = append(alone, s)
		} else {
			turns = append(turns, s)
		}
	}
	return turns, alone
}

// seat is a server that takes turns.
type seat struct {
	server  server
	path    string
	process *process
	passes  map[string]result
}

// turnsRound is a round in which the servers take turns.
func (c *config) turnsRound(servers []server, r *race) (_ map[key]result, err error) {
	var seats []*seat
	var medium *medium
	defer func() {
		for _, s := range seats {
			if s.process != nil {
				s.process.kill()
			}
		}
		if medium != nil {
			err = errors.Join(err, medium.remove())
		}
	}()
	for _, s := range servers {
		seat := &seat{server: s, passes: map[string]result{}}
		seats = append(seats, seat)
		if s == onceFloor {
			if medium, err = c.newMedium(); err != nil {
				return nil, err
			}
			continue
		}
		if seat.path, err = c.prepareOwn(s, r.image); err != nil {
			return nil, err
		}
		if r.image == wholeImage {
			if err := warm(seat.path); err != nil {
				return nil, err
			}
		}
	}
	for i, s := range seats {
		if s.server == onceFloor {
			continue
		}
		at := &place{disk: s.path, socket: fmt.Sprintf("%s.%d.sock", s.path, i)} // peers share their image
		if s.process, err = c.startAt(s.server, at); err != nil {
			return nil, fmt.Errorf("%s: %w", s.server, err)
		}
	}
	for i, pass := range r.passes {
		if err := c.passInTurns(seats, pass, medium, i); err != nil {
			return nil, fmt.Errorf("%s: %w", pass.name, err)
		}
	}
	all := map[key]result{}
	for _, s := range seats {
		for name, r := range s.passes {
			all[key{s.server, name}] = r
		}
		if s.process == nil {
			continue
		}
		if err := errors.Join(s.process.stop(), settle(s.path), c.discard(s.path, r.image)); err != nil {
			return nil, fmt.Errorf("%s: %w", s.server, err)
		}
	}
	return all, nil
}

// passInTurns is a pass of all seats.
func (c *config) passInTurns(seats []*seat, p pass, m *medium, number int) error {
	type playing struct {
		*seat
		player
		before      use
		checkpoints int
	}
	var left, all []*playing
	for _, s := range seats {
		one := &playing{seat: s}
		var err error
		if s.process == nil {
			one.player, err = m.begin(p.load, number)
		} else {
			one.player, err = p.load.(divisible).begin(c, s.process)
			if err == nil {
				one.checkpoints, err = c.checkpoints(s.server, &place{disk: s.path})
			}
			if err == nil {
				one.before, err = s.process.use()
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.server, err)
		}
		left, all = append(left, one), append(all, one)
	}
	for len(left) > 0 {
		still := left[:0]
		for _, one := range left {
			over, err := one.turn()
			if err != nil {
				return fmt.Errorf("%s: %w", one.server, err)
			}
			if !over {
				still = append(still, one)
			}
		}
		left = still
	}
	for _, one := range all {
		var after use
		var checkpoints int
		var err error
		if one.process != nil {
			after, err = one.process.use() // while its children live
			if err == nil {
				checkpoints, err = c.checkpoints(one.server, &place{disk: one.path})
			}
		}
		r, ended := one.end()
		if err := errors.Join(err, ended); err != nil {
			return fmt.Errorf("%s: %w", one.server, err)
		}
		r.server, r.peak, r.checkpoints = after.minus(one.before.cpu), float64(after.peak), checkpoints-one.checkpoints
		one.passes[p.name] = r
	}
	return nil
}

// clients are the connections of a player, each of which has what is still to be sent.
type clients struct {
	clients []*client
	sources []source
	sums    []*tally
	length  time.Duration // of a turn; 0: it is the whole pass
	left    time.Duration // of the pass, if a turn has a length
	ended   []bool        // this source is at its end
}

// connect connects all clients of a player.
func (l *clients) connect(uri string, depth int, sources []source) (*clients, error) {
	l.sources, l.ended = sources, make([]bool, len(sources))
	for range sources {
		one, err := dial(uri, depth)
		if err != nil {
			return nil, err
		}
		l.clients, l.sums = append(l.clients, one), append(l.sums, &tally{})
	}
	return l, nil
}

func (l *clients) turn() (over bool, err error) {
	failed := make([]error, len(l.clients))
	var running sync.WaitGroup
	began := time.Now()
	for i, one := range l.clients {
		running.Go(func() { failed[i] = one.runTurn(l.bounded(i, began), l.sums[i]) })
	}
	running.Wait()
	l.left -= time.Since(began)
	over = l.length > 0 && l.left <= 0 || !slices.Contains(l.ended, false)
	return over, errors.Join(failed...)
}

// bounded is a client's source until the turn is over.
func (l *clients) bounded(i int, began time.Time) source {
	return func() (request, bool) {
		if l.ended[i] || l.length > 0 && time.Since(began) >= l.length {
			return request{}, false
		}
		r, ok := l.sources[i]()
		l.ended[i] = !ok
		return r, ok
	}
}

// runTurn is run, with what it did added to a sum.
func (c *client) runTurn(from source, sum *tally) error {
	c.tally, c.ended = tally{}, false
	t, err := c.run(from)
	if err != nil {
		return err
	}
	took := sum.took + t.took
	sum.join(t)
	sum.took = took
	return nil
}

func (l *clients) end() (result, error) {
	var failed []error
	for i, one := range l.clients {
		failed = append(failed, one.close())
		if i > 0 {
			l.sums[0].join(l.sums[i])
		}
	}
	return l.sums[0].result(), errors.Join(failed...)
}
