package trunk

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"highwire/mechanisms"
	"highwire/mechanisms/tunnel"
	"highwire/mechanisms/wireguard"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

func node(secret byte, addrs ...string) *Mechanism {
	var on tunnel.Fixed
	for _, a := range addrs {
		on = append(on, tunnel.Local{Addr: netip.MustParseAddr(a), MTU: 1500})
	}
	return New(on, wireguard.NewSecret([32]byte{secret}))
}

func end(id string, side mechanisms.Side) mechanisms.End {
	return mechanisms.End{VWire: id, Side: side, Type: mechanisms.Trunk, Payload: mechanisms.Ethernet, Params: map[string]string{}}
}

// agree lets a ask b, which it knows as far, twice: the second time is a refresh.
func agree(t *testing.T, a, b *Mechanism, id, far string) (asks, answers mechanisms.End) {
	t.Helper()
	asks, answers = end(id, mechanisms.Endpoint), end(id, mechanisms.Client)
	for round := range 2 {
		before := maps.Clone(answers.Params)
		said, err := a.Propose(asks, netip.MustParseAddr(far))
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(answers.Params, said)
		chosen, err := b.Complete(answers)
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(answers.Params, chosen)
		asks.Params = maps.Clone(answers.Params)
		if round > 0 && !maps.Equal(before, answers.Params) {
			t.Fatalf("%v was agreed, and then %v", before, answers.Params)
		}
	}
	if err := a.Hold(asks); err != nil {
		t.Fatal(err)
	}
	if err := b.Hold(answers); err != nil {
		t.Fatal(err)
	}
	return asks, answers
}

func objects(t *testing.T, m *Mechanism, e mechanisms.End) map[vppapi.Key]vppapi.Object {
	t.Helper()
	list, err := m.Objects(e)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[vppapi.Key]vppapi.Object)
	for _, o := range list {
		all[o.Key()] = o
	}
	return all
}

// TestOneTrunk: vWires in both directions want one and the same trunk, and each its own network in it; the ends fit.
func TestOneTrunk(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]string{{"192.0.2.1", "192.0.2.2"}, {"2001:db8::1", "2001:db8::2"}} {
		a, b := node(1, c[0]), node(2, c[1])
		shared := make(map[vppapi.Key]vppapi.Object)
		vnis := make(map[string]bool)
		for i := range 100 {
			asks, answers := a, b
			if i%2 == 1 {
				asks, answers = b, a
			}
			far := c[1-i%2]
			x, y := agree(t, asks, answers, fmt.Sprint("w", i), far)
			if vni := x.Params[mechanisms.ParamVNI]; vnis[vni] {
				t.Fatalf("VNI %s twice", vni)
			} else {
				vnis[vni] = true
			}
			p, err := asks.parse(x)
			if err != nil {
				t.Fatal(err)
			}
			q, err := answers.parse(y)
			if err != nil {
				t.Fatal(err)
			}
			if p.peer.Public != q.iface.Public || p.peer.Remote != netip.AddrPortFrom(q.iface.Local, q.iface.Port) || p.frame.Remote != q.frame.Local {
				t.Fatalf("the ends do not fit: %v, %v", p, q)
			}
			for k, o := range objects(t, a, [2]mechanisms.End{x, y}[i%2]) {
				if !strings.Contains(k.Name, vppapi.NodeSide) && k.Kind != vppapi.KindRoute {
					continue
				}
				if other, there := shared[k]; there && other != o {
					t.Fatalf("two vWires want %s otherwise: %s, %s", k, other, o)
				}
				shared[k] = o
			}
		}
		if len(shared) != 6 {
			t.Errorf("one trunk has six objects, there are %d: %v", len(shared), shared)
		}
	}
}

// TestPlan is what one vWire makes.
func TestPlan(t *testing.T) {
	t.Parallel()
	a, b := node(1, "192.0.2.1"), node(2, "192.0.2.2")
	x, _ := agree(t, a, b, "w", "192.0.2.2")
	if mtu := x.Params[mechanisms.ParamMTU]; mtu != "1366" {
		t.Errorf("MTU %s", mtu)
	}
	p, err := a.parse(x)
	if err != nil {
		t.Fatal(err)
	}
	n := p.iface.Name
	want := fmt.Sprintf(`+ interface %[1]s: wireguard 192.0.2.1:%[2]s key %[3]s
+ interface w:endpoint: vxlan %[4]s from [%[5]s]:4789 to [%[6]s]:4789
+ tag %[1]s: tag hw:%[1]s
+ tag w:endpoint: tag hw:w:endpoint
+ peer %[1]s: wireguard peer %[7]s at 192.0.2.2:%[8]s
+ address %[1]s %[5]s/128: address %[5]s/128
+ route %[6]s/128: route %[6]s/128 via %[6]s on %[1]s
+ up %[1]s: admin up
+ up w:endpoint: admin up
`, n, x.Params["src_port"], x.Params["src_public_key"], x.Params["vni"], p.frame.Local, p.frame.Remote, x.Params["dst_public_key"], x.Params["dst_port"])
	if got := vppapi.Diff(objects(t, a, x), nil).String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// TestPlanIP is what is different for a vWire that carries IP.
func TestPlanIP(t *testing.T) {
	t.Parallel()
	x, _ := agree(t, node(1, "192.0.2.1"), node(2, "192.0.2.2"), "w", "192.0.2.2")
	x.Payload = mechanisms.IP
	x.Addresses = []netip.Prefix{netip.MustParsePrefix("172.16.1.2/32")}
	x.Remote = []netip.Prefix{netip.MustParsePrefix("fd16::3/128")}
	plan := vppapi.Diff(objects(t, node(1, "192.0.2.1"), x), nil).String()
	for _, line := range []string{
		":4789 routed\n", "+ setting w:endpoint mtu: mtu 1366\n", "neighbor 172.16.1.2 at ff:ff:ff:ff:ff:ff\n", "neighbor fe80::1:1 at ff:ff:ff:ff:ff:ff\n",
	} {
		if !strings.Contains(plan, line) {
			t.Errorf("%q is not in\n%s", line, plan)
		}
	}
}

// TestLost: a node that has lost everything but its secret says the same again; one that has lost that has another trunk.
func TestLost(t *testing.T) {
	t.Parallel()
	a, b := node(1, "192.0.2.1"), node(2, "192.0.2.2")
	x, y := agree(t, a, b, "w", "192.0.2.2")
	again, err := node(1, "192.0.2.1").Propose(end("other", mechanisms.Endpoint), netip.MustParseAddr("192.0.2.2"))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range again {
		if x.Params[k] != v && k != mechanisms.ParamMTU { // which the far side has a say in
			t.Errorf("%s was %s and is %s", k, x.Params[k], v)
		}
	}
	if _, err := node(3, "192.0.2.2").Objects(y); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), mechanisms.ParamDstKey) {
		t.Errorf("with another secret: %v", err)
	}
}

// TestRefuse: bad input is refused by the name of the parameter.
func TestRefuse(t *testing.T) {
	t.Parallel()
	_, answers := agree(t, node(1, "192.0.2.1"), node(2, "192.0.2.2"), "w", "192.0.2.2")
	for _, c := range []struct {
		key, value     string
		complete, hold fault.Kind
	}{
		{mechanisms.ParamSrcIP, "x", fault.Invalid, fault.Invalid},
		{mechanisms.ParamSrcPort, "", fault.Invalid, fault.Invalid},
		{mechanisms.ParamSrcKey, "c2hvcnQ=", fault.Invalid, fault.Invalid},
		{mechanisms.ParamVNI, "16777216", fault.Invalid, fault.Invalid},
		{mechanisms.ParamVNI, "0", 0, fault.Invalid},
		{mechanisms.ParamMTU, "12", fault.Invalid, 0},
		{mechanisms.ParamDstIP, "192.0.2.77", 0, fault.Invalid},
		{mechanisms.ParamDstPort, "4789", 0, fault.Invalid},
		{mechanisms.ParamDstKey, answers.Params[mechanisms.ParamSrcKey], 0, fault.Invalid},
	} {
		e := answers
		e.Params = maps.Clone(answers.Params)
		e.Params[c.key] = c.value
		m := node(2, "192.0.2.2")
		check := func(what string, err error, want fault.Kind) {
			t.Helper()
			if (err != nil) != (want != 0) || err != nil && !fault.Is(err, want) {
				t.Errorf("%s=%q: %s: %v", c.key, c.value, what, err)
			}
		}
		_, err := m.Complete(e)
		check("complete", err, c.complete)
		check("hold", m.Hold(e), c.hold)
	}
	if _, err := node(1, "192.0.2.1").Propose(end("w", mechanisms.Endpoint), netip.Addr{}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("to nobody: %v", err)
	}
}
