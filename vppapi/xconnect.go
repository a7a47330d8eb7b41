package vppapi

import (
	"fmt"
	"net/netip"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/ethernet_types"
	"go.fd.io/govpp/binapi/fib_types"
	"go.fd.io/govpp/binapi/ip_neighbor"
	"go.fd.io/govpp/binapi/ip_types"
	"go.fd.io/govpp/binapi/l2"
	"go.fd.io/govpp/binapi/l3xc"
)

// L2XConnect sends every frame that enters From out of To (sw_interface_set_l2_xconnect); the other direction is another
// object. VPP clears it when either interface goes.
type L2XConnect struct {
	// From and To are names of ends.
	From, To string
}

// Key is {xconnect, From l2}.
func (x L2XConnect) Key() Key { return Key{KindXConnect, x.From + " l2"} }

// Uses both interfaces.
func (x L2XConnect) Uses() []Key { return []Key{Interface(x.From), Interface(x.To)} }

func (x L2XConnect) String() string { return "l2 xconnect to " + x.To }

func (x L2XConnect) set(at indexes, enable bool, also []api.VPPApiError) ([]call, error) {
	rx, err := at(Interface(x.From))
	if err != nil {
		return nil, err
	}
	tx, err := at(Interface(x.To))
	if err != nil {
		return nil, err
	}
	return []call{{req: &l2.SwInterfaceSetL2Xconnect{RxSwIfIndex: rx, TxSwIfIndex: tx, Enable: enable}, also: also}}, nil
}

func (x L2XConnect) create(at indexes) ([]call, error) { return x.set(at, true, nil) }
func (x L2XConnect) remove(at indexes) ([]call, error) { return x.set(at, false, gone) }

// L3XConnect sends every packet of one IP family that enters From to NextHop out of To (l3xc_update).
type L3XConnect struct {
	From, To string
	// NextHop is an address at the far side of To; it gives the family and must not be zero, which would drop.
	NextHop netip.Addr
}

// Key is {xconnect, From ip4} or {xconnect, From ip6}.
func (x L3XConnect) Key() Key {
	if x.NextHop.Is6() {
		return Key{KindXConnect, x.From + " ip6"}
	}
	return Key{KindXConnect, x.From + " ip4"}
}

// Uses both interfaces.
func (x L3XConnect) Uses() []Key { return []Key{Interface(x.From), Interface(x.To)} }

func (x L3XConnect) String() string { return fmt.Sprintf("l3 xconnect via %s on %s", x.NextHop, x.To) }

// Outlives: unlike every other setting an l3xc entry stays when its interface goes, and takes effect wrongly once the
// index is used again. It must be removed first.
func (x L3XConnect) Outlives() {}

func (x L3XConnect) create(at indexes) ([]call, error) {
	// An update of an entry that exists keeps forwarding on the old path, so any old one is removed first.
	calls, err := x.remove(at)
	if err != nil {
		return nil, err
	}
	from, err := at(Interface(x.From))
	if err != nil {
		return nil, err
	}
	to, err := at(Interface(x.To))
	if err != nil {
		return nil, err
	}
	path := fib_types.FibPath{SwIfIndex: uint32(to), Weight: 1}
	path.Proto, path.Nh.Address = fibAddress(x.NextHop)
	return append(calls, call{req: &l3xc.L3xcUpdate{L3xc: l3xc.L3xc{
		SwIfIndex: from, IsIP6: x.NextHop.Is6(), NPaths: 1, Paths: []fib_types.FibPath{path},
	}}}), nil
}

func (x L3XConnect) remove(at indexes) ([]call, error) {
	from, err := at(Interface(x.From))
	if err != nil {
		return nil, err
	}
	return []call{{
		req:  &l3xc.L3xcDel{SwIfIndex: from, IsIP6: x.NextHop.Is6()},
		also: []api.VPPApiError{api.INVALID_VALUE, api.INVALID_SW_IF_INDEX},
	}}, nil
}

// Neighbor is a static neighbour on an end's interface (ip_neighbor_add_del), without an entry in the FIB.
type Neighbor struct {
	Name string
	Addr netip.Addr
	MAC  HardwareAddr
}

// Key is {neighbor, Name Addr}.
func (n Neighbor) Key() Key { return Key{KindNeighbor, n.Name + " " + n.Addr.String()} }

// Uses the interface.
func (n Neighbor) Uses() []Key { return []Key{Interface(n.Name)} }

// Outlives: VPP keeps a static IPv4 neighbour when its interface goes, and gives it to the next one with that index.
func (n Neighbor) Outlives() {}

func (n Neighbor) String() string { return fmt.Sprintf("neighbor %s at %s", n.Addr, n.MAC) }

func (n Neighbor) set(at indexes, add bool, also []api.VPPApiError) ([]call, error) {
	i, err := at(Interface(n.Name))
	if err != nil {
		return nil, err
	}
	return []call{{req: &ip_neighbor.IPNeighborAddDel{IsAdd: add, Neighbor: ip_neighbor.IPNeighbor{
		SwIfIndex: i, Flags: ip_neighbor.IP_API_NEIGHBOR_FLAG_STATIC | ip_neighbor.IP_API_NEIGHBOR_FLAG_NO_FIB_ENTRY,
		MacAddress: ethernet_types.MacAddress(n.MAC), IPAddress: ipAddress(n.Addr),
	}}, also: also}}, nil
}

func (n Neighbor) create(at indexes) ([]call, error) { return n.set(at, true, nil) }
func (n Neighbor) remove(at indexes) ([]call, error) { return n.set(at, false, gone) }

func ipAddress(a netip.Addr) ip_types.Address {
	if a.Is6() {
		return ip_types.Address{Af: ip_types.ADDRESS_IP6, Un: ip_types.AddressUnionIP6(a.As16())}
	}
	return ip_types.Address{Af: ip_types.ADDRESS_IP4, Un: ip_types.AddressUnionIP4(a.As4())}
}

func fibAddress(a netip.Addr) (fib_types.FibPathNhProto, ip_types.AddressUnion) {
	u := ipAddress(a).Un
	if a.Is6() {
		return fib_types.FIB_API_PATH_NH_PROTO_IP6, u
	}
	return fib_types.FIB_API_PATH_NH_PROTO_IP4, u
}

// address undoes fibAddress and ipAddress.
func address(v6 bool, u ip_types.AddressUnion) netip.Addr {
	if v6 {
		return netip.AddrFrom16(u.GetIP6())
	}
	return netip.AddrFrom4(u.GetIP4())
}
