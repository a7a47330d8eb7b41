// Package uplink lets VPP send and receive tunnels by an interface of the node that the kernel keeps.
//
// VPP gets one end of a veth pair (by af_packet) with the MAC, the addresses and the routes of the interface, so that it
// stands on the same link as the kernel and finds neighbours by itself. Filters of the kernel's traffic control connect the
// two (filters.go): from the interface to VPP go tunnels that are for us, which the kernel then does not see, and copies of
// what neighbours answer; from VPP to the interface go tunnels from our addresses, and questions to neighbours. Nothing else
// passes. The interface itself keeps its addresses, routes and settings, and everything else on it.
//
//	             ┌────────── kernel: everything but tunnels
//	interface ───┤
//	             └── filters ── hwuplink ═ hwuplink-vpp ── af_packet ── VPP
//
// The uplink is made when a tunnel first asks for an address, and follows the kernel when address, MTU, MAC or routes change.
package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"highwire/mechanisms/tunnel"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// Config says what carries tunnels.
type Config struct {
	// Interface is the uplink; empty for the one that has the Addrs, or else the default route's.
	Interface string
	// Addrs are ours, at most one of each family; empty for those that the interface has.
	Addrs []netip.Addr
	Log   *slog.Logger
}

// Uplink is the underlay of tunnels, and the objects that give VPP its part of it. Safe for concurrent use.
type Uplink struct {
	cfg     Config
	changed chan struct{}

	mu     sync.Mutex
	state  state
	wanted bool
}

// Name is that of VPP's interface.
const Name = "uplink" + vppapi.NodeSide

// New looks for the uplink. That there is none is no error, it may come later: unless it was named, then it is fault.NotFound.
func New(cfg Config) (*Uplink, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	for i, a := range cfg.Addrs {
		for _, b := range cfg.Addrs[:i] {
			if a.Is4() == b.Is4() {
				return nil, fault.New(fault.Invalid, "tunnel addresses %s and %s are of one family: name one of each", b, a)
			}
		}
	}
	u := &Uplink{cfg: cfg, changed: make(chan struct{}, 1)}
	if cfg.Interface == "" && len(cfg.Addrs) == 0 {
		u.look()
		return u, nil
	}
	var err error
	u.state, err = read(cfg)
	return u, err
}

// settle is how long changes in the kernel gather before one look answers them all.
const settle = 50 * time.Millisecond

// Run follows the kernel until ctx ends.
func (u *Uplink) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := u.follow(ctx); err != nil {
			return fmt.Errorf("uplink: %w", err)
		}
		if ctx.Err() == nil {
			u.cfg.Log.Warn("uplink: the kernel's news were lost, asking again")
		}
	}
	return nil
}

// follow listens to the kernel until ctx ends or news are lost.
func (u *Uplink) follow(ctx context.Context) error {
	done := make(chan struct{})
	var listeners sync.WaitGroup
	defer listeners.Wait()
	defer close(done)
	news, lost := make(chan struct{}, 1), make(chan struct{}, 3)
	if err := errors.Join(
		listen(&listeners, news, lost, done, netlink.LinkSubscribe),
		listen(&listeners, news, lost, done, netlink.AddrSubscribe),
		listen(&listeners, news, lost, done, netlink.RouteSubscribe),
	); err != nil {
		return err
	}
	soon := time.NewTimer(0)
	defer soon.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-lost:
			return nil
		case <-news:
			soon.Reset(settle)
		case <-soon.C:
			u.look()
		}
	}
}

// listen folds one sort of the kernel's news into a signal, until done is closed or they are lost.
func listen[T any](wg *sync.WaitGroup, news, lost chan<- struct{}, done chan struct{}, subscribe func(chan<- T, <-chan struct{}) error) error {
	updates := make(chan T)
	if err := subscribe(updates, done); err != nil {
		return err
	}
	wg.Go(func() {
		for range updates {
			select {
			case news <- struct{}{}:
			default:
			}
		}
		lost <- struct{}{}
	})
	return nil
}

// look takes over what the kernel has now.
func (u *Uplink) look() {
	s, err := read(u.cfg)
	if err != nil && !fault.Is(err, fault.NotFound) {
		u.cfg.Log.Warn("uplink", "reason", err)
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if s.equal(u.state) {
		return
	}
	u.cfg.Log.Info("uplink", "interface", s.name, "addresses", s.addrs, "mtu", s.mtu, "routes", len(s.routes))
	u.state = s
	u.tell()
}

// tell signals a change, under the lock.
func (u *Uplink) tell() {
	select {
	case u.changed <- struct{}{}:
	default:
	}
}

// Local is our address towards far, see tunnel.Underlay.
func (u *Uplink) Local(far netip.Addr) (tunnel.Local, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	l, err := u.state.locals().Local(far)
	if err == nil {
		u.want()
	}
	return l, err
}

// Has tells whether addr is one of ours.
func (u *Uplink) Has(addr netip.Addr) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	has := u.state.locals().Has(addr)
	if has {
		u.want()
	}
	return has
}

func (u *Uplink) want() {
	if !u.wanted {
		u.wanted = true
		u.tell()
	}
}

// Changed signals that Objects are other ones.
func (u *Uplink) Changed() <-chan struct{} { return u.changed }

// Objects are what VPP and the kernel are to hold now: nothing before the first tunnel, or while there is no uplink.
func (u *Uplink) Objects() []vppapi.Object {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.state
	if !u.wanted || s.name == "" {
		return nil
	}
	pair := Pair{MTU: s.mtu}
	objects := []vppapi.Object{
		pair, vppapi.AFPacket{Name: Name, Host: inner, MAC: s.mac, Queues: 1}, vppapi.Tag{Name: Name}, vppapi.MTU{Name: Name, Bytes: s.mtu}, vppapi.Up{Name: Name},
		Filters{uplink: s.name, index: s.index, addrs: addrsOf(s.addrs)},
	}
	for _, p := range s.addrs {
		objects = append(objects, vppapi.Address{Name: Name, Prefix: p})
	}
	for _, r := range s.routes {
		objects = append(objects, r)
	}
	return objects
}

// addrsOf is a comparable list: IPv4, IPv6, each zero where there is none.
func addrsOf(list []netip.Prefix) (a [2]netip.Addr) {
	for _, p := range list {
		if p.Addr().Is4() {
			a[0] = p.Addr()
		} else {
			a[1] = p.Addr()
		}
	}
	return a
}

// state is what VPP needs to know of the uplink.
type state struct {
	name   string // empty without an uplink
	index  int
	mac    vppapi.HardwareAddr
	mtu    uint32
	addrs  []netip.Prefix // at most one of each family
	routes []vppapi.Route
}

func (s state) equal(o state) bool {
	return s.name == o.name && s.index == o.index && s.mac == o.mac && s.mtu == o.mtu && slices.Equal(s.addrs, o.addrs) && slices.Equal(s.routes, o.routes)
}

func (s state) locals() tunnel.Fixed {
	var f tunnel.Fixed
	for _, p := range s.addrs {
		f = append(f, tunnel.Local{Addr: p.Addr(), MTU: s.mtu})
	}
	return f
}
