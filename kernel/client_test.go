package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/genetlink/genltest"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// onDriver is a client whose driver is answer.
func onDriver(t *testing.T, answer genltest.Func) *Client {
	conn := genltest.Dial(answer)
	t.Cleanup(func() { _ = conn.Close() })
	return &Client{conn: conn, family: genetlink.Family{ID: 27, Version: 1, Name: familyName}}
}

// describe writes a request as the tests below have it: its command, and its attributes by
// number, nested ones in brackets. Sockets are only counted: their numbers differ.
func describe(t *testing.T, m genetlink.Message) string {
	t.Helper()
	text := []string{fmt.Sprintf("command %d:", m.Header.Command)}
	ad, err := netlink.NewAttributeDecoder(m.Data)
	if err != nil {
		t.Fatal(err)
	}
	for ad.Next() {
		switch ad.Type() {
		case attrIndex:
			text = append(text, fmt.Sprintf("%d=%d", ad.Type(), ad.Uint32()))
		case attrBackend:
			text = append(text, fmt.Sprintf("%d=%s", ad.Type(), ad.String()))
		case attrSockets:
			n := 0
			ad.Nested(func(items *netlink.AttributeDecoder) error {
				for items.Next() {
					items.Nested(func(item *netlink.AttributeDecoder) error {
						for item.Next() {
							if item.Type() == attrSocketFD && item.Uint32() > 2 {
								n++
							}
						}
						return item.Err()
					})
				}
				return items.Err()
			})
			text = append(text, fmt.Sprintf("%d=[%d sockets]", ad.Type(), n))
		default:
			text = append(text, fmt.Sprintf("%d=%d", ad.Type(), ad.Uint64()))
		}
	}
	if err := ad.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.Join(text, " ")
}

// TestRequests holds what the driver is told, in the numbers of linux/nbd-netlink.h.
func TestRequests(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var sockets []syscall.Conn
	for range 2 {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		sockets = append(sockets, conn.(*net.TCPConn))
	}
	for _, c := range []struct {
		name string
		ask  func(*Client) error
		want string
		ack  bool
	}{
		{"connect", func(c *Client) error {
			return c.Connect(Config{
				Index: 3, Size: 1 << 40, BlockSize: 512, ServerFlags: 0x1ed,
				Timeout: 1500 * time.Millisecond, DeadTimeout: time.Minute, Backend: "disk/1", Sockets: sockets,
			})
		}, "command 1: 1=3 2=1099511627776 3=512 4=2 8=60 5=493 10=disk/1 7=[2 sockets]", false},
		{"reconnect", func(c *Client) error {
			return c.Reconfigure(3, Change{Backend: "disk/1", Sockets: sockets[:1]})
		}, "command 3: 1=3 10=disk/1 7=[1 sockets]", true},
		{"resize", func(c *Client) error { return c.Reconfigure(3, Change{Size: 1 << 30}) }, "command 3: 1=3 2=1073741824", true},
		{"disconnect", func(c *Client) error { return c.Disconnect(3) }, "command 2: 1=3", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := onDriver(t, func(m genetlink.Message, nm netlink.Message) ([]genetlink.Message, error) {
				if got := describe(t, m); got != c.want {
					t.Errorf("the driver is told\n%s, want\n%s", got, c.want)
				}
				// An answer and an acknowledgement would be two messages, and the second one
				// would pass for the answer to the next request.
				if ack := nm.Header.Flags&netlink.Acknowledge != 0; ack != c.ack {
					t.Errorf("acknowledgement asked for: %v, want %v", ack, c.ack)
				}
				return []genetlink.Message{{}}, nil
			})
			if err := c.ask(client); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRefusals: what the driver's error numbers mean.
func TestRefusals(t *testing.T) {
	for number, want := range map[unix.Errno]error{
		unix.EPERM: ErrNotAllowed, unix.EBUSY: ErrBusy, unix.EINVAL: unix.EINVAL,
	} {
		client := onDriver(t, func(genetlink.Message, netlink.Message) ([]genetlink.Message, error) {
			return nil, genltest.Error(int(number))
		})
		if err := client.Disconnect(0); !errors.Is(err, want) {
			t.Errorf("%v: %v, want %v", number, err, want)
		}
	}
}

// TestLinkDead reads the driver's own message, and nothing else.
func TestLinkDead(t *testing.T) {
	native := binary.NativeEndian
	index := native.AppendUint32(native.AppendUint16(native.AppendUint16(nil, 8), attrIndex), 7)
	for _, c := range []struct {
		name    string
		command uint8
		data    []byte
		ok      bool
	}{
		{"link dead", commandLinkDead, index, true},
		{"another command", commandConnect, index, false},
		{"no index", commandLinkDead, nil, false},
		{"torn", commandLinkDead, index[:7], false},
	} {
		got, ok := linkDead(genetlink.Message{Header: genetlink.Header{Command: c.command}, Data: c.data})
		if ok != c.ok || ok && got != 7 {
			t.Errorf("%s: %d, %v", c.name, got, ok)
		}
	}
}
