package lab

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Join connects two namespaces by a veth pair. Both ends have the same name, are up, and have the addresses given.
func Join(name string, a, b *Namespace, atA, atB []netip.Prefix) error {
	return veth(a, name, atA, b, name, atB)
}

func veth(a *Namespace, nameA string, atA []netip.Prefix, b *Namespace, nameB string, atB []netip.Prefix) error {
	err := a.Do(func() error {
		pair := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: nameB, PeerNamespace: netlink.NsFd(b.file.Fd())}
		pair.Name = nameA
		return netlink.LinkAdd(pair)
	})
	if err != nil {
		return fmt.Errorf("veth pair %s, %s: %w", nameA, nameB, err)
	}
	for _, end := range []struct {
		at        *Namespace
		name      string
		addresses []netip.Prefix
	}{{a, nameA, atA}, {b, nameB, atB}} {
		if err := end.at.Do(func() error { return bringUp(end.name, end.addresses) }); err != nil {
			return fmt.Errorf("interface %s: %w", end.name, err)
		}
	}
	return nil
}

func bringUp(name string, addresses []netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, p := range addresses {
		addr, err := netlink.ParseAddr(p.String())
		if err != nil {
			return err
		}
		// Nobody else can have it, and waiting for that to show would take seconds.
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("address %s: %w", p, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// Forward makes the namespace a router.
func (n *Namespace) Forward() error {
	return n.Do(func() error {
		for _, file := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
			// Opened by this thread, it is the namespace's own.
			if err := os.WriteFile(file, []byte("1"), 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// Route sends all that the namespace does not know by the routers behind the interface.
func (n *Namespace) Route(name string, routers ...netip.Addr) error {
	return n.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, r := range routers {
			route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: r.AsSlice()}
			if r.Is6() {
				route.Dst = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
			}
			if err := netlink.RouteAdd(route); err != nil {
				return fmt.Errorf("route by %s: %w", r, err)
			}
		}
		return nil
	})
}
