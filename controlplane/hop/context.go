package hop

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"highwire/controlplane/api/connectioncontext"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// Context is a connection's context read and checked. Src is the client's side of the link, Dst the endpoint's (§1.3).
type Context struct {
	Src, Dst             []netip.Prefix
	SrcRoutes, DstRoutes []mechanisms.Route
	Neighbors            []mechanisms.Neighbor
	Policies             []mechanisms.PolicyRoute
	// Excluded are prefixes no address may be taken from.
	Excluded       []netip.Prefix
	SrcMAC, DstMAC string
	MTU            uint32
}

// Limits of one request. They are far above what NSM uses and keep one caller from filling the memory of a node.
const (
	maxAddresses = 64
	maxRoutes    = 1024
	maxPolicies  = 64
	maxExcluded  = 4096
	maxMTU       = 65535
)

// ParseContext reads c, which may be nil. Errors are fault.Invalid and name the field.
func ParseContext(c *connectioncontext.ConnectionContext) (Context, error) {
	p := parser{}
	ip := c.GetIpContext()
	out := Context{
		Src:       p.prefixes("src_ip_addrs", ip.GetSrcIpAddrs(), maxAddresses),
		Dst:       p.prefixes("dst_ip_addrs", ip.GetDstIpAddrs(), maxAddresses),
		SrcRoutes: p.routes("src_routes", ip.GetSrcRoutes()),
		DstRoutes: p.routes("dst_routes", ip.GetDstRoutes()),
		Neighbors: p.neighbors(ip.GetIpNeighbors()),
		Policies:  p.policies(ip.GetPolicies()),
		Excluded:  p.prefixes("excluded_prefixes", ip.GetExcludedPrefixes(), maxExcluded),
		SrcMAC:    p.mac("src_mac", c.GetEthernetContext().GetSrcMac()),
		DstMAC:    p.mac("dst_mac", c.GetEthernetContext().GetDstMac()),
		MTU:       c.GetMTU(),
	}
	p.prefixes("extra_prefixes", ip.GetExtraPrefixes(), maxExcluded)
	p.extra(ip.GetExtraPrefixRequest())
	p.dns(c.GetDnsContext())
	if out.MTU > maxMTU {
		p.fail("MTU", "%d: want at most %d", out.MTU, maxMTU)
	}
	return out, p.err
}

// parser reads many fields and keeps the first error.
type parser struct{ err error }

func (p *parser) fail(field, format string, args ...any) {
	if p.err == nil {
		p.err = fault.New(fault.Invalid, "connection.context: %s: %s", field, fmt.Sprintf(format, args...))
	}
}

func (p *parser) limit(field string, n, limit int) bool {
	if n > limit {
		p.fail(field, "%d entries; the limit is %d", n, limit)
	}
	return n <= limit
}

func (p *parser) prefix(field, s string) netip.Prefix {
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		p.fail(field, "%.60q: want an address with prefix length, as 10.0.0.1/32", s)
		return netip.Prefix{}
	}
	if prefix.Addr().Is4In6() {
		p.fail(field, "%.60q: an IPv4-mapped IPv6 address", s)
	}
	return prefix
}

func (p *parser) prefixes(field string, list []string, limit int) []netip.Prefix {
	if !p.limit(field, len(list), limit) {
		return nil
	}
	var out []netip.Prefix
	for i, s := range list {
		out = append(out, p.prefix(fmt.Sprintf("%s[%d]", field, i), s))
	}
	return out
}

func (p *parser) addr(field, s string) netip.Addr {
	addr, err := netip.ParseAddr(s)
	if err != nil || addr.Zone() != "" || addr.Is4In6() {
		p.fail(field, "%.60q: want an IP address", s)
	}
	return addr
}

func (p *parser) routes(field string, list []*connectioncontext.Route) []mechanisms.Route {
	if !p.limit(field, len(list), maxRoutes) {
		return nil
	}
	var out []mechanisms.Route
	for i, r := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		route := mechanisms.Route{Prefix: p.prefix(at+".prefix", r.GetPrefix()).Masked()}
		if hop := r.GetNextHop(); hop != "" {
			route.Via = p.addr(at+".nextHop", hop)
			if route.Via.Is4() != route.Prefix.Addr().Is4() {
				p.fail(at+".nextHop", "%s is of another family than %s", hop, route.Prefix)
			}
		}
		out = append(out, route)
	}
	return out
}

func (p *parser) neighbors(list []*connectioncontext.IpNeighbor) []mechanisms.Neighbor {
	if !p.limit("ip_neighbors", len(list), maxRoutes) {
		return nil
	}
	var out []mechanisms.Neighbor
	for i, n := range list {
		at := fmt.Sprintf("ip_neighbors[%d]", i)
		neighbor := mechanisms.Neighbor{Addr: p.addr(at+".ip", n.GetIp()), MAC: p.mac(at+".hardware_address", n.GetHardwareAddress())}
		if neighbor.MAC == "" {
			p.fail(at+".hardware_address", "is missing")
		}
		out = append(out, neighbor)
	}
	return out
}

func (p *parser) mac(field, s string) string {
	if s == "" {
		return ""
	}
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		p.fail(field, "%.40q: want a unicast MAC address", s)
	}
	return mac.String()
}

func (p *parser) policies(list []*connectioncontext.PolicyRoute) []mechanisms.PolicyRoute {
	if !p.limit("policies", len(list), maxPolicies) {
		return nil
	}
	var out []mechanisms.PolicyRoute
	for i, r := range list {
		at := fmt.Sprintf("policies[%d]", i)
		policy := mechanisms.PolicyRoute{
			DstPort: p.ports(at+".dst_port", r.GetDstPort()),
			SrcPort: p.ports(at+".src_port", r.GetSrcPort()),
			Routes:  p.routes(at+".routes", r.GetRoutes()),
		}
		if from := r.GetFrom(); from != "" {
			policy.From = p.prefix(at+".from", from).Masked()
		}
		if proto := r.GetProto(); proto != "" {
			n, err := strconv.ParseUint(proto, 10, 8)
			if err != nil {
				p.fail(at+".proto", "%.20q: want an IP protocol number", proto)
			}
			policy.Proto = uint8(n)
		}
		out = append(out, policy)
	}
	return out
}

func (p *parser) ports(field, s string) [2]uint16 {
	if s == "" {
		return [2]uint16{}
	}
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	low, err1 := strconv.ParseUint(first, 10, 16)
	high, err2 := strconv.ParseUint(last, 10, 16)
	if err1 != nil || err2 != nil || low > high {
		p.fail(field, "%.20q: want a port or first-last", s)
	}
	return [2]uint16{uint16(low), uint16(high)}
}

func (p *parser) extra(list []*connectioncontext.ExtraPrefixRequest) {
	if !p.limit("extra_prefix_request", len(list), maxAddresses) {
		return
	}
	for i, r := range list {
		bits := uint32(32)
		if r.GetAddrFamily().GetFamily() == connectioncontext.IpFamily_IPV6 {
			bits = 128
		}
		at := fmt.Sprintf("extra_prefix_request[%d]", i)
		switch {
		case r.GetAddrFamily() == nil:
			p.fail(at+".addr_family", "is missing")
		case r.PrefixLen < 1 || r.PrefixLen > bits:
			p.fail(at+".prefix_len", "%d: want 1 to %d", r.PrefixLen, bits)
		case r.RequiredNumber < 1 || r.RequiredNumber > r.RequestedNumber:
			p.fail(at+".required_number", "%d: want 1 to requested_number, which is %d", r.RequiredNumber, r.RequestedNumber)
		}
	}
}

func (p *parser) dns(c *connectioncontext.DNSContext) {
	if !p.limit("dns_context.configs", len(c.GetConfigs()), maxAddresses) {
		return
	}
	for i, config := range c.GetConfigs() {
		at := fmt.Sprintf("dns_context.configs[%d]", i)
		p.limit(at+".dns_server_ips", len(config.GetDnsServerIps()), maxAddresses)
		p.limit(at+".search_domains", len(config.GetSearchDomains()), maxAddresses)
		for _, s := range config.GetDnsServerIps() {
			if _, err := netip.ParseAddr(s); err != nil {
				p.fail(at+".dns_server_ips", "%.60q: want an IP address", s)
			}
		}
	}
}

// ClientEnd fills the addresses, routes and the rest of the client's end from the context.
func (c Context) ClientEnd(e mechanisms.End) mechanisms.End {
	e.Addresses, e.Remote, e.MAC, e.MTU = c.Src, c.Dst, c.SrcMAC, c.MTU
	e.Routes = resolve(c.Src, c.Dst, c.SrcRoutes)
	e.Neighbors = neighborsOf(c.Neighbors, func(a netip.Addr) bool { return !hasAddr(c.Src, a) })
	for _, p := range c.Policies {
		p.Routes = resolvePolicy(c.Dst, p)
		e.Policies = append(e.Policies, p)
	}
	return e
}

// EndpointEnd does the same for the endpoint's end.
func (c Context) EndpointEnd(e mechanisms.End) mechanisms.End {
	e.Addresses, e.Remote, e.MAC, e.MTU = c.Dst, c.Src, c.DstMAC, c.MTU
	e.Routes = resolve(c.Dst, c.Src, c.DstRoutes)
	e.Neighbors = neighborsOf(c.Neighbors, func(a netip.Addr) bool { return hasAddr(c.Src, a) })
	return e
}

// resolve gives every route its next hop and adds an on-link route to each remote address that own does not cover (§1.3).
func resolve(own, remote []netip.Prefix, routes []mechanisms.Route) []mechanisms.Route {
	var out []mechanisms.Route
	add := func(r mechanisms.Route) {
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	for _, p := range remote {
		if !covers(own, p.Addr()) {
			add(mechanisms.Route{Prefix: p.Masked()})
		}
	}
	for _, r := range routes {
		add(via(remote, r))
	}
	return out
}

// via sets the next hop of a route that has none: the first remote address of the family, unless the route lies within the
// remote prefixes and is on-link by that.
func via(remote []netip.Prefix, r mechanisms.Route) mechanisms.Route {
	if r.Via.IsValid() || covers(remote, r.Prefix.Addr()) {
		return r
	}
	for _, p := range remote {
		if p.Addr().Is4() == r.Prefix.Addr().Is4() {
			r.Via = p.Addr()
			return r
		}
	}
	return r
}

// resolvePolicy gives the routes of a policy their next hops; a policy without routes means the default route (§1.3).
func resolvePolicy(remote []netip.Prefix, p mechanisms.PolicyRoute) []mechanisms.Route {
	var out []mechanisms.Route
	for _, r := range p.Routes {
		out = append(out, via(remote, r))
	}
	if len(out) > 0 {
		return out
	}
	for _, all := range []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)} {
		if p.From.IsValid() && p.From.Addr().Is4() != all.Addr().Is4() {
			continue
		}
		if r := via(remote, mechanisms.Route{Prefix: all}); r.Via.IsValid() {
			out = append(out, r)
		}
	}
	return out
}

func covers(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Masked().Contains(a) })
}

func hasAddr(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Addr() == a })
}

func neighborsOf(list []mechanisms.Neighbor, keep func(netip.Addr) bool) []mechanisms.Neighbor {
	var out []mechanisms.Neighbor
	for _, n := range list {
		if keep(n.Addr) {
			out = append(out, n)
		}
	}
	return out
}
