package vppapi

import (
	"context"
	"os"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/wireguard"

	"highwire/vppapi/fault"
)

// Handshake waits until a WireGuard peer, by the index it was realized with, has a session: what is sent to it earlier VPP
// drops. VPP shakes hands by itself as soon as the interface is up, and tries again every five seconds. Errors: that of ctx
// when it ends first, fault.NotFound when the peer goes, and that of the session.
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
	found, met := false, false
	err = c.dump(asking, func(m api.Message) {
		if d, ok := m.(*wireguard.WireguardPeersDetails); ok {
			found, met = true, d.Peer.Flags&wireguard.WIREGUARD_PEER_ESTABLISHED != 0
		}
	}, &wireguard.WireguardPeersDump{PeerIndex: peer})
	if err == nil && !found {
		err = fault.New(fault.NotFound, "VPP has no WireGuard peer %d", peer)
	}
	for err == nil && !met {
		select {
		case m := <-watcher.Events():
			if e, ok := m.(*wireguard.WireguardPeerEvent); ok {
				met = e.PeerIndex == peer && e.Flags&wireguard.WIREGUARD_PEER_ESTABLISHED != 0
			}
		case <-c.done:
			return c.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}
