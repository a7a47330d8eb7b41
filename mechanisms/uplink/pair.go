package uplink

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// The two ends of the pair: the filters', and VPP's.
const (
	outer = "hwuplink"
	inner = "hwuplink-vpp"
)

// alias marks the pair as ours.
const alias = "highwire uplink"

// Pair is the veth pair between the filters and VPP.
type Pair struct {
	// MTU is that of the uplink.
	MTU uint32
}

// Key is {link, Name}.
func (p Pair) Key() vppapi.Key { return vppapi.Key{Kind: vppapi.KindLink, Name: Name} }

// Uses nothing.
func (p Pair) Uses() []vppapi.Key { return nil }

func (p Pair) String() string { return fmt.Sprintf("veth %s to %s mtu %d", outer, inner, p.MTU) }

// Observe tells whether both ends are there as they should be.
func (p Pair) Observe(context.Context) bool {
	for _, name := range []string{outer, inner} {
		link, err := ours(name)
		if err != nil || link.Attrs().MTU != int(p.MTU) {
			return false
		}
	}
	return true
}

// ours is the interface of that name if it is ours, else fault.NotFound or fault.Conflict.
func ours(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, fault.New(fault.NotFound, "%s is not there", name)
	}
	if err != nil {
		return nil, err
	}
	if link.Attrs().Alias != alias {
		return nil, fault.New(fault.Conflict, "interface %s is not ours; rename it, or name another network namespace for the agent", name)
	}
	return link, nil
}

// Realize makes the pair, links down. IPv6 is off on it, so that the kernel says nothing on the uplink by way of it.
func (p Pair) Realize(ctx context.Context) (bool, error) {
	if p.Observe(ctx) {
		return false, nil
	}
	if err := p.Release(ctx); err != nil {
		return false, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = outer, int(p.MTU)
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: inner, PeerMTU: p.MTU}); err != nil {
		return false, fmt.Errorf("make veth %s: %w", outer, err)
	}
	for _, name := range []string{outer, inner} {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetAlias(link, alias)
		}
		if err == nil {
			err = netlink.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE)
		}
		if err != nil {
			return true, errors.Join(fmt.Errorf("set up %s: %w", name, err), p.Release(ctx))
		}
	}
	return true, nil
}

// Release removes the pair.
func (p Pair) Release(context.Context) error {
	for _, name := range []string{outer, inner} {
		link, err := ours(name)
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err == nil {
			err = netlink.LinkDel(link)
		}
		if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) {
			return fmt.Errorf("remove %s: %w", name, err)
		}
	}
	return nil
}
