package main

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"highwire/cmd/lab"
)

// The addresses of two nodes on the network between them.
var (
	nearAddrs = []netip.Prefix{netip.MustParsePrefix("198.18.0.1/24"), netip.MustParsePrefix("2001:db8:18::1/64")}
	farAddrs  = []netip.Prefix{netip.MustParsePrefix("198.18.0.2/24"), netip.MustParsePrefix("2001:db8:18::2/64")}
)

// twoNodes are two agents, each with a dataplane in a network namespace of its own. Clients join near, endpoints far.
type twoNodes struct {
	near, far *node
	link      *lab.Link
	flags     []string // of both agents
}

// newTwoNodes starts both agents. family is that of the network between them: 0 for IPv4, 1 for IPv6.
func newTwoNodes(t *testing.T, exe string, family int, flags ...string) *twoNodes {
	t.Helper()
	n := &twoNodes{near: nodeFiles(t, exe), far: nodeFiles(t, exe), flags: flags}
	n.near.space, n.far.space = space(t), space(t)
	var err error
	if n.link, err = lab.NewLink("wire0", n.near.space, n.far.space, nearAddrs, farAddrs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.link.Close() })
	n.far.identities = n.near.workload()
	n.serveNear(nearAddrs[family].Addr())
	n.serveFar(farAddrs[family].Addr(), nearAddrs[family].Addr())
	return n
}

func urlOf(a netip.Addr) string { return "tcp://" + netip.AddrPortFrom(a, 5001).String() }

func (n *twoNodes) serveNear(a netip.Addr) {
	n.near.t.Helper()
	n.near.serve(append(n.flags, "--name", "near", "--uplink", "wire0", "--listen", urlOf(a))...)
}

func (n *twoNodes) serveFar(a, near netip.Addr) {
	n.far.t.Helper()
	n.far.serve(append(n.flags, "--name", "far", "--uplink", "wire0", "--listen", urlOf(a), "--registry", urlOf(near))...)
}

// during makes t the test that failures of both nodes belong to.
func (n *twoNodes) during(t *testing.T) { n.near.t, n.far.t = t, t }

func (n *twoNodes) end() {
	n.far.agent.end(syscall.SIGTERM)
	n.near.agent.end(syscall.SIGTERM)
}

// overheads of a tunnel by payload and family of the network between the nodes.
var overheads = map[string][2]int{"ETHERNET": {54, 74}, "IP": {60, 80}}

// Every pair of mechanisms across two nodes, in both payloads and both families inside.
func TestRemotePairs(t *testing.T) {
	exe := binary(t)
	onVPPs(t, func(t *testing.T, vpp string) {
		n := newTwoNodes(t, exe, 0, "--vpp", vpp)
		for _, payload := range []string{"ETHERNET", "IP"} {
			for _, client := range []string{"kernel", "memif"} {
				for _, endpoint := range []string{"kernel", "memif"} {
					name := strings.ToLower(client + "-" + endpoint + "-" + payload)
					t.Run(name, func(t *testing.T) {
						n.during(t)
						remotePair(t, n, name, client, endpoint, payload, overheads[payload][0])
					})
				}
			}
		}
		n.during(t)
		n.end()
	})
}

// The network between the nodes is IPv6.
func TestRemoteOverIPv6(t *testing.T) {
	exe := binary(t)
	onVPPs(t, func(t *testing.T, vpp string) {
		n := newTwoNodes(t, exe, 1, "--vpp", vpp)
		for _, payload := range []string{"ETHERNET", "IP"} {
			t.Run(payload, func(t *testing.T) {
				n.during(t)
				remotePair(t, n, "six-"+strings.ToLower(payload), "kernel", "kernel", payload, overheads[payload][1])
			})
		}
		n.during(t)
		n.end()
	})
}

// Where both nodes want it, vWires of either payload go through the trunk; where the far one does not, they go as to any node.
func TestRemoteTrunk(t *testing.T) {
	exe := binary(t)
	onVPPs(t, func(t *testing.T, vpp string) {
		n := newTwoNodes(t, exe, 0, "--vpp", vpp, "--trunk", "auto")
		for _, c := range []struct{ payload, ends string }{{"ETHERNET", "kernel"}, {"IP", "kernel"}, {"ETHERNET", "memif"}, {"IP", "memif"}} {
			name := strings.ToLower("trunk-" + c.ends + "-" + c.payload)
			t.Run(name, func(t *testing.T) { n.during(t); remotePair(t, n, name, c.ends, c.ends, c.payload, 60+74) })
		}
		n.during(t)
		n.far.agent.end(syscall.SIGTERM)
		n.flags = []string{"--vpp", vpp}
		n.serveFar(farAddrs[0].Addr(), nearAddrs[0].Addr())
		for _, payload := range []string{"ETHERNET", "IP"} {
			name := strings.ToLower("no-trunk-" + payload)
			t.Run(name, func(t *testing.T) {
				n.during(t)
				remotePair(t, n, name, "kernel", "kernel", payload, overheads[payload][0])
			})
		}
		n.during(t)
		n.end()
	})
}

func remotePair(t *testing.T, n *twoNodes, service, client, endpoint, payload string, overhead int) {
	from, to := space(t), space(t)
	mtu := 1500 - overhead
	nse := n.far.join("endpoint", "--name", "nse-"+service, "--service", service, "--cidr", "172.16.1.0/24", "--cidr", "fd16::/64",
		"--payload", payload, "--mechanism", endpoint, "--netns", to.Path())
	nse.await("registered ")
	args := []string{"client", "--name", "nsc-" + service, "--netns", from.Path(), client + "://" + service + "/nsm-1"}
	if client == "memif" {
		args = append(args, "--ping", "5", "--ping-size", fmt.Sprint(mtu))
	}
	nsc := n.near.join(args...)
	nsc.await("connected " + client)
	for _, addr := range []string{"172.16.1.2", "fd16::2"} {
		if client == "memif" {
			nsc.await("ping " + addr + ": 5 sent")
			continue
		}
		reaches(t, from, addr)
		whole(t, from, addr, mtu)
	}
	if client == "kernel" {
		refused(t, from, mtu)
	}
	if client == "kernel" && endpoint == "kernel" {
		if flow, err := lab.Stream(t.Context(), from, to, netip.MustParseAddr("172.16.1.2"), 200*time.Millisecond); err != nil || flow.Bytes == 0 {
			t.Errorf("TCP: %s, %v", flow, err)
		}
	}
	for side, node := range map[string]*node{"near": n.near, "far": n.far} {
		if list := node.vwires(); len(list) != 1 || list[0].State != "up" || list[0].Datapath != "vpp" {
			t.Errorf("%s node: vWires %+v; want one up, through VPP", side, list)
		}
	}
	nsc.end(syscall.SIGTERM)
	nse.end(syscall.SIGTERM)
	if said, _ := nsc.text(); strings.Contains(said, " 0 received") {
		t.Errorf("no packet of just the MTU came through:\n%s", said)
	}
	n.nothingLeft(t)
}

// whole checks that a packet of just the MTU passes in one piece.
func whole(t *testing.T, from *lab.Namespace, addr string, mtu int) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		got, err := from.Probe(t.Context(), netip.MustParseAddr(addr), mtu)
		if got.Answered {
			return
		}
		if err != nil || got.MTU != 0 || time.Now().After(deadline) {
			t.Fatalf("a packet of %d bytes to %s: %+v, %v", mtu, addr, got, err)
		}
	}
}

// refused checks that a host behind the client is told what passes when it sends one byte more.
func refused(t *testing.T, client *lab.Namespace, mtu int) {
	t.Helper()
	host := space(t)
	router := []netip.Prefix{netip.MustParsePrefix("10.8.0.1/24"), netip.MustParsePrefix("fd08::1/64")}
	if err := lab.Join("lan0", host, client, []netip.Prefix{netip.MustParsePrefix("10.8.0.2/24"), netip.MustParsePrefix("fd08::2/64")}, router); err != nil {
		t.Fatal(err)
	}
	if err := client.Forward(); err != nil {
		t.Fatal(err)
	}
	if err := host.Route("lan0", router[0].Addr(), router[1].Addr()); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"172.16.1.2", "fd16::2"} {
		deadline := time.Now().Add(within)
		for {
			got, err := host.Probe(t.Context(), netip.MustParseAddr(addr), mtu+1)
			if got.MTU == mtu {
				break
			}
			if err != nil || got != (lab.Passage{}) || time.Now().After(deadline) {
				t.Fatalf("one byte more to %s: %+v, %v; want to be told %d", addr, got, err, mtu)
			}
		}
	}
}

// nothingLeft checks that no vWire and no tunnel is left on either node.
func (n *twoNodes) nothingLeft(t *testing.T) {
	t.Helper()
	for side, node := range map[string]*node{"near": n.near, "far": n.far} {
		deadline := time.Now().Add(within)
		for {
			out, err := exec.Command(node.exe, "vppctl", "--admin", node.path("admin.sock"), "--", "show interface").CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			left := strings.Contains(string(out), "vxlan_tunnel") || strings.Contains(string(out), "\nwg") || strings.Contains(string(out), "memif")
			if list := node.vwires(); len(list) == 0 && !left {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("%s node keeps %+v\n%s", side, list, out)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}
