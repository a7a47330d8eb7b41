package forwarder_test

import (
	"strings"
	"testing"
	"time"

	"highwire/mechanisms"
)

// TestTunnelFailures: every message that a vWire over a tunnel takes fails once; each time the caller is told and only the
// uplink is left.
func TestTunnelFailures(t *testing.T) {
	nodes := newNodes(t, "")
	for _, way := range tunnels {
		t.Run(way.typ+"-"+string(way.payload), func(t *testing.T) {
			r := newRemote(t, nodes, "failing", way.typ, false, [2]string{mechanisms.Kernel, mechanisms.Kernel}, way.payload, families["dual"])
			near, far := nodes[0], nodes[1]
			far.do(t, order{Op: "set", VWire: r.vwires[1], Hold: []string{r.pair.endpoint.Path()}})
			near.await(t, "up uplink:node")
			for n := int64(1); ; n++ {
				if n > 100 {
					t.Fatal("a vWire takes over 100 messages")
				}
				near.do(t, order{Op: "trouble", Message: n})
				answer := near.ask(t, order{Op: "set", VWire: r.vwires[0], Hold: []string{r.pair.client.Path()}})
				near.do(t, order{Op: "trouble"})
				if answer.Err == "" {
					if n < 6 {
						t.Errorf("only %d messages were made to fail", n-1)
					}
					break
				}
				if !strings.Contains(answer.Err, "VPP refused") {
					t.Errorf("message %d: %s", n, answer.Err)
				}
				if list := near.do(t, order{Op: "list"}).Text; list != "" {
					t.Errorf("message %d failed and the vWire is there still: %s", n, list)
				}
				near.onlyUplink(t)
			}
			r.pair.reaches(within(t, time.Minute), t, families["dual"][1])
			r.remove(t)
			r.pair.gone(t)
		})
	}
}

// TestTunnelTimeouts: every message that a vWire over a tunnel takes stays unanswered once; in the end the vWire is there.
func TestTunnelTimeouts(t *testing.T) {
	if testing.Short() {
		t.Skip("each message takes some seconds to time out")
	}
	t.Parallel()
	for _, way := range tunnels {
		t.Run(way.typ+"-"+string(way.payload), func(t *testing.T) {
			t.Parallel()
			nodes := newNodes(t, "")
			near, far := nodes[0], nodes[1]
			r := newRemote(t, nodes, "silent", way.typ, false, [2]string{mechanisms.Kernel, mechanisms.Kernel}, way.payload, families["ip4"])
			far.do(t, order{Op: "set", VWire: r.vwires[1], Hold: []string{r.pair.endpoint.Path()}})
			near.await(t, "up uplink:node")
			// Two of those that make the tunnel, and one each of those that configure it and that join it.
			for _, n := range []int64{1, 2, 5, 9} {
				near.do(t, order{Op: "trouble", Message: n, Silent: true})
				near.do(t, order{Op: "set", VWire: r.vwires[0], Hold: []string{r.pair.client.Path()}})
				near.do(t, order{Op: "trouble"})
				r.pair.reaches(within(t, time.Minute), t, families["ip4"][1])
				near.do(t, order{Op: "delete", VWire: r.vwires[0]})
				near.onlyUplink(t)
			}
			r.remove(t)
			r.pair.gone(t)
		})
	}
}

// TestUplinkFailures: every message that the uplink takes fails once; it is tried again, and vWires over it work.
func TestUplinkFailures(t *testing.T) {
	t.Parallel()
	for n := int64(1); n <= 8; n++ {
		nodes := newNodes(t, "")
		nodes[0].do(t, order{Op: "trouble", Message: n})
		r := newRemote(t, nodes, "patient", mechanisms.VXLAN, false, [2]string{mechanisms.Kernel, mechanisms.Kernel}, mechanisms.Ethernet, families["ip4"])
		nodes[0].await(t, "up uplink:node", "address uplink:node 192.0.2.1/24")
		nodes[0].do(t, order{Op: "trouble"})
		r.set(t)
		r.pair.reaches(within(t, time.Minute), t, families["ip4"][1])
		r.remove(t)
	}
}

// await waits until the node's dataplane has the objects.
func (n *node) await(t *testing.T, objects ...string) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		dump, missing := n.ask(t, order{Op: "dump"}).Text, ""
		for _, o := range objects {
			if !strings.Contains(dump, o) {
				missing = o
			}
		}
		if missing == "" {
			return
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatalf("no %q in\n%s", missing, dump)
		}
	}
}
