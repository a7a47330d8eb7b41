package endpoint

import (
	"net/netip"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/connectioncontext"
	"highwire/controlplane/hop"
)

// fillContext gives the connection its addresses, and each side a route to the other's. Addresses that it brought from
// another endpoint, before a reselect, are replaced; what else stands in the context is the client's and stays.
func (e *Endpoint) fillContext(c *connection.Connection) error {
	asked, err := hop.ParseContext(c.Context)
	if err != nil {
		return err
	}
	pairs, err := e.addresses.assign(c.Id, asked.Src, asked.Dst, asked.Excluded)
	if err != nil {
		return err
	}
	if c.Context == nil {
		c.Context = &connectioncontext.ConnectionContext{}
	}
	if c.Context.DnsContext == nil {
		c.Context.DnsContext = &connectioncontext.DNSContext{}
	}
	if c.Context.IpContext == nil {
		c.Context.IpContext = &connectioncontext.IPContext{}
	}
	ip := c.Context.IpContext
	ip.SrcIpAddrs, ip.DstIpAddrs, ip.SrcRoutes, ip.DstRoutes = nil, nil, nil, nil
	for _, p := range pairs {
		src, dst := host(p.Src), host(p.Dst)
		ip.SrcIpAddrs = append(ip.SrcIpAddrs, src)
		ip.DstIpAddrs = append(ip.DstIpAddrs, dst)
		ip.SrcRoutes = append(ip.SrcRoutes, &connectioncontext.Route{Prefix: dst})
		ip.DstRoutes = append(ip.DstRoutes, &connectioncontext.Route{Prefix: src})
	}
	return nil
}

// host is an address as /32 or /128.
func host(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }
