package forwarder_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"highwire/mechanisms"
)

// TestFirstPacket: the first packet after the near half is made arrives; WireGuard would drop it without a session.
func TestFirstPacket(t *testing.T) {
	onNodes(t, func(t *testing.T, nodes [2]*node) {
		kinds := [2]string{mechanisms.Kernel, mechanisms.Kernel}
		for _, way := range tunnels[1:] {
			for n := range 5 {
				t.Run(fmt.Sprint(way.typ, way.payload, n), func(t *testing.T) {
					r := newRemote(t, nodes, "w", way.typ, false, kinds, way.payload, families["ip4"])
					nodes[1].do(t, order{Op: "set", VWire: r.vwires[1], Hold: []string{r.pair.endpoint.Path()}})
					at := netip.AddrPortFrom(r.declared[1].Addresses[0].Addr(), 7777).String()
					var listener net.PacketConn
					if err := r.pair.endpoint.Do(func() (err error) { listener, err = net.ListenPacket("udp", at); return err }); err != nil {
						t.Fatal(err)
					}
					defer listener.Close()
					begun := time.Now()
					nodes[0].do(t, order{Op: "set", VWire: r.vwires[0], Hold: []string{r.pair.client.Path()}})
					t.Log("the near half took", time.Since(begun))
					if err := r.pair.client.Do(func() error {
						c, err := net.Dial("udp", at)
						if err == nil {
							defer c.Close()
							_, err = c.Write([]byte("first"))
						}
						return err
					}); err != nil {
						t.Fatal(err)
					}
					_ = listener.SetReadDeadline(time.Now().Add(20 * time.Second))
					if _, _, err := listener.ReadFrom(make([]byte, 64)); err != nil {
						t.Error("the first packet is lost:", err)
						for _, n := range nodes {
							n.explain(t)
						}
					}
					r.remove(t)
				})
			}
		}
	})
}

// TestNoHandshake: where the far side does not answer, the caller is told so before its time is over, and nothing is left.
func TestNoHandshake(t *testing.T) {
	onNodes(t, func(t *testing.T, nodes [2]*node) {
		kinds := [2]string{mechanisms.Kernel, mechanisms.Kernel}
		for _, way := range tunnels[1:] {
			t.Run(fmt.Sprint(way.typ, way.payload), func(t *testing.T) {
				r := newRemote(t, nodes, "w", way.typ, false, kinds, way.payload, families["ip4"])
				begun := time.Now()
				got := nodes[0].ask(t, order{Op: "set", VWire: r.vwires[0], Hold: []string{r.pair.client.Path()}, Within: 4 * time.Second})
				if !strings.Contains(got.Err, "has not answered the WireGuard handshake") {
					t.Errorf("%q; want to be told of the handshake", got.Err)
				}
				t.Logf("told after %s: %s", time.Since(begun).Round(time.Millisecond), got.Err)
				r.remove(t)
			})
		}
	})
}
