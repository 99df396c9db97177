package kernel

import (
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Watch hears of connections that the driver has given up.
type Watch struct {
	conn *genetlink.Conn
}

// Watch begins to listen. What happens after it has returned is heard, so it comes before
// Connect.
func (c *Client) Watch() (*Watch, error) {
	for _, group := range c.family.Groups {
		if group.Name != groupName {
			continue
		}
		conn, err := genetlink.Dial(nil)
		if err != nil {
			return nil, fmt.Errorf("open netlink: %w", err)
		}
		if err := conn.JoinGroup(group.ID); err != nil {
			_ = conn.Close() // it has heard nothing
			return nil, fmt.Errorf("listen to the nbd driver: %w", err)
		}
		return &Watch{conn: conn}, nil
	}
	return nil, fmt.Errorf("the nbd driver has no multicast group %s", groupName)
}

// Dead is one connection that has died.
type Dead struct {
	Index uint32 // of the device
	// Missed: the driver has told more than could be kept. Any number of connections of any
	// device may have died; Index means nothing.
	Missed bool
}

// Next waits for connections that die. After Close its error is one of a closed file.
func (w *Watch) Next() ([]Dead, error) {
	for {
		messages, _, err := w.conn.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			return []Dead{{Missed: true}}, nil
		}
		if err != nil {
			return nil, fmt.Errorf("listen to the nbd driver: %w", err)
		}
		var dead []Dead
		for _, m := range messages {
			if index, ok := linkDead(m); ok {
				dead = append(dead, Dead{Index: index})
			}
		}
		if len(dead) > 0 {
			return dead, nil
		}
	}
}

// linkDead is the device of a message that says LINK_DEAD.
func linkDead(m genetlink.Message) (index uint32, ok bool) {
	if m.Header.Command != commandLinkDead {
		return 0, false
	}
	ad, err := netlink.NewAttributeDecoder(m.Data)
	if err != nil {
		return 0, false
	}
	for ad.Next() {
		if ad.Type() == attrIndex {
			index, ok = ad.Uint32(), true
		}
	}
	return index, ok && ad.Err() == nil
}

// Close ends Next.
func (w *Watch) Close() error {
	_ = w.conn.SetReadDeadline(time.Unix(1, 0)) // wakes a Next that waits
	return w.conn.Close()
}
