package kernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// Netns is the quiet part of an interface in the peer's namespace: MTU, addresses, alias, sysctls. For a tap it also brings
// the interface there.
type Netns struct {
	place
	mtu       uint32
	noARP     bool
	addresses []netip.Prefix
}

func newNetns(p place, e mechanisms.End, mtu uint32, l3 bool) Netns {
	return Netns{place: p, mtu: mtu, noARP: l3, addresses: slices.Clone(e.Addresses)}
}

// Key is {netns, end}.
func (n Netns) Key() vppapi.Key { return vppapi.Key{Kind: vppapi.KindNetns, Name: n.name} }

// Uses the link, or VPP's tap.
func (n Netns) Uses() []vppapi.Key { return n.base() }

// Equal compares by value.
func (n Netns) Equal(o vppapi.Object) bool {
	other, ok := o.(Netns)
	return ok && n.place == other.place && n.mtu == other.mtu && n.noARP == other.noARP && slices.Equal(n.addresses, other.addresses)
}

func (n Netns) String() string {
	return fmt.Sprintf("%s mtu %d addresses %s", n.iface, n.mtu, list(n.addresses))
}

func list[T any](items []T) string {
	if len(items) == 0 {
		return "none"
	}
	s := make([]string, len(items))
	for i, it := range items {
		s[i] = fmt.Sprint(it)
	}
	return strings.Join(s, ",")
}

// Realize brings the interface to exactly this state.
func (n Netns) Realize(ctx context.Context) (changed bool, err error) {
	if n.tap {
		if changed, err = n.fetch(); err != nil {
			return changed, err
		}
	}
	err = n.namespaces.enter(ctx, n.namespace, func(h *netlink.Handle) error {
		renamed, err := n.rename(h)
		if err != nil {
			return err
		}
		changed = changed || renamed
		link, err := n.own(h)
		if err != nil {
			return err
		}
		if link.Attrs().MTU != int(n.mtu) {
			changed = true
			if err := h.LinkSetMTU(link, int(n.mtu)); err != nil {
				return fmt.Errorf("MTU %d of %s: %w", n.mtu, n.iface, err)
			}
		}
		if err := n.sysctls(); err != nil {
			return err
		}
		c, err := n.setAddresses(h, link)
		changed = changed || c
		return err
	})
	return changed, err
}

// fetch moves a tap that VPP has just made from the agent's namespace to the peer's.
func (n Netns) fetch() (bool, error) {
	link, err := netlink.LinkByName(n.host)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		return false, nil // it is there already
	}
	if err != nil {
		return false, err
	}
	if err := netlink.LinkSetAlias(link, n.namespaces.alias(n.name)); err != nil {
		return true, fmt.Errorf("alias of %s: %w", n.host, err)
	}
	if err := netlink.LinkSetDown(link); err != nil {
		return true, fmt.Errorf("%s: %w", n.host, err)
	}
	if err := n.namespaces.with(n.namespace, func(fd int) error { return netlink.LinkSetNsFd(link, fd) }); err != nil {
		return true, fmt.Errorf("move %s to namespace %s: %w", n.host, n.namespace, err)
	}
	return true, nil
}

// Observe tells whether the interface has its name, its MTU and its addresses.
func (n Netns) Observe(ctx context.Context) bool {
	same := false
	err := n.namespaces.enter(ctx, n.namespace, func(h *netlink.Handle) error {
		link, err := n.own(h)
		if err != nil || link.Attrs().MTU != int(n.mtu) {
			return err
		}
		missing, strange, err := n.compareAddresses(h, link)
		same = len(missing)+len(strange) == 0
		return err
	})
	return err == nil && same
}

// rename gives an interface that is there under another name the one it is to have: a new tap, one that was released, one
// that somebody has renamed.
func (n Netns) rename(h *netlink.Handle) (bool, error) {
	if _, err := n.own(h); err == nil {
		return false, nil
	}
	link, err := n.anyName(h)
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	if err == nil {
		err = setName(h, link, n.iface)
	}
	if errors.Is(err, os.ErrExist) {
		return false, fault.New(fault.Conflict, "interface %s exists already in the peer's namespace; choose another name or remove it", n.iface)
	}
	if err != nil {
		return false, fmt.Errorf("name %s: %w", n.iface, err)
	}
	return true, nil
}

// setName renames an interface. Before Linux 6.2 only one that is down can be.
func setName(h *netlink.Handle, link netlink.Link, name string) error {
	err := h.LinkSetName(link, name)
	if errors.Is(err, unix.EBUSY) {
		if err = h.LinkSetDown(link); err == nil {
			err = h.LinkSetName(link, name)
		}
	}
	return err
}

// anyName finds the end's interface in its namespace by the alias, under whatever name. fault.NotFound if there is none.
func (p place) anyName(h *netlink.Handle) (netlink.Link, error) {
	if link, err := p.own(h); err == nil {
		return link, nil
	}
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		// VPP's side of a veth has the alias too, and may be in the same namespace.
		ours := p.tap || l.Attrs().Name != p.host && l.Attrs().Name != farSide(p.host)
		if ours && l.Attrs().Alias == p.namespaces.alias(p.name) {
			return l, nil
		}
	}
	return nil, fault.New(fault.NotFound, "no interface of %s in %s", p.name, p.namespace)
}

// own finds the interface in its namespace. One of that name which is not ours is fault.Conflict and stays as it is.
func (p place) own(h *netlink.Handle) (netlink.Link, error) {
	link, err := h.LinkByName(p.iface)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", p.iface, err)
	}
	if link.Attrs().Alias != p.namespaces.alias(p.name) {
		return nil, fault.New(fault.Conflict, "interface %s in the peer's namespace is not the one of %s", p.iface, p.name)
	}
	return link, nil
}

func (n Netns) sysctls() error {
	// Clients probe with unprivileged ICMP sockets. In a user namespace only its own groups can be named.
	const pingGroups = "/proc/sys/net/ipv4/ping_group_range"
	if err := os.WriteFile(pingGroups, []byte("0 2147483647"), 0); err != nil {
		if err := os.WriteFile(pingGroups, []byte("0 0"), 0); err != nil {
			return fmt.Errorf("allow ping: %w", err)
		}
	}
	if slices.ContainsFunc(n.addresses, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+n.iface+"/disable_ipv6", []byte("0"), 0); err != nil {
			return fmt.Errorf("IPv6 on %s: %w; is IPv6 switched off on this node?", n.iface, err)
		}
	}
	return nil
}

// compareAddresses tells which addresses the interface lacks and which it has too many. Link-local ones are the kernel's.
func (n Netns) compareAddresses(h *netlink.Handle, link netlink.Link) (missing []netip.Prefix, strange []netlink.Addr, err error) {
	have, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, nil, fmt.Errorf("addresses of %s: %w", n.iface, err)
	}
	present := make(map[netip.Prefix]bool)
	for _, a := range have {
		p := prefixOf(a.IPNet)
		if slices.Contains(n.addresses, p) {
			present[p] = true
		} else if !a.IP.IsLinkLocalUnicast() || p.Addr().Is4() {
			strange = append(strange, a)
		}
	}
	for _, p := range n.addresses {
		if !present[p] {
			missing = append(missing, p)
		}
	}
	return missing, strange, nil
}

// setAddresses makes the interface's global addresses exactly these.
func (n Netns) setAddresses(h *netlink.Handle, link netlink.Link) (changed bool, err error) {
	missing, strange, err := n.compareAddresses(h, link)
	if err != nil {
		return false, err
	}
	for _, a := range strange {
		if err := h.AddrDel(link, &a); err != nil {
			return true, fmt.Errorf("remove address %s of %s: %w", a.IPNet, n.iface, err)
		}
	}
	for _, p := range missing {
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD // the other end of the wire is the only neighbour
		}
		if err := h.AddrReplace(link, a); err != nil {
			return true, fmt.Errorf("address %s of %s: %w", p, n.iface, err)
		}
	}
	return len(missing)+len(strange) > 0, nil
}

// parked is the name of an end's interface that has lost its own and waits for its removal.
func parked(end string) string { return HostName(end) + "q" }

// Release takes addresses, our routes and its name from an interface that stays a while: nothing is sent over it any more, and
// another one may have the name. Where the interface goes at once this goes with it.
func (n Netns) Release(ctx context.Context) error {
	err := n.namespaces.ours(ctx, n.namespace, n.iface, n.namespaces.alias(n.name), func(h *netlink.Handle, link netlink.Link) error {
		n.addresses = nil
		if _, err := n.setAddresses(h, link); err != nil {
			return err
		}
		if _, err := (Carrier{place: n.place}).setRoutes(h, link); err != nil {
			return err
		}
		var err error
		if !n.spare { // a veth is down in no time, a macvlan takes 10 ms
			err = h.LinkSetDown(link)
		}
		if err == nil {
			err = setName(h, link, parked(n.name))
		}
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("rename %s: %w", n.iface, err)
		}
		return nil
	})
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// routeProtocol marks our routes (rtm_protocol).
const routeProtocol = 104

// Carrier brings the peer's interface up and sets what the kernel keeps only on a link that is up.
type Carrier struct {
	place
	routes    []mechanisms.Route
	neighbors []mechanisms.Neighbor
}

func newCarrier(p place, e mechanisms.End) Carrier {
	routes := slices.Clone(e.Routes)
	// A next hop has to be reachable before a route can go through it.
	slices.SortStableFunc(routes, func(a, b mechanisms.Route) int { return cmp.Compare(rank(a), rank(b)) })
	return Carrier{place: p, routes: routes, neighbors: slices.Clone(e.Neighbors)}
}

func rank(r mechanisms.Route) int {
	if r.Via.IsValid() {
		return 1
	}
	return 0
}

// Key is {carrier, end}.
func (c Carrier) Key() vppapi.Key { return vppapi.Key{Kind: vppapi.KindCarrier, Name: c.name} }

// Uses the link and VPP's interface.
func (c Carrier) Uses() []vppapi.Key { return c.ready() }

// Equal compares by value.
func (c Carrier) Equal(o vppapi.Object) bool {
	other, ok := o.(Carrier)
	return ok && c.place == other.place && slices.Equal(c.routes, other.routes) && slices.Equal(c.neighbors, other.neighbors)
}

func (c Carrier) String() string {
	routes := make([]string, len(c.routes))
	for i, r := range c.routes {
		routes[i] = r.Prefix.String()
		if r.Via.IsValid() {
			routes[i] += " via " + r.Via.String()
		}
	}
	s := fmt.Sprintf("%s up routes %s", c.iface, list(routes))
	if len(c.neighbors) > 0 {
		s += " neighbors " + list(c.neighbors)
	}
	return s
}

// Realize brings the link up and makes our routes on it exactly these.
func (c Carrier) Realize(ctx context.Context) (changed bool, err error) {
	err = c.namespaces.enter(ctx, c.namespace, func(h *netlink.Handle) error {
		link, err := c.own(h)
		if err != nil {
			return err
		}
		if link.Attrs().Flags&net.FlagUp == 0 {
			changed = true
			if err := h.LinkSetUp(link); err != nil {
				return fmt.Errorf("bring %s up: %w", c.iface, err)
			}
			if err := hearMulticast(h, link); err != nil {
				return err
			}
		}
		for _, n := range c.neighbors {
			mac, err := net.ParseMAC(n.MAC)
			if err != nil {
				return fmt.Errorf("neighbour %s: %w", n.Addr, err)
			}
			err = h.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: n.Addr.AsSlice(), HardwareAddr: mac})
			if err != nil {
				return fmt.Errorf("neighbour %s on %s: %w", n.Addr, c.iface, err)
			}
		}
		changedRoutes, err := c.setRoutes(h, link)
		changed = changed || changedRoutes
		return err
	})
	return changed, err
}

// hearMulticast adds the IPv6 multicast route that the kernel adds by itself only up to a second after the link came up;
// until then neighbour solicitations are dropped, and with them the first packets.
func hearMulticast(h *netlink.Handle, link netlink.Link) error {
	_, all, _ := net.ParseCIDR("ff00::/8")
	err := h.RouteAdd(&netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: all, Type: unix.RTN_MULTICAST, Table: unix.RT_TABLE_LOCAL, Protocol: unix.RTPROT_KERNEL, Priority: 256,
	})
	// A node without IPv6 has no use for it.
	if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("multicast route of %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// Observe tells whether the link is up, with our routes and neighbours.
func (c Carrier) Observe(ctx context.Context) bool {
	same := false
	err := c.namespaces.enter(ctx, c.namespace, func(h *netlink.Handle) error {
		link, err := c.own(h)
		if err != nil || link.Attrs().Flags&net.FlagUp == 0 {
			return err
		}
		present, strange, err := c.compareRoutes(h, link)
		if err != nil || len(strange) > 0 || slices.ContainsFunc(c.routes, func(r mechanisms.Route) bool { return !present[r] }) {
			return err
		}
		same, err = c.hasNeighbors(h, link)
		return err
	})
	return err == nil && same
}

func (c Carrier) hasNeighbors(h *netlink.Handle, link netlink.Link) (bool, error) {
	if len(c.neighbors) == 0 {
		return true, nil
	}
	have, err := h.NeighList(link.Attrs().Index, netlink.FAMILY_ALL)
	for _, n := range c.neighbors {
		if !slices.ContainsFunc(have, func(k netlink.Neigh) bool {
			return k.IP.Equal(n.Addr.AsSlice()) && k.HardwareAddr.String() == strings.ToLower(n.MAC) && k.State&netlink.NUD_PERMANENT != 0
		}) {
			return false, err
		}
	}
	return true, err
}

// compareRoutes tells which routes of ours the interface has, and which of them are not wanted.
func (c Carrier) compareRoutes(h *netlink.Handle, link netlink.Link) (present map[mechanisms.Route]bool, strange []netlink.Route, err error) {
	filter := &netlink.Route{LinkIndex: link.Attrs().Index, Protocol: routeProtocol}
	have, err := h.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, nil, fmt.Errorf("routes of %s: %w", c.iface, err)
	}
	present = make(map[mechanisms.Route]bool)
	for _, r := range have {
		route := mechanisms.Route{Prefix: prefixOf(r.Dst)}
		if via, ok := netip.AddrFromSlice(r.Gw); ok {
			route.Via = via.Unmap()
		}
		if slices.Contains(c.routes, route) {
			present[route] = true
		} else {
			strange = append(strange, r)
		}
	}
	return present, strange, nil
}

func (c Carrier) setRoutes(h *netlink.Handle, link netlink.Link) (changed bool, err error) {
	present, strange, err := c.compareRoutes(h, link)
	if err != nil {
		return false, err
	}
	for _, r := range strange {
		changed = true
		if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return changed, fmt.Errorf("remove route %s of %s: %w", r.Dst, c.iface, err)
		}
	}
	for _, r := range c.routes {
		if present[r] {
			continue
		}
		changed = true
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.Prefix), Protocol: routeProtocol}
		if r.Via.IsValid() {
			route.Gw = r.Via.AsSlice()
		} else if r.Prefix.Addr().Is4() {
			route.Scope = netlink.SCOPE_LINK
		}
		// Not replaced: a route of the same prefix belongs to another interface.
		switch err := h.RouteAdd(route); {
		case errors.Is(err, unix.EEXIST):
			return changed, fault.New(fault.Conflict, "route %s is there already in the peer's namespace, over another interface than %s", r.Prefix, c.iface)
		case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH):
			return changed, fault.New(fault.Invalid, "route %s of %s: next hop %s is not reachable over the interface", r.Prefix, c.iface, r.Via)
		case err != nil:
			return changed, fmt.Errorf("route %s of %s: %w", r.Prefix, c.iface, err)
		}
	}
	return changed, nil
}

// Release has nothing to do: all of it goes with the interface.
func (c Carrier) Release(context.Context) error { return nil }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixOf turns a kernel prefix round; nil is the IPv4 default route.
func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	a, _ := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if size == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, bits)
}
