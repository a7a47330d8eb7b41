package kernel

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink"

	"highwire/mechanisms"
	"highwire/vppapi"
)

// Above are the objects of an end whose interface is brought into the peer's namespace by an object of another package,
// with key on: MTU, addresses, routes and policies of the interface, which by then has its final name and Alias. There is no
// VPP behind it.
func Above(n *Namespaces, e mechanisms.End, on vppapi.Key) ([]vppapi.Object, error) {
	p, err := parse(e)
	if err != nil {
		return nil, err
	}
	place := place{name: e.Name(), namespace: p.namespace, iface: p.name, on: on, namespaces: n}
	objects := []vppapi.Object{newNetns(place, e, mtuOf(e), false), newCarrier(place, e)}
	if len(e.Policies) > 0 {
		objects = append(objects, Policies{place: place, addresses: e.Addresses, policies: e.Policies})
	}
	return objects, nil
}

// Peer is where a validated end's interface is wanted.
type Peer struct {
	Namespace mechanisms.Inode
	Name      string
	MAC       vppapi.HardwareAddr
}

// PeerOf reads an end's parameters; fault.Invalid names the one that is wrong.
func PeerOf(e mechanisms.End) (Peer, error) {
	p, err := parse(e)
	return Peer{Namespace: p.namespace, Name: p.name, MAC: p.mac}, err
}

// Alias marks the interface of an end as ours.
func (n *Namespaces) Alias(end string) string { return n.alias(end) }

// Ours calls fn, inside the namespace, with the interface of that name which carries the end's alias. Without one it is
// fault.NotFound.
func (n *Namespaces) Ours(ctx context.Context, id mechanisms.Inode, name, end string, fn func(*netlink.Handle, netlink.Link) error) error {
	return n.ours(ctx, id, name, n.alias(end), fn)
}

// Move brings an interface of the agent's own namespace, which must be down, into the namespace.
func (n *Namespaces) Move(id mechanisms.Inode, link netlink.Link) error {
	err := n.with(id, func(fd int) error { return netlink.LinkSetNsFd(link, fd) })
	if err != nil {
		return fmt.Errorf("move %s to namespace %s: %w", link.Attrs().Name, id, err)
	}
	return nil
}

// Enter calls fn on a thread that is inside the namespace, with a netlink handle there.
func (n *Namespaces) Enter(ctx context.Context, id mechanisms.Inode, fn func(h *netlink.Handle) error) error {
	return n.enter(ctx, id, fn)
}
