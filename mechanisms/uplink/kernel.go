package uplink

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// maxRoutes bounds what VPP is told of a routing table.
const maxRoutes = 256

// read asks the kernel for the uplink. fault.NotFound if there is none.
func read(cfg Config) (state, error) {
	link, err := find(cfg)
	if err != nil {
		return state{}, err
	}
	attrs := link.Attrs()
	s := state{name: attrs.Name, index: attrs.Index, mtu: uint32(attrs.MTU)}
	if len(attrs.HardwareAddr) != len(s.mac) {
		return state{}, fault.New(fault.Invalid, "uplink %s is no Ethernet interface", attrs.Name)
	}
	s.mac = vppapi.HardwareAddr(attrs.HardwareAddr)
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		p, err := addressOf(cfg, link, family)
		if err != nil {
			return state{}, err
		}
		if p.IsValid() {
			s.addrs = append(s.addrs, p)
			routes, err := routesOf(link, family, p)
			if err != nil {
				return state{}, err
			}
			s.routes = append(s.routes, routes...)
		}
	}
	if len(s.addrs) == 0 {
		return state{}, fault.New(fault.NotFound, "uplink %s has no address", attrs.Name)
	}
	return s, nil
}

// find is the interface of the uplink.
func find(cfg Config) (netlink.Link, error) {
	if cfg.Interface != "" {
		link, err := netlink.LinkByName(cfg.Interface)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil, fault.New(fault.NotFound, "uplink %s does not exist", cfg.Interface)
		}
		return link, err
	}
	if len(cfg.Addrs) > 0 {
		list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return nil, err
		}
		for _, a := range list {
			if p := prefixOf(a.IPNet); p.Addr() == cfg.Addrs[0] {
				return netlink.LinkByIndex(a.LinkIndex)
			}
		}
		return nil, fault.New(fault.NotFound, "no interface of this node has the tunnel address %s", cfg.Addrs[0])
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, err
		}
		slices.SortStableFunc(routes, func(a, b netlink.Route) int { return a.Priority - b.Priority })
		for _, r := range routes {
			if !isDefault(r) {
				continue
			}
			for _, h := range hops(r) {
				if link, err := netlink.LinkByIndex(h.LinkIndex); err == nil {
					return link, nil
				}
			}
		}
	}
	return nil, fault.New(fault.NotFound, "this node has no default route: name an uplink for tunnels")
}

func isDefault(r netlink.Route) bool { return r.Dst == nil || prefixOf(r.Dst).Bits() == 0 }

// hops are the next hops of a route.
func hops(r netlink.Route) []netlink.NexthopInfo {
	if len(r.MultiPath) == 0 {
		return []netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw}}
	}
	var list []netlink.NexthopInfo
	for _, h := range r.MultiPath {
		list = append(list, *h)
	}
	return list
}

// addressOf chooses our address of the family; without one it is the zero Prefix.
func addressOf(cfg Config, link netlink.Link, family int) (netip.Prefix, error) {
	list, err := netlink.AddrList(link, family)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("addresses of uplink %s: %w", link.Attrs().Name, err)
	}
	var wanted netip.Addr
	for _, a := range cfg.Addrs {
		if a.Is4() == (family == netlink.FAMILY_V4) {
			wanted = a
		}
	}
	if len(cfg.Addrs) > 0 && !wanted.IsValid() {
		return netip.Prefix{}, nil
	}
	const unfit = unix.IFA_F_SECONDARY | unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
	for _, a := range list {
		p := prefixOf(a.IPNet)
		if wanted.IsValid() && p.Addr() == wanted || !wanted.IsValid() && a.Scope == unix.RT_SCOPE_UNIVERSE && a.Flags&unfit == 0 {
			return p, nil
		}
	}
	if wanted.IsValid() {
		return netip.Prefix{}, fault.New(fault.NotFound, "uplink %s does not have the tunnel address %s", link.Attrs().Name, wanted)
	}
	return netip.Prefix{}, nil
}

// routesOf are the routes over the link, but for the one to the subnet of our own address. Of several to one prefix the best
// counts.
func routesOf(link netlink.Link, family int, own netip.Prefix) ([]vppapi.Route, error) {
	list, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("routes of uplink %s: %w", link.Attrs().Name, err)
	}
	slices.SortStableFunc(list, func(a, b netlink.Route) int { return a.Priority - b.Priority })
	seen := map[netip.Prefix]bool{own.Masked(): true}
	var out []vppapi.Route
	for _, r := range list {
		prefix := netip.PrefixFrom(own.Addr().Unmap(), 0).Masked()
		if r.Dst != nil {
			prefix = prefixOf(r.Dst)
		}
		if r.Type != unix.RTN_UNICAST || seen[prefix] || prefix.Addr().IsMulticast() || prefix.Addr().IsLinkLocalUnicast() {
			continue
		}
		for _, h := range hops(r) {
			if h.LinkIndex != link.Attrs().Index {
				continue
			}
			seen[prefix] = true
			via, _ := netip.AddrFromSlice(h.Gw)
			out = append(out, vppapi.Route{Name: Name, Prefix: prefix, Via: via.Unmap()})
			break
		}
	}
	slices.SortFunc(out, func(a, b vppapi.Route) int { return strings.Compare(a.Prefix.String(), b.Prefix.String()) })
	if len(out) > maxRoutes {
		return nil, fault.New(fault.Exhausted, "uplink %s has %d routes; VPP is told of at most %d", link.Attrs().Name, len(out), maxRoutes)
	}
	return out, nil
}

func prefixOf(n *net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones)
}
