package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
	"highwire/vppapi/stats"
)

// Direct joins two kernel ends of one node by a single veth pair between their namespaces, without VPP in between, if the
// mechanism was made for that; otherwise it answers nothing. Such a path is as fast as the kernel and outlives VPP.
func (m *Mechanism) Direct(client, endpoint mechanisms.End) ([]vppapi.Object, error) {
	if !m.direct {
		return nil, nil
	}
	pair := Pair{name: client.VWire + ":direct", NoARP: client.Payload == mechanisms.IP, namespaces: m.namespaces}
	var objects []vppapi.Object
	for i, e := range []mechanisms.End{client, endpoint} {
		p, err := parse(e)
		if err != nil {
			return nil, err
		}
		place := place{name: e.Name(), namespace: p.namespace, iface: p.name, pair: pair.name, namespaces: m.namespaces}
		pair.Ends[i] = PairEnd{Namespace: p.namespace, Name: p.name, MAC: p.mac, alias: m.namespaces.alias(e.Name())}
		objects = append(objects, newNetns(place, e, mtuOf(e), pair.NoARP), newCarrier(place, e))
		if len(e.Policies) > 0 {
			objects = append(objects, Policies{place: place, addresses: e.Addresses, policies: e.Policies})
		}
	}
	if pair.NoARP {
		// As with VPP in between: one MAC for both, see the package text.
		pair.Ends[1].MAC = pair.Ends[0].MAC
	}
	return append(objects, pair), nil
}

// Pair is a veth pair straight between two peers' namespaces.
type Pair struct {
	name string
	// Ends are the client's and the endpoint's.
	Ends [2]PairEnd
	// NoARP: see the package text.
	NoARP      bool
	namespaces *Namespaces
}

// PairEnd is one side of a Pair.
type PairEnd struct {
	Namespace mechanisms.Inode
	Name      string
	MAC       vppapi.HardwareAddr
	alias     string
}

// Key is {link, "<vwire>:direct"}.
func (p Pair) Key() vppapi.Key { return vppapi.Key{Kind: vppapi.KindLink, Name: p.name} }

// Uses nothing.
func (p Pair) Uses() []vppapi.Key { return nil }

func (p Pair) String() string {
	a, b := p.Ends[0], p.Ends[1]
	s := fmt.Sprintf("direct veth %s in %s mac %s to %s in %s mac %s", a.Name, a.Namespace, a.MAC, b.Name, b.Namespace, b.MAC)
	if p.NoARP {
		s += " noarp"
	}
	return s
}

// Observe tells whether both sides are there and ours.
func (p Pair) Observe(ctx context.Context) bool {
	for _, e := range p.Ends {
		if err := p.find(ctx, e, func(*netlink.Handle, netlink.Link) error { return nil }); err != nil {
			return false
		}
	}
	return true
}

// find calls fn with our interface of an end; without one it is fault.NotFound.
func (p Pair) find(ctx context.Context, e PairEnd, fn func(*netlink.Handle, netlink.Link) error) error {
	return p.namespaces.ours(ctx, e.Namespace, e.Name, e.alias, fn)
}

// Count reads the counters of the client's side: what one side sends is what the other receives.
func (p Pair) Count(ctx context.Context) (client, endpoint stats.Counters, err error) {
	err = p.find(ctx, p.Ends[0], func(_ *netlink.Handle, link netlink.Link) error {
		s := link.Attrs().Statistics
		if s == nil {
			return fault.New(fault.Unavailable, "the kernel tells no counters of %s", p.Ends[0].Name)
		}
		client = stats.Counters{RxPackets: s.TxPackets, RxBytes: s.TxBytes, TxPackets: s.RxPackets, TxBytes: s.RxBytes, Drops: s.TxDropped, TxErrors: s.RxDropped}
		endpoint = stats.Counters{RxPackets: s.RxPackets, RxBytes: s.RxBytes, TxPackets: s.TxPackets, TxBytes: s.TxBytes}
		return nil
	})
	return client, endpoint, err
}

// Realize makes the pair. An interface of one of its names which is not ours is fault.Conflict.
func (p Pair) Realize(ctx context.Context) (bool, error) {
	if p.Observe(ctx) {
		return false, nil
	}
	if err := p.Release(ctx); err != nil {
		return false, err
	}
	a, b := p.Ends[0], p.Ends[1]
	err := p.namespaces.with(b.Namespace, func(fd int) error {
		return p.namespaces.enter(ctx, a.Namespace, func(h *netlink.Handle) error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.HardwareAddr = a.Name, net.HardwareAddr(a.MAC[:])
			return h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: b.Name, PeerHardwareAddr: net.HardwareAddr(b.MAC[:]), PeerNamespace: netlink.NsFd(fd)})
		})
	})
	if errors.Is(err, os.ErrExist) {
		return false, fault.New(fault.Conflict, "interface %s or %s exists already in its peer's namespace; choose another name or remove it", a.Name, b.Name)
	}
	if err != nil {
		return false, fmt.Errorf("make veth %s: %w", a.Name, err)
	}
	for _, e := range p.Ends {
		err := p.namespaces.enter(ctx, e.Namespace, func(h *netlink.Handle) error {
			link, err := h.LinkByName(e.Name)
			if err != nil {
				return fmt.Errorf("find %s: %w", e.Name, err)
			}
			if p.NoARP {
				if err := h.LinkSetARPOff(link); err != nil {
					return fmt.Errorf("noarp on %s: %w", e.Name, err)
				}
			}
			return h.LinkSetAlias(link, e.alias)
		})
		if err != nil {
			return true, errors.Join(err, p.Release(context.WithoutCancel(ctx)))
		}
	}
	return true, nil
}

// Release removes the pair from whichever end is left.
func (p Pair) Release(ctx context.Context) error {
	for _, e := range p.Ends {
		err := p.find(ctx, e, func(h *netlink.Handle, link netlink.Link) error {
			if err := h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("remove %s: %w", e.Name, err)
			}
			return nil
		})
		if err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	return nil
}
