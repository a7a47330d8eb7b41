package kernel

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// A spare device is a veth pair within the agent's own namespace that VPP holds already: the 40 ms which VPP takes to
// attach to a kernel interface are spent before anybody waits. An end gets one by End.Device. Its interface is then a
// macvlan in passthru mode on the far side of the pair, made in the peer's namespace within a millisecond; moving the far
// side itself there would cost several RCU grace periods, 15 ms an end.

// PoolSize is how many spare devices are to be kept ready.
func (m *Mechanism) PoolSize() int {
	if m.backing == Tap {
		return 0 // VPP makes a tap in a millisecond
	}
	return m.pool
}

// NewDevice is a name for a spare device.
func (m *Mechanism) NewDevice() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	return vppapi.HostName(b)
}

// Fits tells whether a spare device can serve an end: an end with wishes of its own gets a device of its own.
func (m *Mechanism) Fits(e mechanisms.End) bool {
	return m.PoolSize() > 0 && e.Offload && e.MAC == "" && e.MTU <= DefaultMTU
}

// Spare are the objects of a device under the name of an end, its own or the one that has it.
func (m *Mechanism) Spare(end, device string) []vppapi.Object {
	mac := macOf(device)
	return []vppapi.Object{
		Link{place: place{name: end, host: device, spare: true, namespaces: m.namespaces}, MAC: mac, MTU: DefaultMTU, Offload: true},
		vppapi.AFPacket{Name: end, Host: device, MAC: mac, Offload: true, Queues: m.queues},
		vppapi.Tag{Name: end}, vppapi.Up{Name: end},
	}
}

// farSide is the side of a spare pair that no VPP holds.
func farSide(device string) string { return device + "p" }

// makeSpare makes the pair of a spare device, or finds it.
func (l Link) makeSpare() (bool, error) {
	if l.observeSpare() {
		return false, nil
	}
	if err := l.Release(context.Background()); err != nil {
		return false, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = l.host, int(l.MTU)
	err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: farSide(l.host), PeerHardwareAddr: l.MAC[:], PeerMTU: l.MTU})
	if err != nil {
		return false, fmt.Errorf("make veth %s: %w", l.host, err)
	}
	for _, name := range []string{l.host, farSide(l.host)} {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = errors.Join(netlink.LinkSetAlias(link, l.namespaces.alias(l.name)), quiet(name))
		}
		if err != nil {
			return true, errors.Join(fmt.Errorf("set up %s: %w", name, err), l.Release(context.Background()))
		}
	}
	return true, nil
}

func (l Link) observeSpare() bool {
	_, err := netlink.LinkByName(l.host)
	if err != nil {
		return false
	}
	_, err = netlink.LinkByName(farSide(l.host))
	return err == nil
}

// Port is the interface of an end that has a spare device.
type Port struct {
	place
	NoARP bool
}

// Key is {link, "<end> port"}.
func (p Port) Key() vppapi.Key { return vppapi.Key{Kind: vppapi.KindLink, Name: p.name + " port"} }

// Uses the device.
func (p Port) Uses() []vppapi.Key { return []vppapi.Key{{Kind: vppapi.KindLink, Name: p.name}} }

func (p Port) String() string {
	s := fmt.Sprintf("macvlan %s in %s on %s", p.iface, p.namespace, farSide(p.host))
	if p.NoARP {
		s += " noarp"
	}
	return s
}

// Observe tells whether the interface is there and ours.
func (p Port) Observe(ctx context.Context) bool {
	return p.find(ctx, func(*netlink.Handle, netlink.Link) error { return nil }) == nil
}

// find calls fn, inside the namespace, with the interface under whatever name it has; without one it is fault.NotFound.
func (p Port) find(ctx context.Context, fn func(*netlink.Handle, netlink.Link) error) error {
	return p.namespaces.enter(ctx, p.namespace, func(h *netlink.Handle) error {
		link, err := p.anyName(h)
		if err != nil {
			return err
		}
		return fn(h, link)
	})
}

// Realize makes the interface. One of that name which is not ours is fault.Conflict.
func (p Port) Realize(ctx context.Context) (bool, error) {
	if p.Observe(ctx) {
		return false, nil
	}
	far, err := netlink.LinkByName(farSide(p.host))
	if err != nil {
		return false, fmt.Errorf("find %s: %w", farSide(p.host), err)
	}
	host, err := netlink.LinkByName(p.host)
	if err != nil {
		return false, fmt.Errorf("find %s: %w", p.host, err)
	}
	// From here on the device is this end's, also for an agent that starts anew.
	for _, l := range []netlink.Link{host, far} {
		if err := netlink.LinkSetAlias(l, p.namespaces.alias(p.name)); err != nil {
			return false, fmt.Errorf("alias of %s: %w", l.Attrs().Name, err)
		}
	}
	if err := netlink.LinkSetUp(far); err != nil {
		return false, fmt.Errorf("bring %s up: %w", farSide(p.host), err)
	}
	err = p.namespaces.with(p.namespace, func(fd int) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex, attrs.Namespace = p.iface, far.Attrs().Index, netlink.NsFd(fd)
		return netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_PASSTHRU})
	})
	if errors.Is(err, os.ErrExist) {
		return false, fault.New(fault.Conflict, "interface %s exists already in the peer's namespace; choose another name or remove it", p.iface)
	}
	if err != nil {
		return false, fmt.Errorf("make macvlan %s: %w", p.iface, err)
	}
	err = p.namespaces.enter(ctx, p.namespace, func(h *netlink.Handle) error {
		link, err := h.LinkByName(p.iface)
		if err != nil {
			return fmt.Errorf("find %s: %w", p.iface, err)
		}
		if p.NoARP {
			if err := h.LinkSetARPOff(link); err != nil {
				return fmt.Errorf("noarp on %s: %w", p.iface, err)
			}
		}
		return h.LinkSetAlias(link, p.namespaces.alias(p.name))
	})
	if err != nil {
		return true, errors.Join(err, p.Release(context.WithoutCancel(ctx)))
	}
	return true, nil
}

// Release removes the interface; the device stays.
func (p Port) Release(ctx context.Context) error {
	err := p.find(ctx, func(h *netlink.Handle, link netlink.Link) error {
		if err := h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove %s: %w", p.iface, err)
		}
		return nil
	})
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// quiet keeps the kernel's own chatter (router solicitations, MLD) off a link of ours: it would only wake VPP up.
func quiet(link string) error {
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+link+"/disable_ipv6", []byte("1"), 0); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("silence %s: %w", link, err)
	}
	return nil
}
