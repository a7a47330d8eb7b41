package forwarder_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"highwire/cmd/lab"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/vppapi/process"
)

// onNodes runs a test on two nodes with pocketvpp, and on two with the real VPP where there is one.
func onNodes(t *testing.T, test func(t *testing.T, nodes [2]*node)) {
	t.Helper()
	t.Run("pocket", func(t *testing.T) { test(t, newNodes(t, "")) })
	t.Run("vpp", func(t *testing.T) {
		bin, err := process.Find(os.Getenv("HIGHWIRE_VPP_BIN"))
		if err != nil {
			t.Skip("no real VPP: set HIGHWIRE_VPP_BIN or put vpp on PATH")
		}
		test(t, newNodes(t, bin))
	})
}

// remote is a vWire over two nodes: one vWire on each, which share a tunnel.
type remote struct {
	nodes    [2]*node
	pair     *pair
	vwires   [2]forwarder.VWire
	mtu      int
	far      netip.Addr
	payload  mechanisms.Payload
	declared [2]mechanisms.End // what peers are at both ends
}

// newRemote lets the nodes agree on a tunnel of the type for a vWire between peers of these kinds.
func newRemote(t *testing.T, nodes [2]*node, id, typ string, v6 bool, kinds [2]string, payload mechanisms.Payload, addresses [2][]netip.Prefix) *remote {
	t.Helper()
	r := &remote{nodes: nodes, pair: newPair(t), payload: payload, far: nodes[1].addrs[0]}
	if v6 {
		r.far = nodes[1].addrs[1]
	}
	r.vwires[0] = memifVWire(t, id+"-a", r.pair, kinds, payload, addresses)
	r.vwires[1] = memifVWire(t, id+"-b", r.pair, kinds, payload, addresses)
	r.declared = [2]mechanisms.End{r.vwires[0].Client, r.vwires[1].Endpoint}
	asks, answers := &r.vwires[0].Endpoint, &r.vwires[1].Client
	for _, e := range []*mechanisms.End{asks, answers} {
		e.Type, e.Params, e.Routes = typ, map[string]string{}, nil
	}
	maps.Copy(answers.Params, nodes[0].do(t, order{Op: "propose", End: *asks, Far: r.far}).Params)
	maps.Copy(answers.Params, nodes[1].do(t, order{Op: "complete", End: *answers}).Params)
	asks.Params = maps.Clone(answers.Params)
	mtu, err := strconv.Atoi(asks.Params[mechanisms.ParamMTU])
	if err != nil {
		t.Fatal(err)
	}
	r.mtu = mtu
	for i := range r.vwires {
		r.vwires[i].Client.MTU, r.vwires[i].Endpoint.MTU = uint32(mtu), uint32(mtu)
	}
	return r
}

// set makes both halves, as a Request does: the far one first.
func (r *remote) set(t *testing.T) {
	t.Helper()
	r.nodes[1].do(t, order{Op: "set", VWire: r.vwires[1], Hold: []string{r.pair.endpoint.Path()}})
	r.nodes[0].do(t, order{Op: "set", VWire: r.vwires[0], Hold: []string{r.pair.client.Path()}})
}

// remove takes both halves away and checks that only the uplink is left.
func (r *remote) remove(t *testing.T) {
	t.Helper()
	for i, n := range r.nodes {
		n.do(t, order{Op: "delete", VWire: r.vwires[i]})
		n.onlyUplink(t)
	}
}

// onlyUplink waits until the node's dataplane holds nothing but the uplink.
func (n *node) onlyUplink(t *testing.T) {
	t.Helper()
	emptied(t, func() (left []string, err error) {
		for line := range strings.Lines(n.ask(t, order{Op: "dump"}).Text) { // while VPP is away it is empty
			if !strings.Contains(line, "uplink:node") {
				left = append(left, fmt.Sprintf("on node %s: %s", n.addrs[0], line))
			}
		}
		return left, nil
	})
}

// tunnels are the ways between nodes, and what they carry.
var tunnels = []struct {
	typ     string
	payload mechanisms.Payload
}{
	{mechanisms.VXLAN, mechanisms.Ethernet}, {mechanisms.WireGuard, mechanisms.IP}, {mechanisms.Trunk, mechanisms.Ethernet}, {mechanisms.Trunk, mechanisms.IP},
}

// TestRemoteContract: between two nodes, over both families, packets of both families pass between all kinds of peers, and
// nothing is left.
func TestRemoteContract(t *testing.T) {
	onNodes(t, func(t *testing.T, nodes [2]*node) {
		ctx := within(t, 4*time.Minute)
		all := map[string][2]string{"kernel-kernel": {mechanisms.Kernel, mechanisms.Kernel}}
		maps.Copy(all, memifKinds)
		for _, way := range tunnels {
			for kind, kinds := range all {
				for _, outer := range []string{"ip4", "ip6"} {
					t.Run(fmt.Sprintf("%s-%s-%s-%s", way.typ, way.payload, kind, outer), func(t *testing.T) {
						r := newRemote(t, nodes, "w", way.typ, outer == "ip6", kinds, way.payload, families["dual"])
						far, _ := occupy(t, r.declared[1], r.pair.endpoint)
						begun := time.Now()
						r.set(t)
						t.Log("set took", time.Since(begun))
						near, fromClient := occupy(t, r.declared[0], r.pair.client)
						awaitLink(t, near, far)
						reachable(ctx, t, fromClient, families["dual"][1])
						if near == nil && far == nil {
							r.exactly(t)
							if flow, err := lab.Stream(ctx, r.pair.client, r.pair.endpoint, families["dual"][1][0].Addr(), 300*time.Millisecond); err != nil || flow.Bytes == 0 {
								t.Errorf("stream: %v, %v", flow, err)
							} else {
								t.Log("stream", flow)
							}
						}
						for _, n := range nodes {
							n.explain(t)
						}
						r.remove(t)
						r.pair.gone(t)
					})
				}
			}
		}
	})
}

// TestTrunk: vWires between two nodes share one WireGuard tunnel, whichever node asked and whatever they carry, and it goes
// with the last of them.
func TestTrunk(t *testing.T) {
	onNodes(t, func(t *testing.T, nodes [2]*node) {
		ctx := within(t, 2*time.Minute)
		kinds := [2]string{mechanisms.Kernel, mechanisms.Kernel}
		wireguards := func(n *node) int { return strings.Count(n.do(t, order{Op: "dump"}).Text, ":node: wireguard 192.0.2.") }
		var all []*remote
		back := [2]*node{nodes[1], nodes[0]}
		for i, order := range [][2]*node{nodes, nodes, back, back} {
			payload := [...]mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP}[i%2]
			r := newRemote(t, order, fmt.Sprint("w", i), mechanisms.Trunk, false, kinds, payload, families["ip4"])
			r.set(t)
			r.pair.reaches(ctx, t, families["ip4"][1])
			all = append(all, r)
		}
		for len(all) > 0 {
			for i, n := range nodes {
				if got := wireguards(n); got != 1 {
					t.Errorf("node %d has %d WireGuard interfaces for %d vWires", i, got, len(all))
				}
				n.explain(t)
			}
			r := all[0]
			if all = all[1:]; len(all) > 0 {
				for i, n := range r.nodes {
					n.do(t, order{Op: "delete", VWire: r.vwires[i]})
				}
				all[0].pair.reaches(ctx, t, families["ip4"][1])
			} else {
				r.remove(t)
			}
		}
	})
}

// exactly checks that packets of the size of the MTU pass whole, and one more byte is refused.
func (r *remote) exactly(t *testing.T) {
	t.Helper()
	for _, dst := range r.declared[1].Addresses {
		header := 28
		if dst.Addr().Is6() {
			header = 48
		}
		conn := r.deliver(t, dst.Addr(), make([]byte, r.mtu-header))
		if _, err := conn.Write(make([]byte, r.mtu-header+1)); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("to %s: one byte above the MTU of %d: %v", dst, r.mtu, err)
		}
	}
}

// deliver sends a datagram that must not be fragmented from the client to the endpoint, until it has arrived.
func (r *remote) deliver(t *testing.T, dst netip.Addr, data []byte) net.Conn {
	t.Helper()
	var listener net.PacketConn
	var conn net.Conn
	if err := errors.Join(r.pair.endpoint.Do(func() (err error) {
		listener, err = net.ListenPacket("udp", netip.AddrPortFrom(dst, 7777).String())
		return err
	}), r.pair.client.Do(func() (err error) {
		conn, err = net.Dial("udp", netip.AddrPortFrom(dst, 7777).String())
		return err
	})); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	defer listener.Close()
	if err := dontFragment(conn.(*net.UDPConn), dst.Is6()); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 65536)
	for range 60 { // a busy machine may lose one
		if _, err := conn.Write(data); err != nil {
			t.Fatalf("to %s: a packet of %d bytes: %v", dst, len(data), err)
		}
		_ = listener.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		if n, _, err := listener.ReadFrom(b); err == nil {
			if !bytes.Equal(b[:n], data) {
				t.Errorf("to %s: %d bytes came as %d others", dst, len(data), n)
			}
			return conn
		}
	}
	t.Errorf("to %s: a packet of %d bytes does not arrive", dst, len(data))
	return conn
}

// dontFragment makes the kernel refuse what does not fit.
func dontFragment(c *net.UDPConn, v6 bool) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		if v6 {
			set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
		} else {
			set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		}
	})
	return errors.Join(err, set)
}
