package manager

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/networkservice"
	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/hop"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// A vWire between two nodes has a manager at each. The near one finds the endpoint under the URL of the far one and asks it
// like any next hop, with REMOTE preferences that say where our side of the tunnel is. The far one takes the tunnel for the
// mechanism of its client, adds its own side, and goes on to the endpoint. So each has a vWire with the tunnel at one end.

// checkLoop refuses a request that would go round in circles. A path may well lead through a node twice, when an endpoint in
// between asks for another service; but not from a node to itself, nor to another one and straight back.
func (m *Manager) checkLoop(r *networkservice.NetworkServiceRequest) error {
	segments, caller := r.Connection.Path.PathSegments, int(r.Connection.Path.Index)
	if caller == 0 || caller >= len(segments) {
		return nil
	}
	tunnel := isRemote(r.Connection.Mechanism) || slices.ContainsFunc(r.MechanismPreferences, isRemote)
	if segments[caller].Name != m.Name && !(tunnel && segments[caller-1].Name == m.Name) {
		return nil
	}
	var names []string
	for _, s := range segments[:caller+1] {
		names = append(names, s.Name)
	}
	return fault.New(fault.Invalid, "a loop: it comes back to %s by way of %s; registries lead in a circle, or two nodes have the same name (--name)",
		m.Name, strings.Join(names, ", "))
}

// checkTransit refuses to pass on to a third node what came from another: nodes find endpoints by themselves, so their
// registries disagree. Only an endpoint of another domain is reached over nodes in between.
func checkTransit(a *ask, e *registryapi.NetworkServiceEndpoint) error {
	if !isRemote(a.client) || !atNode(e) || strings.Contains(e.Name, "@") {
		return nil
	}
	return fault.New(fault.NotFound, "it is not on this node; the registry has it at %s", e.Url)
}

// isRemote tells whether the mechanism is a tunnel between nodes.
func isRemote(m *connection.Mechanism) bool { return m.GetCls() == string(mechanisms.Remote) }

// atNode tells whether an endpoint is reached through another node.
func atNode(e *registryapi.NetworkServiceEndpoint) bool { return strings.HasPrefix(e.GetUrl(), "tcp:") }

// placeOf is how errors call an endpoint.
func placeOf(e *registryapi.NetworkServiceEndpoint) string {
	if atNode(e) {
		return e.Name + " at " + e.Url
	}
	return e.Name
}

// addressOf is the address of the node at the URL, the zero Addr when it cannot be told.
func addressOf(ctx context.Context, node string) netip.Addr {
	u, err := url.Parse(node)
	if err != nil {
		return netip.Addr{}
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		return a.Unmap().WithZone("")
	}
	list, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil || len(list) == 0 {
		return netip.Addr{}
	}
	return list[0].Unmap()
}

// propose offers another node every tunnel that carries the payload and that can begin here. known is the mechanism so far,
// which may be nil.
func (m *Manager) propose(ctx context.Context, c *connection.Connection, e *registryapi.NetworkServiceEndpoint, known *connection.Mechanism) ([]*connection.Mechanism, error) {
	far := addressOf(ctx, e.Url)
	var offers []*connection.Mechanism
	var errs []error
	for _, typ := range m.Mechanisms.Offer(mechanisms.Remote, mechanisms.Payload(c.Payload)) {
		offer := &connection.Mechanism{Cls: string(mechanisms.Remote), Type: typ, Parameters: map[string]string{}}
		mechanism, err := m.Mechanisms.Get(typ)
		if proposer, ok := mechanism.(mechanisms.Proposer); ok {
			end := mechanisms.End{VWire: c.Id, Side: mechanisms.Endpoint, Type: typ, Payload: mechanisms.Payload(c.Payload)}
			if known.GetType() == typ {
				end.Params = maps.Clone(known.Parameters)
			}
			offer.Parameters, err = proposer.Propose(end, far)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("mechanism %s: %w", typ, err))
			continue
		}
		offers = append(offers, offer)
	}
	if len(offers) == 0 {
		errs = append(errs, fault.New(fault.Unavailable, "no mechanism of this node reaches another one with %s; it has %s", c.Payload, m.Mechanisms))
		return nil, errors.Join(errs...)
	}
	return offers, nil
}

// stands tells whether what we said of our side in the mechanism is what we would offer now.
func stands(known *connection.Mechanism, offers []*connection.Mechanism) bool {
	return slices.ContainsFunc(offers, func(o *connection.Mechanism) bool { return keeps(known, o) })
}

// keeps tells whether the answer is the offer with the far side's parameters added. The MTU is for both sides to lower.
func keeps(answer, offer *connection.Mechanism) bool {
	if answer.GetType() != offer.Type {
		return false
	}
	for key, value := range offer.Parameters {
		if key != mechanisms.ParamMTU && answer.Parameters[key] != value {
			return false
		}
	}
	return true
}

// lower gives the connection the MTU that is left inside the tunnels among its mechanisms. What is inside both ends of the
// vWire then passes in one piece.
func lower(c *connection.Connection, by ...*connection.Mechanism) {
	for _, m := range by {
		if !isRemote(m) {
			continue
		}
		// Mechanisms refuse a number that is none.
		mtu, err := strconv.ParseUint(m.GetParameters()[mechanisms.ParamMTU], 10, 32)
		if err == nil && mtu != 0 && (c.Context.MTU == 0 || uint32(mtu) < c.Context.MTU) {
			c.Context.MTU = uint32(mtu)
		}
	}
}

// uncertain tells whether the far node may have made a connection whose answer did not arrive.
func uncertain(err error) bool {
	switch fault.KindOf(err) {
	case fault.Timeout, fault.Canceled, fault.Unavailable:
		return true
	}
	return false
}

// revoke closes, in time of its own, what another node may have made of a request whose answer did not arrive. It knows the
// connection by its owner, us.
func (m *Manager) revoke(next *hop.Next, asked *connection.Connection) {
	next.Hold()
	m.background.Go(func() {
		defer next.Release()
		_ = m.cleanup(m.ctx, func(ctx context.Context) error { return next.Close(ctx, proto.CloneOf(asked)) })
	})
}

// tunneled finds a connection by its owner alone: a node that asks has one connection under an id of its own, whatever
// it knows of ours. It runs under the lock.
func (m *Manager) tunneled(owner hop.Caller) *entry {
	for _, e := range m.live {
		if e != nil && e.owner == owner && isRemote(e.conn.Mechanism) {
			return e
		}
	}
	return nil
}
