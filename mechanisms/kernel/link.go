package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// place says where an end's interface lives; all kernel objects of the end share it.
type place struct {
	name       string // of the end
	namespace  mechanisms.Inode
	iface      string     // in namespace
	host       string     // in the agent's own namespace
	tap        bool       // VPP makes the interface
	pair       string     // name of the Pair on a direct path
	spare      bool       // host is a spare device, the interface a Port on it
	on         vppapi.Key // another package's object brings the interface here, see Above
	namespaces *Namespaces
}

// base is what the interface stands on and goes with.
func (p place) base() []vppapi.Key {
	switch {
	case p.on != vppapi.Key{}:
		return []vppapi.Key{p.on}
	case p.pair != "":
		return []vppapi.Key{{Kind: vppapi.KindLink, Name: p.pair}}
	case p.tap:
		return []vppapi.Key{vppapi.Interface(p.name)}
	case p.spare:
		return []vppapi.Key{Port{place: p}.Key()}
	}
	return []vppapi.Key{{Kind: vppapi.KindLink, Name: p.name}}
}

// ready is what has to be there before packets may flow.
func (p place) ready() []vppapi.Key {
	if p.pair != "" || p.on != (vppapi.Key{}) {
		return p.base()
	}
	return append(p.base(), vppapi.Interface(p.name))
}

// Link is the veth pair of an end. The agent's side is VPP's; the far side is made in the peer's namespace, down.
type Link struct {
	place
	// MAC of the peer's interface.
	MAC vppapi.HardwareAddr
	MTU uint32
	// NoARP: see the package text.
	NoARP bool
	// Offload leaves checksums and segmentation to whoever receives at the far end of the vWire.
	Offload bool
}

// Key is {link, end}.
func (l Link) Key() vppapi.Key { return vppapi.Key{Kind: vppapi.KindLink, Name: l.name} }

// Uses nothing.
func (l Link) Uses() []vppapi.Key { return nil }

func (l Link) String() string {
	if l.spare {
		return fmt.Sprintf("veth %s to %s mac %s mtu %d", l.host, farSide(l.host), l.MAC, l.MTU)
	}
	s := fmt.Sprintf("veth %s to %s in %s mac %s mtu %d", l.host, l.iface, l.namespace, l.MAC, l.MTU)
	if l.NoARP {
		s += " noarp"
	}
	if l.Offload {
		s += " offload"
	}
	return s
}

// Observe tells whether both sides are there and ours.
func (l Link) Observe(ctx context.Context) bool {
	if l.spare {
		return l.observeSpare()
	}
	host, err := netlink.LinkByName(l.host)
	if err != nil || host.Attrs().Alias != l.namespaces.alias(l.name) {
		return false
	}
	err = l.namespaces.enter(ctx, l.namespace, func(h *netlink.Handle) error {
		// Under whatever name: Netns gives it the right one.
		peer, err := l.anyName(h)
		if err == nil && peer.Attrs().ParentIndex != host.Attrs().Index {
			err = fault.New(fault.Conflict, "another interface")
		}
		return err
	})
	return err == nil
}

// Realize makes the pair. An interface of that name which is not ours is fault.Conflict.
func (l Link) Realize(ctx context.Context) (bool, error) {
	if l.spare {
		return l.makeSpare()
	}
	if l.Observe(ctx) {
		return false, nil
	}
	// Half a pair is of no use: what an earlier life left goes first.
	if err := l.Release(ctx); err != nil {
		return false, err
	}
	err := l.namespaces.with(l.namespace, func(fd int) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = l.host, int(l.MTU)
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: l.iface, PeerHardwareAddr: net.HardwareAddr(l.MAC[:]), PeerNamespace: netlink.NsFd(fd), PeerMTU: l.MTU,
		})
	})
	if errors.Is(err, os.ErrExist) {
		return false, fault.New(fault.Conflict, "interface %s exists already in the peer's namespace; choose another name or remove it", l.iface)
	}
	if err != nil {
		return false, fmt.Errorf("make veth %s: %w", l.host, err)
	}
	if err := l.prepare(ctx); err != nil {
		return true, errors.Join(err, l.Release(context.WithoutCancel(ctx)))
	}
	return true, nil
}

func (l Link) prepare(ctx context.Context) error {
	host, err := netlink.LinkByName(l.host)
	if err != nil {
		return fmt.Errorf("find %s: %w", l.host, err)
	}
	// The kernel takes no alias with the creation.
	if err := netlink.LinkSetAlias(host, l.namespaces.alias(l.name)); err != nil {
		return fmt.Errorf("alias of %s: %w", l.host, err)
	}
	if err := quiet(l.host); err != nil {
		return err
	}
	return l.namespaces.enter(ctx, l.namespace, func(h *netlink.Handle) error {
		peer, err := h.LinkByName(l.iface)
		if err != nil {
			return fmt.Errorf("find %s: %w", l.iface, err)
		}
		if err := h.LinkSetAlias(peer, l.namespaces.alias(l.name)); err != nil {
			return fmt.Errorf("alias of %s: %w", l.iface, err)
		}
		if l.NoARP {
			if err := h.LinkSetARPOff(peer); err != nil {
				return fmt.Errorf("noarp on %s: %w", l.iface, err)
			}
		}
		if !l.Offload {
			return OffloadOff(l.iface)
		}
		return nil
	})
}

// OffloadOff makes the kernel complete checksums and cut segments before they reach VPP, in the thread's namespace.
func OffloadOff(iface string) error {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("ethtool: %w", err)
	}
	defer e.Close()
	have, err := e.Features(iface)
	if err != nil {
		return fmt.Errorf("offloads of %s: %w", iface, err)
	}
	off := make(map[string]bool)
	for _, f := range []string{"tx-checksum-ip-generic", "tx-checksum-ipv4", "tx-checksum-ipv6", "tx-checksum-sctp", "tx-generic-segmentation",
		"tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-tcp-mangleid-segmentation", "tx-tcp-ecn-segmentation", "tx-udp-segmentation"} {
		if have[f] {
			off[f] = false
		}
	}
	if err := e.Change(iface, off); err != nil {
		return fmt.Errorf("turn off offloads of %s: %w", iface, err)
	}
	return nil
}

// Release removes the pair; the peer's side goes with ours.
func (l Link) Release(context.Context) error {
	host, err := netlink.LinkByName(l.host)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find %s: %w", l.host, err)
	}
	if err := netlink.LinkDel(host); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove %s: %w", l.host, err)
	}
	return nil
}

// ours calls fn, inside the namespace, with the interface of that name and alias; without one it is fault.NotFound.
func (n *Namespaces) ours(ctx context.Context, id mechanisms.Inode, name, alias string, fn func(*netlink.Handle, netlink.Link) error) error {
	return n.enter(ctx, id, func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		var none netlink.LinkNotFoundError
		switch {
		case errors.As(err, &none), err == nil && link.Attrs().Alias != alias:
			return fault.New(fault.NotFound, "no interface %s of ours in %s", name, id)
		case err != nil:
			return fmt.Errorf("find %s: %w", name, err)
		}
		return fn(h, link)
	})
}

// List finds the pairs in the agent's namespace that carry our alias, wanted or not.
func (m *Mechanism) List(context.Context) ([]vppapi.Object, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var found []vppapi.Object
	for _, l := range links {
		end, ours := m.namespaces.endOf(l.Attrs().Alias)
		// The far side of a spare pair ("p") and an interface that waits for its removal ("q") go with their device.
		if name := l.Attrs().Name; ours && strings.HasPrefix(name, "hw") && strings.TrimRight(name, "pq") == name && l.Type() == "veth" {
			found = append(found, Link{place: place{name: end, host: l.Attrs().Name, namespaces: m.namespaces}})
		}
	}
	return found, nil
}
