package vxlan

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"highwire/mechanisms"
	"highwire/mechanisms/tunnel"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

func node(addrs ...string) *Mechanism {
	var on tunnel.Fixed
	for _, a := range addrs {
		on = append(on, tunnel.Local{Addr: netip.MustParseAddr(a), MTU: 1500})
	}
	return New(on)
}

func end(id string, side mechanisms.Side, params map[string]string) mechanisms.End {
	return mechanisms.End{VWire: id, Side: side, Type: mechanisms.VXLAN, Payload: mechanisms.Ethernet, Params: params}
}

// agree lets a ask b, and returns both ends.
func agree(t *testing.T, a, b *Mechanism, id string, far netip.Addr) (asks, answers mechanisms.End) {
	t.Helper()
	asks, answers = end(id+"-a", mechanisms.Endpoint, map[string]string{}), end(id+"-b", mechanisms.Client, map[string]string{})
	for round := range 2 { // the second is a refresh
		before := maps.Clone(answers.Params)
		said, err := a.Propose(asks, far)
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
	return asks, answers
}

func objects(t *testing.T, m *Mechanism, e mechanisms.End) string {
	t.Helper()
	list, err := m.Objects(e)
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[vppapi.Key]vppapi.Object)
	for _, o := range list {
		want[o.Key()] = o
	}
	return vppapi.Diff(want, nil).String()
}

// TestAgree: two nodes that follow the wire make the two ends of one tunnel.
func TestAgree(t *testing.T) {
	t.Parallel()
	a, b := node("192.0.2.1", "2001:db8::1"), node("192.0.2.2", "2001:db8::2")
	for _, c := range []struct {
		asks, answers *Mechanism
		far           string
		odd           bool
		mtu           string
		text          string
	}{
		{a, b, "192.0.2.2", false, "1446", "from 192.0.2.1:4789 to 192.0.2.2:4789"},
		{b, a, "192.0.2.1", true, "1446", "from 192.0.2.2:4789 to 192.0.2.1:4789"},
		{a, b, "2001:db8::2", false, "1426", "from [2001:db8::1]:4789 to [2001:db8::2]:4789"},
		{b, a, "2001:db8::1", true, "1426", "from [2001:db8::2]:4789 to [2001:db8::1]:4789"},
	} {
		asks, answers := agree(t, c.asks, c.answers, c.text[:9], netip.MustParseAddr(c.far))
		vni := asks.Params[mechanisms.ParamVNI]
		if odd := strings.ContainsAny(vni[len(vni)-1:], "13579"); odd != c.odd || asks.Params[mechanisms.ParamMTU] != c.mtu {
			t.Errorf("to %s: %v", c.far, asks.Params)
		}
		name := asks.Name()
		want := fmt.Sprintf("+ interface %s: vxlan %s %s\n+ tag %s: tag hw:%s\n+ up %s: admin up\n", name, vni, c.text, name, name, name)
		if got := objects(t, c.asks, asks); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
		v, _ := parse(asks)
		w, _ := parse(answers)
		v.Local, v.Remote, v.Name = v.Remote, v.Local, w.Name
		if v != w {
			t.Errorf("the ends do not fit: %v, %v", v, w)
		}
	}
}

// TestManyVNIs: no two vWires between two nodes have one VNI, whoever asked.
func TestManyVNIs(t *testing.T) {
	t.Parallel()
	a, b := node("192.0.2.1"), node("192.0.2.2")
	seen := make(map[string]bool)
	for i := range 2000 {
		asks, answers, far := a, b, "192.0.2.2"
		if i%2 == 1 {
			asks, answers, far = b, a, "192.0.2.1"
		}
		one, other := agree(t, asks, answers, fmt.Sprint("w", i), netip.MustParseAddr(far))
		if vni := one.Params[mechanisms.ParamVNI]; seen[vni] {
			t.Fatalf("VNI %s twice", vni)
		} else {
			seen[vni] = true
		}
		if err := asks.Hold(one); err != nil {
			t.Fatal(err)
		}
		if err := answers.Hold(other); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRestart: another process, which knows nothing, agrees to what its former self has said.
func TestRestart(t *testing.T) {
	t.Parallel()
	a, b := node("192.0.2.1"), node("192.0.2.2")
	_, answers := agree(t, a, b, "w", netip.MustParseAddr("192.0.2.2"))
	again, err := node("192.0.2.2").Complete(answers)
	if err != nil || again[mechanisms.ParamVNI] != answers.Params[mechanisms.ParamVNI] {
		t.Errorf("%v became %v, %v", answers.Params, again, err)
	}
	moved, err := node("192.0.2.9").Complete(answers)
	if err != nil || moved[mechanisms.ParamDstIP] != "192.0.2.9" {
		t.Errorf("the address has changed: %v, %v", moved, err)
	}
}

// TestTranslated: behind a translator, the addresses before it decide who chooses which VNIs.
func TestTranslated(t *testing.T) {
	t.Parallel()
	params := map[string]string{mechanisms.ParamSrcIP: "192.0.2.1", mechanisms.ParamOrigSrcIP: "203.0.113.1"}
	got, err := node("192.0.2.2").Complete(end("w", mechanisms.Client, params))
	if vni := got[mechanisms.ParamVNI]; err != nil || !strings.ContainsAny(vni[len(vni)-1:], "13579") {
		t.Errorf("%v, %v", got, err)
	}
}

// TestRefuse: bad input is refused by the name of the parameter, and nothing is held.
func TestRefuse(t *testing.T) {
	t.Parallel()
	good := map[string]string{mechanisms.ParamSrcIP: "192.0.2.1", mechanisms.ParamDstIP: "192.0.2.2", mechanisms.ParamVNI: "6"}
	for _, c := range []struct {
		key, value     string
		complete, hold fault.Kind
	}{
		{mechanisms.ParamSrcIP, "", fault.Invalid, fault.Invalid},
		{mechanisms.ParamSrcIP, "nonsense", fault.Invalid, fault.Invalid},
		{mechanisms.ParamSrcIP, "192.0.2.2", fault.Invalid, fault.Invalid},
		{mechanisms.ParamSrcIP, "2001:db8::1", fault.Unavailable, fault.Invalid},
		{mechanisms.ParamSrcPort, "0", fault.Invalid, fault.Invalid},
		{mechanisms.ParamSrcPort, "70000", fault.Invalid, fault.Invalid},
		{mechanisms.ParamVNI, "16777216", fault.Invalid, fault.Invalid},
		{mechanisms.ParamVNI, "-2", fault.Invalid, fault.Invalid},
		{mechanisms.ParamVNI, "0", 0, fault.Invalid},
		{mechanisms.ParamVNI, "", 0, fault.Invalid},
		{mechanisms.ParamMTU, "900", fault.Invalid, 0},
		{mechanisms.ParamDstIP, "192.0.2.77", 0, fault.Invalid},
		{mechanisms.ParamDstPort, "4790", 0, fault.Invalid},
		{mechanisms.ParamOrigSrcIP, "x", fault.Invalid, 0},
	} {
		params := maps.Clone(good)
		params[c.key] = c.value
		e := end("w", mechanisms.Client, params)
		m := node("192.0.2.2")
		check := func(what string, err error, want fault.Kind) {
			t.Helper()
			if (err != nil) != (want != 0) || err != nil && (!fault.Is(err, want) || want == fault.Invalid && !strings.Contains(err.Error(), c.key)) {
				t.Errorf("%s=%q: %s: %v", c.key, c.value, what, err)
			}
		}
		_, err := m.Complete(e)
		check("complete", err, c.complete)
		check("hold", m.Hold(e), c.hold)
	}
}

// TestInUse: a VNI that another vWire has with the same node is a conflict until that is gone; with another node it is none.
func TestInUse(t *testing.T) {
	t.Parallel()
	m := node("192.0.2.1")
	make := func(id, far string) mechanisms.End {
		return end(id, mechanisms.Endpoint, map[string]string{mechanisms.ParamSrcIP: "192.0.2.1", mechanisms.ParamDstIP: far, mechanisms.ParamVNI: "8"})
	}
	first := make("first", "192.0.2.2")
	if err := m.Hold(first); err != nil {
		t.Fatal(err)
	}
	if err := m.Hold(make("other", "192.0.2.3")); err != nil {
		t.Error(err)
	}
	if err := m.Hold(make("second", "192.0.2.2")); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "vni 8") {
		t.Errorf("%v", err)
	}
	m.Drop(first)
	if err := m.Hold(make("second", "192.0.2.2")); err != nil {
		t.Error(err)
	}
}
