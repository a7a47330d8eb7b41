package vppapi

import (
	"context"
	"os"
	"time"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/wireguard"

	"highwire/vppapi/fault"
)

// handshakeAgain is when a handshake that nothing has come of is begun anew. VPP itself waits five seconds; and where both sides
// begin at the same moment, neither takes the other's answer.
const handshakeAgain = 1500 * time.Millisecond

// Handshake waits until a WireGuard peer, by the index it was realized with, has a session: what is sent to it earlier VPP
// drops. VPP shakes hands by itself as soon as the interface is up; taking it down and up again makes it do so anew. Errors: that
// of ctx when it ends first, fault.NotFound when there is no such peer, and that of the session.
func (c *Conn) Handshake(ctx context.Context, peer uint32) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watcher, err := c.conn.WatchEvent(ctx, &wireguard.WireguardPeerEvent{})
	if err != nil {
		return err
	}
	defer watcher.Close()
	// Events come from peers that were there when they were asked for, and asking twice changes nothing. What has happened by
	// then a dump shows.
	want := &wireguard.WantWireguardPeerEvents{SwIfIndex: every, PeerIndex: peer, EnableDisable: 1, PID: uint32(os.Getpid())}
	asking := context.WithoutCancel(ctx) // an answer that comes late is no reason to give VPP up
	answers, err := c.flush(asking, []call{{req: want}})
	if err == nil {
		err = answers[0].err
	}
	if err != nil {
		return err
	}
	again := time.NewTicker(handshakeAgain)
	defer again.Stop()
	for first := true; ; first = false {
		on, met, err := c.session(asking, peer)
		if err != nil || met {
			return err
		}
		if !first {
			if _, err := c.flush(asking, []call{
				{req: &interfaces.SwInterfaceSetFlags{SwIfIndex: on}},
				{req: &interfaces.SwInterfaceSetFlags{SwIfIndex: on, Flags: interface_types.IF_STATUS_API_FLAG_ADMIN_UP}},
			}); err != nil {
				return err
			}
		}
		for waiting := true; waiting; {
			select {
			case m := <-watcher.Events():
				if e, ok := m.(*wireguard.WireguardPeerEvent); ok && e.PeerIndex == peer && e.Flags&wireguard.WIREGUARD_PEER_ESTABLISHED != 0 {
					return nil
				}
			case <-again.C:
				waiting = false
			case <-c.done:
				return c.Err()
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// session tells whether a WireGuard peer has one, and its interface. fault.NotFound when there is no such peer.
func (c *Conn) session(ctx context.Context, peer uint32) (on interface_types.InterfaceIndex, has bool, err error) {
	found := false
	err = c.dump(ctx, func(m api.Message) {
		if d, ok := m.(*wireguard.WireguardPeersDetails); ok {
			found, on, has = true, d.Peer.SwIfIndex, d.Peer.Flags&wireguard.WIREGUARD_PEER_ESTABLISHED != 0
		}
	}, &wireguard.WireguardPeersDump{PeerIndex: peer})
	if err == nil && !found {
		err = fault.New(fault.NotFound, "VPP has no WireGuard peer %d", peer)
	}
	return on, has, err
}
