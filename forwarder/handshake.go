package forwarder

import (
	"context"
	"time"

	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// handshakeTime is how long a far side may take to shake hands; several tries may be lost.
const handshakeTime = 12 * time.Second

// shakeHands waits, on the caller's goroutine, until the tunnel towards the endpoint takes packets. It is the side that asks
// which waits: the other one has its end since before it answered, and its caller waits for us. That no VPP is there any more
// is no error: the vWire comes back with the next one.
func (r *Reconciler) shakeHands(ctx context.Context, v VWire) error {
	for _, p := range r.peersTowards(v.Endpoint) {
		var conn *vppapi.Conn
		var peer vppapi.Entry
		there := false
		err := r.look(ctx, func(_ context.Context, c *vppapi.Conn) {
			conn = c
			peer, there = r.have[p.Key()]
		})
		if err != nil || !there {
			return ctx.Err()
		}
		patience := handshakeTime
		if deadline, ok := ctx.Deadline(); ok {
			patience = min(patience, time.Until(deadline)*4/5) // so that what went wrong can be told
		}
		within, cancel := context.WithTimeout(ctx, patience)
		err = conn.Handshake(within, peer.Index)
		cancel()
		switch {
		case err == nil, conn.Err() != nil:
		case ctx.Err() == nil && within.Err() != nil:
			return fault.New(fault.Unavailable, "%s has not answered the WireGuard handshake for %s: is its node alive, and does a firewall in between let this UDP port pass?",
				p.Remote, patience.Round(time.Millisecond))
		default:
			return err
		}
	}
	return nil
}

// peersTowards are the WireGuard peers behind an end.
func (r *Reconciler) peersTowards(e mechanisms.End) (peers []vppapi.WireGuardPeer) {
	m, err := r.cfg.Mechanisms.Get(e.Type)
	if err != nil || m.Class() != mechanisms.Remote {
		return nil
	}
	objects, _ := m.Objects(e) // Set has found no error in it
	for _, o := range objects {
		if p, ok := o.(vppapi.WireGuardPeer); ok {
			peers = append(peers, p)
		}
	}
	return peers
}
