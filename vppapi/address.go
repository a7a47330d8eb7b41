package vppapi

import (
	"fmt"
	"net/netip"
	"strings"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/fib_types"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/ip_types"
)

// NodeSide ends the names of interfaces that belong to the node itself, not to an end of a vWire. Only these have addresses
// and routes in VPP.
const NodeSide = ":node"

func ofNode(end string) bool { return strings.HasSuffix(end, NodeSide) }

// Address is an IP address of an interface of the node (sw_interface_add_del_address). It goes with the interface.
type Address struct {
	Name string
	// Prefix is the address with the length of its subnet.
	Prefix netip.Prefix
}

// Key is {address, Name Prefix}.
func (a Address) Key() Key { return Key{KindAddress, a.Name + " " + a.Prefix.String()} }

// Uses the interface.
func (a Address) Uses() []Key { return []Key{Interface(a.Name)} }

func (a Address) String() string { return "address " + a.Prefix.String() }

func (a Address) set(at indexes, add bool, also []api.VPPApiError) ([]call, error) {
	i, err := at(Interface(a.Name))
	if err != nil {
		return nil, err
	}
	return []call{{req: &interfaces.SwInterfaceAddDelAddress{SwIfIndex: i, IsAdd: add, Prefix: ip_types.AddressWithPrefix{
		Address: ipAddress(a.Prefix.Addr()), Len: uint8(a.Prefix.Bits()),
	}}, also: also}}, nil
}

func (a Address) create(at indexes) ([]call, error) { return a.set(at, true, nil) }

func (a Address) remove(at indexes) ([]call, error) {
	return a.set(at, false, []api.VPPApiError{api.ADDRESS_NOT_FOUND_FOR_INTERFACE, api.INVALID_SW_IF_INDEX})
}

// Route sends packets to a prefix out of an interface of the node (ip_route_add_del, table 0).
type Route struct {
	Name   string
	Prefix netip.Prefix
	// Via is the next hop; the zero Addr means that the prefix is on the link.
	Via netip.Addr
}

// Key is {route, Prefix}: there is one table.
func (r Route) Key() Key { return Key{KindRoute, r.Prefix.String()} }

// Uses the interface.
func (r Route) Uses() []Key { return []Key{Interface(r.Name)} }

// Outlives: a route stays when its interface goes, and drops.
func (r Route) Outlives() {}

func (r Route) String() string {
	if !r.Via.IsValid() {
		return fmt.Sprintf("route %s on %s", r.Prefix, r.Name)
	}
	return fmt.Sprintf("route %s via %s on %s", r.Prefix, r.Via, r.Name)
}

func (r Route) message(add bool, paths ...fib_types.FibPath) *ip.IPRouteAddDel {
	return &ip.IPRouteAddDel{IsAdd: add, Route: ip.IPRoute{Prefix: ipPrefix(r.Prefix), Paths: paths}}
}

func (r Route) create(at indexes) ([]call, error) {
	i, err := at(Interface(r.Name))
	if err != nil {
		return nil, err
	}
	path := fib_types.FibPath{SwIfIndex: uint32(i), Weight: 1}
	via := r.Via
	if !via.IsValid() && r.Prefix.Addr().Is6() {
		via = netip.IPv6Unspecified()
	} else if !via.IsValid() {
		via = netip.IPv4Unspecified()
	}
	path.Proto, path.Nh.Address = fibAddress(via)
	return []call{{req: r.message(true, path)}}, nil
}

func (r Route) remove(indexes) ([]call, error) {
	return []call{{req: r.message(false), also: []api.VPPApiError{api.NO_SUCH_ENTRY}}}, nil
}

func ipPrefix(p netip.Prefix) ip_types.Prefix {
	return ip_types.Prefix{Address: ipAddress(p.Addr()), Len: uint8(p.Bits())}
}

// fromAPI is FIB_SOURCE_API of fib_source.h: routes made by ip_route_add_del.
const fromAPI = 8

// nodeRequests ask for what an interface of the node has beside the rest.
func (d *dumped) nodeRequests() []api.Message {
	var requests []api.Message
	for i, end := range d.names {
		if ofNode(end) {
			requests = append(requests, &ip.IPAddressDump{SwIfIndex: i}, &ip.IPAddressDump{SwIfIndex: i, IsIPv6: true})
		}
	}
	if len(requests) > 0 {
		requests = append(requests, &ip.IPRouteV2Dump{Src: fromAPI}, &ip.IPRouteV2Dump{Src: fromAPI, Table: ip.IPTable{IsIP6: true}})
	}
	return requests
}

func (d *dumped) addAddress(m *ip.IPAddressDetails) {
	if end, ours := d.names[m.SwIfIndex]; ours {
		a := m.Prefix.Address
		d.add(Address{end, netip.PrefixFrom(address(a.Af == ip_types.ADDRESS_IP6, a.Un), int(m.Prefix.Len))})
	}
}

func (d *dumped) addRoute(m *ip.IPRouteV2Details) {
	if m.Route.Src != fromAPI || len(m.Route.Paths) != 1 {
		return
	}
	path := m.Route.Paths[0]
	end, ours := d.nameOf(path.SwIfIndex)
	if !ours || !ofNode(end) {
		return
	}
	v6 := m.Route.Prefix.Address.Af == ip_types.ADDRESS_IP6
	r := Route{Name: end, Prefix: netip.PrefixFrom(address(v6, m.Route.Prefix.Address.Un), int(m.Route.Prefix.Len))}
	if via := address(v6, path.Nh.Address); !via.IsUnspecified() {
		r.Via = via
	}
	d.add(r)
}
