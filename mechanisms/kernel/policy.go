package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// Policies are the policy routes of an end: rules that send some traffic to routing tables of their own, over the
// interface (PolicyRoute of the NSM wire).
type Policies struct {
	place
	addresses []netip.Prefix
	policies  []mechanisms.PolicyRoute
}

// rulePriority comes before the kernel's main table (32766).
const rulePriority = 30000

// Key is {carrier, end policies}.
func (p Policies) Key() vppapi.Key {
	return vppapi.Key{Kind: vppapi.KindCarrier, Name: p.name + " policies"}
}

// Uses what Carrier uses, and Carrier: routes need a link that is up.
func (p Policies) Uses() []vppapi.Key { return append(p.ready(), Carrier{place: p.place}.Key()) }

// Outlives: rules stay when their interface goes.
func (p Policies) Outlives() {}

// Equal compares by value.
func (p Policies) Equal(o vppapi.Object) bool {
	other, ok := o.(Policies)
	return ok && p.place == other.place && slices.Equal(p.addresses, other.addresses) && slices.EqualFunc(p.policies, other.policies, mechanisms.PolicyRoute.Equal)
}

func (p Policies) String() string {
	return fmt.Sprintf("%s policy routes %s", p.iface, list(p.policies))
}

// table is the routing table of a policy. The high byte tells ours from other people's, who use small numbers.
func (p Policies) table(i int) int {
	sum := sha256.Sum256([]byte(p.name))
	return 0x68<<24 | int(binary.BigEndian.Uint32(sum[:])&0x3ffff)<<6 | i&0x3f
}

// rules are what the kernel is to hold for a policy. One that names no source speaks of the interface's own addresses.
func (p Policies) rules(i int) []*netlink.Rule {
	policy := p.policies[i]
	from := []netip.Prefix{policy.From}
	if !policy.From.IsValid() {
		from = nil
		for _, a := range p.addresses {
			from = append(from, netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
		}
	}
	var rules []*netlink.Rule
	for _, f := range from {
		r := netlink.NewRule()
		r.Family, r.Priority, r.Table, r.Protocol = netlink.FAMILY_V4, rulePriority, p.table(i), routeProtocol
		if f.Addr().Is6() {
			r.Family = netlink.FAMILY_V6
		}
		r.Src, r.IPProto = ipNet(f), int(policy.Proto)
		if policy.DstPort != [2]uint16{} {
			r.Dport = netlink.NewRulePortRange(policy.DstPort[0], policy.DstPort[1])
		}
		if policy.SrcPort != [2]uint16{} {
			r.Sport = netlink.NewRulePortRange(policy.SrcPort[0], policy.SrcPort[1])
		}
		rules = append(rules, r)
	}
	return rules
}

// Realize makes rules and tables exactly these: the old ones go first, as rules cannot be compared part by part.
func (p Policies) Realize(ctx context.Context) (changed bool, err error) {
	err = p.namespaces.enter(ctx, p.namespace, func(h *netlink.Handle) error {
		link, err := p.own(h)
		if err != nil {
			return err
		}
		if err := p.clear(h); err != nil {
			return err
		}
		for i, policy := range p.policies {
			for _, r := range policy.Routes {
				route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.Prefix), Protocol: routeProtocol, Table: p.table(i)}
				if r.Via.IsValid() {
					route.Gw, route.Flags = r.Via.AsSlice(), int(netlink.FLAG_ONLINK)
				} else if r.Prefix.Addr().Is4() {
					route.Scope = netlink.SCOPE_LINK
				}
				if err := h.RouteReplace(route); err != nil {
					return fmt.Errorf("route %s of policy %d on %s: %w", r.Prefix, i, p.iface, err)
				}
			}
			for _, r := range p.rules(i) {
				if err := h.RuleAdd(r); err != nil {
					return fmt.Errorf("rule of policy %d on %s: %w", i, p.iface, err)
				}
			}
		}
		return nil
	})
	return true, err
}

// clear removes all rules of this end. Their tables' routes go with the interface, or are replaced.
func (p Policies) clear(h *netlink.Handle) error {
	rules, err := h.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	for _, r := range rules {
		if r.Protocol != routeProtocol || r.Table>>6 != p.table(0)>>6 {
			continue
		}
		if err := h.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove rule %s: %w", r, err)
		}
	}
	return nil
}

// Release removes the rules. In a namespace that is gone there are none.
func (p Policies) Release(ctx context.Context) error {
	err := p.namespaces.enter(ctx, p.namespace, p.clear)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}
