package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"highwire/cmd/lab"
	"highwire/forwarder"
	"highwire/mechanisms"
)

// Addresses of every pair of ends, and the name of the interface that has them.
var (
	clientAddr   = netip.MustParseAddr("172.16.1.3")
	endpointAddr = netip.MustParseAddr("172.16.1.2")
)

const ifaceName = "nsm-1"

// ends are two namespaces to be joined, by a vWire or by hand.
type ends struct{ client, endpoint *lab.Namespace }

func newEnds() (e ends, err error) {
	if e.client, err = lab.New(); err != nil {
		return e, err
	}
	if e.endpoint, err = lab.New(); err != nil {
		_ = e.client.Close()
	}
	return e, err
}

// withEnds calls fn with n pairs of namespaces.
func withEnds(n int, fn func(...ends) error) error {
	var list []ends
	defer func() {
		for _, e := range list {
			_ = e.client.Close()
			_ = e.endpoint.Close()
		}
	}()
	for range n {
		e, err := newEnds()
		if err != nil {
			return err
		}
		list = append(list, e)
	}
	return fn(list...)
}

// stream is the goodput of one TCP connection from client to endpoint, in Gb/s.
func (e ends) stream(length time.Duration) Trial {
	return func(ctx context.Context) ([]float64, error) {
		f, err := lab.Stream(ctx, e.client, e.endpoint, endpointAddr, length)
		if err != nil {
			return nil, err
		}
		return []float64{f.BitsPerSecond() / 1e9}, nil
	}
}

// vwire asks for kernel interfaces at both ends.
func (e ends) vwire(id string) (forwarder.VWire, error) {
	v := forwarder.VWire{ID: id}
	for _, s := range []struct {
		side        mechanisms.Side
		end         *mechanisms.End
		namespace   *lab.Namespace
		own, remote netip.Addr
	}{{mechanisms.Client, &v.Client, e.client, clientAddr, endpointAddr}, {mechanisms.Endpoint, &v.Endpoint, e.endpoint, endpointAddr, clientAddr}} {
		at, err := inodeOf(s.namespace.File())
		if err != nil {
			return v, err
		}
		remote := netip.PrefixFrom(s.remote, 32)
		*s.end = mechanisms.End{
			VWire: id, Side: s.side, Type: mechanisms.Kernel, Payload: mechanisms.Ethernet,
			Params:    map[string]string{mechanisms.ParamInode: at.String(), mechanisms.ParamName: ifaceName},
			Addresses: []netip.Prefix{netip.PrefixFrom(s.own, 32)}, Remote: []netip.Prefix{remote}, Routes: []mechanisms.Route{{Prefix: remote}},
		}
	}
	return v, nil
}

func inodeOf(f *os.File) (mechanisms.Inode, error) {
	info, err := f.Stat()
	if err != nil {
		return mechanisms.Inode{}, err
	}
	st := info.Sys().(*syscall.Stat_t)
	return mechanisms.Inode{Dev: st.Dev, Ino: st.Ino}, nil
}

// set gives the ends their vWire and tells how long Set took.
func (e ends) set(ctx context.Context, a *agent, id string) (time.Duration, error) {
	v, err := e.vwire(id)
	if err != nil {
		return 0, err
	}
	for _, n := range []*lab.Namespace{e.client, e.endpoint} {
		held, err := a.namespaces.Hold(n.File())
		if err != nil {
			return 0, err
		}
		defer a.namespaces.Release(held)
	}
	begun := time.Now()
	err = a.Set(ctx, v)
	return time.Since(begun), err
}

// veth makes a veth pair by hand, as one would with ip link: its far side is in a namespace, addressed and up.
func veth(host string, far *lab.Namespace, addr netip.Addr) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = host
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: ifaceName, PeerNamespace: netlink.NsFd(far.File().Fd())}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("make veth %s: %w", host, err)
	}
	return raise(far, addr)
}

// raise addresses the interface in the namespace and brings it up.
func raise(n *lab.Namespace, addr netip.Addr) error {
	return n.Do(func() error {
		link, err := netlink.LinkByName(ifaceName)
		if err != nil {
			return fmt.Errorf("find %s: %w", ifaceName, err)
		}
		ip, err := netlink.ParseAddr(netip.PrefixFrom(addr, 24).String())
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(link, ip), netlink.LinkSetUp(link))
	})
}

// joinByVeth joins the ends by a plain veth pair.
func (e ends) joinByVeth() error {
	err := e.client.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = ifaceName
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: ifaceName, PeerNamespace: netlink.NsFd(e.endpoint.File().Fd())})
	})
	if err != nil {
		return fmt.Errorf("make a plain veth pair: %w", err)
	}
	return errors.Join(raise(e.client, clientAddr), raise(e.endpoint, endpointAddr))
}
