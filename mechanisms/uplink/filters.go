package uplink

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"highwire/mechanisms/vxlan"
	"highwire/mechanisms/wireguard"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// Filters are what connects the pair with the uplink, the last thing to be made; with it both ends of the pair come up.
type Filters struct {
	uplink string
	index  int
	addrs  [2]netip.Addr // IPv4, IPv6; zero where there is none
}

// Key is {carrier, Name and uplink}: on another uplink it is another object.
func (f Filters) Key() vppapi.Key {
	return vppapi.Key{Kind: vppapi.KindCarrier, Name: Name + " " + f.uplink}
}

// Uses the pair, and VPP's interface on it.
func (f Filters) Uses() []vppapi.Key { return []vppapi.Key{Pair{}.Key(), vppapi.Interface(Name)} }

// Outlives: filters stay when the pair goes.
func (f Filters) Outlives() {}

func (f Filters) String() string {
	return fmt.Sprintf("filters on %s for tunnels to %s", f.uplink, list(f.addrs))
}

func list(addrs [2]netip.Addr) string {
	switch {
	case !addrs[0].IsValid():
		return addrs[1].String()
	case !addrs[1].IsValid():
		return addrs[0].String()
	}
	return addrs[0].String() + " and " + addrs[1].String()
}

// rule is one filter: what it matches and where that goes.
type rule struct {
	protocol uint16
	keys     []nl.TcU32Key
	copies   bool // and the packet goes its way
	to       int  // index of the interface that sends it
}

// firstPriority of our filters, in order. It stands for "hw" and is unlikely to be anybody else's.
const firstPriority = 0x6877

// match compares 32 bits of a packet, counted from the network header.
func match(at int32, value, mask uint32) nl.TcU32Key {
	return nl.TcU32Key{Val: value, Mask: mask, Off: at}
}

// matchAddr compares an address.
func matchAddr(at int32, a netip.Addr) []nl.TcU32Key {
	var keys []nl.TcU32Key
	b := a.AsSlice()
	for i := 0; i < len(b); i += 4 {
		keys = append(keys, match(at+int32(i), uint32(b[i])<<24|uint32(b[i+1])<<16|uint32(b[i+2])<<8|uint32(b[i+3]), 0xffffffff))
	}
	return keys
}

// family is how tunnels of one family are told.
type family struct {
	protocol uint16
	udp      []nl.TcU32Key // an unfragmented UDP datagram right behind the header
	src, dst int32
	header   int32
}

var families = [2]family{
	{unix.ETH_P_IP, []nl.TcU32Key{match(0, 0x45<<24, 0xff<<24), match(4, 0, 0x3fff), match(8, 17<<16, 0xff<<16)}, 12, 16, 20},
	{unix.ETH_P_IPV6, []nl.TcU32Key{match(4, 17<<8, 0xff<<8)}, 8, 24, 40},
}

// icmp6 is an ICMPv6 message of the type right behind the header.
func icmp6(kind uint32) []nl.TcU32Key {
	return []nl.TcU32Key{match(4, 58<<8, 0xff<<8), match(40, kind<<24, 0xff<<24)}
}

const (
	solicitation  = 135 // RFC 4861
	advertisement = 136
)

// inward are the rules from the uplink to VPP: VXLAN, WireGuard by its ports and the four message types it has, which are
// followed by three zero bytes; and copies of ARP and neighbour advertisements.
func (f Filters) inward(to int) []rule {
	var rules []rule
	for i, a := range f.addrs {
		if !a.IsValid() {
			continue
		}
		fam := families[i]
		tunnel := slices.Concat(fam.udp, matchAddr(fam.dst, a))
		rules = append(rules,
			rule{fam.protocol, slices.Concat(tunnel, []nl.TcU32Key{match(fam.header, vxlan.Port, 0xffff)}), false, to},
			rule{fam.protocol, slices.Concat(tunnel, []nl.TcU32Key{match(fam.header, wireguard.FirstPort, wireguard.PortMask), match(fam.header+8, 0, 0xf8ffffff)}), false, to},
		)
		if a.Is4() {
			rules = append(rules, rule{unix.ETH_P_ARP, []nl.TcU32Key{{}}, true, to})
		} else {
			rules = append(rules, rule{unix.ETH_P_IPV6, icmp6(advertisement), true, to})
		}
	}
	return rules
}

// outward are the rules from VPP to the uplink: tunnels from our addresses, ARP requests and neighbour solicitations. The
// kernel answers its neighbours itself.
func (f Filters) outward() []rule {
	var rules []rule
	for i, a := range f.addrs {
		if !a.IsValid() {
			continue
		}
		fam := families[i]
		rules = append(rules, rule{fam.protocol, slices.Concat(fam.udp, matchAddr(fam.src, a)), false, f.index})
		if a.Is4() {
			rules = append(rules, rule{unix.ETH_P_ARP, []nl.TcU32Key{match(4, 1, 0xffff)}, false, f.index})
		} else {
			rules = append(rules, rule{unix.ETH_P_IPV6, icmp6(solicitation), false, f.index})
		}
	}
	return rules
}

// Realize brings the pair up and makes the filters exactly these.
func (f Filters) Realize(context.Context) (changed bool, err error) {
	var pair [2]netlink.Link
	for i, name := range []string{outer, inner} {
		if pair[i], err = ours(name); err != nil {
			return false, err
		}
	}
	uplink, err := netlink.LinkByIndex(f.index)
	if err != nil {
		return false, fmt.Errorf("uplink %s: %w", f.uplink, err)
	}
	for _, side := range []struct {
		link  netlink.Link
		rules []rule
	}{{pair[0], f.outward()}, {uplink, f.inward(pair[0].Attrs().Index)}} {
		done, err := apply(side.link, side.rules)
		if err != nil {
			return changed, fmt.Errorf("filters of %s: %w", side.link.Attrs().Name, err)
		}
		changed = changed || done
	}
	for _, link := range pair {
		if err := netlink.LinkSetUp(link); err != nil {
			return changed, fmt.Errorf("bring %s up: %w", link.Attrs().Name, err)
		}
	}
	return changed, nil
}

// Release removes the filters from the uplink. Those of the pair go with it.
func (f Filters) Release(context.Context) error {
	uplink, err := netlink.LinkByName(f.uplink)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		_, err = apply(uplink, nil)
	}
	if err != nil {
		return fmt.Errorf("filters of %s: %w", f.uplink, err)
	}
	return nil
}

// apply makes our filters on what comes in by the link exactly the rules; other people's stay.
func apply(link netlink.Link, rules []rule) (changed bool, err error) {
	have, foreign, err := filtersOn(link)
	if err != nil {
		return false, err
	}
	if slices.EqualFunc(have, rules, sameRule) {
		return false, nil
	}
	for _, f := range have {
		// Without a handle all filters of the priority go, and the table they stand in.
		f := &netlink.U32{FilterAttrs: netlink.FilterAttrs{LinkIndex: f.LinkIndex, Parent: f.Parent, Priority: f.Priority, Protocol: f.Protocol}}
		if err := netlink.FilterDel(f); err != nil && !errors.Is(err, unix.ENOENT) {
			return true, fmt.Errorf("remove: %w", err)
		}
	}
	clsact := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if len(rules) == 0 {
		if foreign > 0 {
			return true, nil
		}
		if err := netlink.QdiscDel(clsact); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
			return true, fmt.Errorf("remove clsact: %w", err)
		}
		return true, nil
	}
	if err := netlink.QdiscAdd(clsact); err != nil && !errors.Is(err, unix.EEXIST) {
		return true, fmt.Errorf("clsact, which needs the module sch_ingress: %w", err)
	}
	for i, r := range rules {
		if err := netlink.FilterAdd(r.filter(link, firstPriority+uint16(i))); err != nil {
			return true, fmt.Errorf("add, which needs the modules cls_u32 and act_mirred: %w", err)
		}
	}
	return true, nil
}

func (r rule) filter(link netlink.Link, priority uint16) *netlink.U32 {
	mirred := netlink.NewMirredAction(r.to)
	if r.copies {
		mirred.MirredAction, mirred.Action = netlink.TCA_EGRESS_MIRROR, netlink.TC_ACT_UNSPEC
	}
	return &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: priority, Protocol: r.protocol},
		Sel:         &nl.TcU32Sel{Flags: nl.TC_U32_TERMINAL, Keys: r.keys}, Actions: []netlink.Action{mirred},
	}
}

// filtersOn are our filters on what comes in by the link, in order, and how many are other people's, in either direction.
func filtersOn(link netlink.Link) (have []*netlink.U32, foreign int, err error) {
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		all, err := netlink.FilterList(link, parent)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			continue // no clsact
		}
		if err != nil {
			return nil, 0, err
		}
		for _, f := range all {
			u, ok := f.(*netlink.U32)
			if p := f.Attrs().Priority; !ok || parent != netlink.HANDLE_MIN_INGRESS || p < firstPriority || p >= firstPriority+16 {
				foreign++
			} else if u.Sel != nil {
				have = append(have, u)
			}
		}
	}
	slices.SortFunc(have, func(a, b *netlink.U32) int { return int(a.Priority) - int(b.Priority) })
	return have, foreign, nil
}

func sameRule(f *netlink.U32, r rule) bool {
	if f.Protocol != r.protocol || !slices.Equal(f.Sel.Keys, r.keys) || len(f.Actions) != 1 {
		return false
	}
	m, ok := f.Actions[0].(*netlink.MirredAction)
	return ok && m.Ifindex == r.to && (m.MirredAction == netlink.TCA_EGRESS_MIRROR) == r.copies
}

// List finds what an agent before us has left: the pair. It makes Uplink a lister of the forwarder.
func (u *Uplink) List(context.Context) ([]vppapi.Object, error) {
	link, err := ours(outer)
	if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Conflict) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []vppapi.Object{Pair{MTU: uint32(link.Attrs().MTU)}}, nil
}
