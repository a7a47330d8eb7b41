package sriov

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"

	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// Lent is a VF that a peer has as a kernel interface. It is set up through its PF, bound to its kernel driver, moved into the
// peer's namespace under the name the peer wants, and comes back to the agent's namespace under its old name.
type Lent struct {
	end        string
	host       Host
	namespaces *kernel.Namespaces
	address    string
	driver     string
	peer       kernel.Peer
	settings   settings
}

// Key is {link, end}.
func (l Lent) Key() vppapi.Key { return vppapi.Key{Kind: vppapi.KindLink, Name: l.end} }

// Uses nothing.
func (l Lent) Uses() []vppapi.Key { return nil }

func (l Lent) String() string {
	return fmt.Sprintf("vf %s driver %s as %s in %s %s", l.address, l.driver, l.peer.Name, l.peer.Namespace, l.settings)
}

// Observe tells whether the peer has the interface and the PF enforces what it should.
func (l Lent) Observe(ctx context.Context) bool {
	return l.host.driver(l.address) == l.driver && l.there(ctx) == nil && l.host.enforced(l.address, l.settings)
}

// there: the peer has the interface.
func (l Lent) there(ctx context.Context) error {
	return l.namespaces.Ours(ctx, l.peer.Namespace, l.peer.Name, l.end, func(_ *netlink.Handle, link netlink.Link) error {
		if link.Attrs().ParentDev != "" && link.Attrs().ParentDev != l.address {
			return fault.New(fault.Conflict, "interface %s is not VF %s", l.peer.Name, l.address)
		}
		return nil
	})
}

// Realize lends the VF. An interface of that name which is not ours is fault.Conflict.
func (l Lent) Realize(ctx context.Context) (bool, error) {
	changed, err := l.host.enforce(l.address, l.settings)
	if err != nil {
		return changed, err
	}
	if l.host.driver(l.address) == l.driver && l.there(ctx) == nil {
		return changed, nil
	}
	name := l.host.netdev(l.address)
	if err := l.host.Rebind(l.address, l.driver); err != nil {
		return changed, err
	}
	if err := l.move(ctx, name); err != nil {
		return true, errors.Join(err, l.Release(context.WithoutCancel(ctx)))
	}
	return true, nil
}

// oldName is an alternative name that remembers what the interface was called: the peer's namespace may have that name
// too, so it carries a prefix.
const oldName = "hw-vf:"

// passing is a name that no namespace on the interface's way has.
func (l Lent) passing() string { return kernel.HostName(l.end) }

// move takes the VF's interface from the agent's namespace to the peer's. former is what it was called before its driver began
// anew, empty if it was not there.
func (l Lent) move(ctx context.Context, former string) error {
	name := l.host.netdev(l.address)
	if name == "" {
		return fault.New(fault.Unavailable, "driver %s makes no interface of VF %s, or it is in another namespace", l.driver, l.address)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.LinkSetDown(link); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if link.Attrs().HardwareAddr.String() != l.settings.MAC.String() {
		if err := netlink.LinkSetHardwareAddr(link, net.HardwareAddr(l.settings.MAC[:])); err != nil {
			return fmt.Errorf("MAC of %s: %w", name, err)
		}
	}
	if formerName(link) == "" {
		if err := netlink.LinkAddAltName(link, oldName+cmp.Or(former, name)); err != nil {
			return fmt.Errorf("remember the name of %s: %w", name, err)
		}
	}
	if err := netlink.LinkSetAlias(link, l.namespaces.Alias(l.end)); err != nil {
		return fmt.Errorf("alias of %s: %w", name, err)
	}
	if err := netlink.LinkSetName(link, l.passing()); err != nil {
		return fmt.Errorf("rename %s: %w", name, err)
	}
	if err := l.namespaces.Move(l.peer.Namespace, link); err != nil {
		return err
	}
	return l.namespaces.Ours(ctx, l.peer.Namespace, l.passing(), l.end, func(h *netlink.Handle, link netlink.Link) error {
		err := h.LinkSetName(link, l.peer.Name)
		if errors.Is(err, os.ErrExist) {
			return fault.New(fault.Conflict, "interface %s exists already in the peer's namespace; choose another name or remove it", l.peer.Name)
		}
		if err != nil {
			return fmt.Errorf("name %s: %w", l.peer.Name, err)
		}
		return nil
	})
}

// formerName is what the interface was called before it was lent, empty if it was not.
func formerName(link netlink.Link) string {
	for _, a := range link.Attrs().AltNames {
		if name, ok := strings.CutPrefix(a, oldName); ok {
			return name
		}
	}
	return ""
}

// Release takes the VF back. When the peer's namespace died the kernel brings it back itself, a little later: until then
// this is fault.Unavailable.
func (l Lent) Release(ctx context.Context) error {
	if err := l.fetch(ctx); err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	name := l.host.netdev(l.address)
	if name == "" {
		if l.host.driver(l.address) != l.driver {
			return nil // its PF was reset, or another driver has it: nothing of it is with the peer
		}
		return fault.New(fault.Unavailable, "VF %s has not come back yet from namespace %s", l.address, l.peer.Namespace)
	}
	return restore(name)
}

// fetch moves the interface back to the agent's namespace.
func (l Lent) fetch(ctx context.Context) error {
	self, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("own network namespace: %w", err)
	}
	defer self.Close()
	return l.namespaces.Enter(ctx, l.peer.Namespace, func(h *netlink.Handle) error {
		links, err := h.LinkList()
		if err != nil {
			return fmt.Errorf("list links: %w", err)
		}
		for _, link := range links {
			// The peer may have renamed it.
			if link.Attrs().Alias != l.namespaces.Alias(l.end) && link.Attrs().ParentDev != l.address {
				continue
			}
			name := link.Attrs().Name
			if err := h.LinkSetDown(link); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if err := h.LinkSetName(link, l.passing()); err != nil {
				return fmt.Errorf("rename %s: %w", name, err)
			}
			if err := h.LinkSetNsFd(link, int(self.Fd())); err != nil {
				return fmt.Errorf("take %s back: %w", name, err)
			}
			return nil
		}
		return fault.New(fault.NotFound, "VF %s is not in namespace %s", l.address, l.peer.Namespace)
	})
}

// restore gives an interface that is back its old name and takes our marks off it.
func restore(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.LinkSetDown(link); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if former := formerName(link); former != "" {
		if err := netlink.LinkDelAltName(link, oldName+former); err != nil {
			return fmt.Errorf("forget the former name of %s: %w", name, err)
		}
		// Somebody may have taken the name in the meantime; then the interface keeps the one it has.
		if err := netlink.LinkSetName(link, former); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("name %s again: %w", former, err)
		}
	}
	if err := netlink.LinkSetAlias(link, ""); err != nil {
		return fmt.Errorf("alias of %s: %w", name, err)
	}
	return nil
}

// lent is the object for a VF end of type KERNEL.
func (p *Pool) lent(n *kernel.Namespaces, e mechanisms.End) (Lent, error) {
	peer, err := kernel.PeerOf(e)
	if err != nil {
		return Lent{}, err
	}
	f, s, err := p.settings(e)
	if err != nil {
		return Lent{}, err
	}
	s.MAC = peer.MAC
	return Lent{end: e.Name(), host: p.cfg.Host, namespaces: n, address: e.Params[ParamPCI], driver: f.VFKernelDriver, peer: peer, settings: s}, nil
}
