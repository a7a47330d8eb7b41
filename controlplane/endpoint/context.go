package endpoint

import (
	"net/netip"
	"slices"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/connectioncontext"
	"highwire/controlplane/hop"
	"highwire/controlplane/names"
	"highwire/vppapi/fault"
)

// fillContext gives the connection its addresses, routes and nameservers. What it brought of these from another endpoint, before a
// reselect, is replaced; what else stands in the context is the client's and stays.
func (e *Endpoint) fillContext(c *connection.Connection) error {
	asked, err := hop.ParseContext(c.Context)
	if err != nil {
		return err
	}
	first := c.Path.PathSegments[0]
	pairs, err := e.addresses.assign(c.Id, first.Name+" "+first.Id, asked.Src, asked.Dst, slices.Concat(asked.Excluded, e.config.Excluded))
	if err != nil {
		return err
	}
	if c.Context == nil {
		c.Context = &connectioncontext.ConnectionContext{}
	}
	c.Context.DnsContext = &connectioncontext.DNSContext{Configs: e.config.DNS}
	if c.Context.IpContext == nil {
		c.Context.IpContext = &connectioncontext.IPContext{}
	}
	ip := c.Context.IpContext
	ip.SrcIpAddrs, ip.DstIpAddrs, ip.SrcRoutes, ip.DstRoutes, ip.Policies = nil, nil, nil, nil, e.config.Policies
	for _, p := range pairs {
		src, dst := host(p.Src), host(p.Dst)
		ip.SrcIpAddrs = append(ip.SrcIpAddrs, src)
		ip.DstIpAddrs = append(ip.DstIpAddrs, dst)
		ip.SrcRoutes = append(ip.SrcRoutes, &connectioncontext.Route{Prefix: dst})
		ip.DstRoutes = append(ip.DstRoutes, &connectioncontext.Route{Prefix: src})
	}
	beyond := slices.Clone(e.config.Routes)
	for _, s := range servers(e.config.DNS) {
		beyond = append(beyond, netip.PrefixFrom(s, s.BitLen()))
	}
	for _, r := range beyond {
		if slices.ContainsFunc(pairs, func(p pair) bool { return p.Src.Is4() == r.Addr().Is4() }) {
			addRoute(ip, r.Masked().String())
		}
	}
	return nil
}

// addRoute gives the client one more route through the vWire.
func addRoute(ip *connectioncontext.IPContext, prefix string) {
	if !slices.ContainsFunc(ip.SrcRoutes, func(r *connectioncontext.Route) bool { return r.Prefix == prefix }) {
		ip.SrcRoutes = append(ip.SrcRoutes, &connectioncontext.Route{Prefix: prefix})
	}
}

// servers are all nameservers; CheckDNS has seen them.
func servers(configs []*connectioncontext.DNSConfig) (list []netip.Addr) {
	for _, c := range configs {
		for _, s := range c.GetDnsServerIps() {
			list = append(list, netip.MustParseAddr(s))
		}
	}
	return list
}

// CheckDNS refuses nameservers and domains that no client could use: fault.Invalid.
func CheckDNS(configs []*connectioncontext.DNSConfig) error {
	for _, c := range configs {
		if len(c.GetDnsServerIps()) == 0 {
			return fault.New(fault.Invalid, "domains %v: there is no nameserver for them", c.GetSearchDomains())
		}
		for _, s := range c.DnsServerIps {
			if a, err := netip.ParseAddr(s); err != nil || a.Zone() != "" || !a.IsGlobalUnicast() {
				return fault.New(fault.Invalid, "nameserver %.60q: want an IP address that clients can reach", s)
			}
		}
		for _, d := range c.SearchDomains {
			if _, err := names.ParseDomain(d); err != nil {
				return err
			}
		}
	}
	return nil
}

// host is an address as /32 or /128.
func host(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }
