package pocketvpp

import (
	"net/netip"
	"slices"
	"strings"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/fib_types"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/ip_types"
)

// sourceAPI is FIB_SOURCE_API: routes made by messages. Those of addresses come from the interfaces.
const sourceAPI = 8

// fibRoute is a route of ip_route_add_del, by one path.
type fibRoute struct {
	prefix netip.Prefix
	path   fib_types.FibPath
	out    *iface
	via    netip.Addr // unspecified for what is on the link
}

// routeMessages are those of ip.api about the routes of table 0.
func (s *Server) routeMessages(t *table) {
	request(t, func(_ *call, q *ip.IPRouteAddDel) (p ip.IPRouteAddDelReply) {
		p.Retval = int32(s.changeRoute(q))
		return p
	})
	dump(t, func(_ *call, q *ip.IPRouteV2Dump, emit func(ip.IPRouteV2Details)) {
		for _, r := range s.routes {
			if q.Table.TableID == 0 && r.prefix.Addr().Is6() == q.Table.IsIP6 && (q.Src == 0 || q.Src == sourceAPI) {
				emit(ip.IPRouteV2Details{Route: ip.IPRouteV2{
					Prefix: ip_types.Prefix{Address: apiAddr(r.prefix.Addr()), Len: uint8(r.prefix.Bits())}, Src: sourceAPI,
					NPaths: 1, Paths: []fib_types.FibPath{r.path},
				}})
			}
		}
	})
}

func (s *Server) changeRoute(q *ip.IPRouteAddDel) api.VPPApiError {
	prefix := netip.PrefixFrom(addrOf(q.Route.Prefix.Address), int(q.Route.Prefix.Len)).Masked()
	if !prefix.IsValid() {
		return api.INVALID_VALUE
	}
	if q.Route.TableID != 0 {
		return api.NO_SUCH_FIB
	}
	rest := slices.DeleteFunc(slices.Clone(s.routes), func(r fibRoute) bool { return r.prefix == prefix })
	if q.IsAdd {
		if len(q.Route.Paths) != 1 {
			return api.INVALID_VALUE
		}
		path := q.Route.Paths[0]
		out, rv := s.find(interface_types.InterfaceIndex(path.SwIfIndex))
		if out == nil {
			return api.VPPApiError(rv)
		}
		rest = append(rest, fibRoute{prefix, path, out, pathAddr(path)})
	}
	s.fwd.Lock()
	defer s.fwd.Unlock()
	s.routes = rest
	return 0
}

// lookup finds the way to an address: the longest prefix among routes and subnets of interfaces. It is called with
// Server.fwd read-locked.
func (s *Server) lookup(dst netip.Addr) (out *iface, next netip.Addr) {
	best := -1
	for _, r := range s.routes {
		if r.prefix.Bits() > best && r.prefix.Contains(dst) {
			best, out, next = r.prefix.Bits(), r.out, r.via
			if next.IsUnspecified() {
				next = dst
			}
		}
	}
	for i := range s.ifaces.values() {
		for _, p := range i.addresses {
			if p.Bits() > best && p.Contains(dst) && p.Addr() != dst {
				best, out, next = p.Bits(), i, dst
			}
		}
	}
	return out, next
}

// showRoutes lists the routes that were made by messages.
func (s *Server) showRoutes(out *strings.Builder) {
	for _, r := range s.routes {
		out.WriteString(r.prefix.String() + "\n  via " + r.via.String() + " " + r.out.name + "\n")
	}
}
