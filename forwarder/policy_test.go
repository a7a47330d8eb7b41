package forwarder_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
)

// TestPolicies: policy routes get rules and tables of their own in the client's namespace, which go with the vWire though
// the kernel would keep them.
func TestPolicies(t *testing.T) {
	ctx := within(t, time.Minute)
	d := pocket(t, kernel.Veth, nil)
	d.start(t)
	a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
	p := newPair(t)
	rules := func() (ours []netlink.Rule) {
		err := p.client.Do(func() error {
			all, err := netlink.RuleList(netlink.FAMILY_ALL)
			for _, r := range all {
				if r.Protocol == 104 {
					ours = append(ours, r)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return ours
	}
	v := kernelVWire(t, "policies", p, mechanisms.Ethernet, families["dual"])
	via4, via6 := families["dual"][1][0].Addr(), families["dual"][1][1].Addr()
	v.Client.Policies = []mechanisms.PolicyRoute{
		{Proto: 6, DstPort: [2]uint16{8080, 8090}, Routes: []mechanisms.Route{{Prefix: prefixes("0.0.0.0/0")[0], Via: via4}}},
		{From: prefixes("2001:db8::3/128")[0], Routes: []mechanisms.Route{{Prefix: prefixes("::/0")[0], Via: via6}}},
	}
	for range 2 { // the second time a policy has changed
		func() {
			defer a.hold(t, p)()
			if err := a.Set(ctx, v); err != nil {
				t.Fatal(err)
			}
		}()
		got := rules()
		// The first names no source: one rule for each address of the interface.
		if len(got) != 3 {
			t.Fatalf("%d rules, want 3: %v", len(got), got)
		}
		for _, r := range got {
			if r.IPProto == 6 && (r.Dport == nil || r.Dport.Start != v.Client.Policies[0].DstPort[0]) {
				t.Errorf("rule %v has not port %d", r, v.Client.Policies[0].DstPort[0])
			}
		}
		// The same with another port.
		v.Client.Policies = append([]mechanisms.PolicyRoute{}, v.Client.Policies...)
		v.Client.Policies[0].DstPort = [2]uint16{9000, 9000}
	}
	if err := a.Delete(ctx, v.ID); err != nil {
		t.Fatal(err)
	}
	if left := rules(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	a.nothingLeft(ctx, t)
}
