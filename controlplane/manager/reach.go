package manager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/networkservice"
	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/hop"
	"highwire/controlplane/registry"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// reached is an endpoint that accepted the connection.
type reached struct {
	url   string
	next  *hop.Next // held
	conn  *connection.Connection
	files hop.Files
}

// reach finds an endpoint that accepts the connection: the one it has, the one it names, or the candidates of its service
// one after the other (§3.7). The connection gets the service's payload.
func (m *Manager) reach(ctx context.Context, a *ask) (reached, error) {
	candidates, err := m.candidates(ctx, a)
	if err != nil {
		return reached{}, err
	}
	var errs []error
	for i, e := range candidates {
		r, err := m.try(ctx, a, e, len(candidates)-i)
		m.choice.tried(e.Name, err, time.Now())
		if err == nil {
			return r, nil
		}
		errs = append(errs, fmt.Errorf("endpoint %s: %w", placeOf(e), err))
		if ctx.Err() != nil {
			break
		}
	}
	if len(errs) == 1 {
		return reached{}, errs[0]
	}
	return reached{}, errors.Join(errs...)
}

// candidates lists the endpoints to try, in order.
func (m *Manager) candidates(ctx context.Context, a *ask) ([]*registryapi.NetworkServiceEndpoint, error) {
	if a.refreshes() {
		a.conn.Payload = a.old.conn.Payload
		name := a.old.conn.NetworkServiceEndpointName
		e, err := m.Directory.Endpoint(ctx, name)
		if err != nil && a.old.next != nil {
			// It is gone from the registry, but the way to it is still open.
			e, err = &registryapi.NetworkServiceEndpoint{Name: name, Url: a.old.url}, nil
		}
		return []*registryapi.NetworkServiceEndpoint{e}, err
	}
	service, err := m.Directory.FindService(ctx, a.conn.NetworkService)
	if err != nil {
		return nil, err
	}
	payload := payloadOf(service)
	if a.conn.Payload != "" && a.conn.Payload != payload {
		return nil, fault.New(fault.NotFound, "network service %s carries %s, not %s", service.Name, payload, a.conn.Payload)
	}
	a.conn.Payload = payload
	if name := a.conn.NetworkServiceEndpointName; name != "" && (a.old == nil || name != a.old.conn.NetworkServiceEndpointName) {
		e, err := m.Directory.Endpoint(ctx, name)
		return []*registryapi.NetworkServiceEndpoint{e}, err
	}
	list, err := m.Directory.Candidates(ctx, service, a.conn.Labels)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fault.New(fault.NotFound, "no endpoint of network service %s matches the labels %v; is one registered?", service.Name, a.conn.Labels)
	}
	return m.inOrder(service.Name, list, a), nil
}

// payloadOf is what a service carries.
func payloadOf(s *registryapi.NetworkService) string {
	return cmp.Or(s.Payload, string(mechanisms.IP))
}

// inOrder puts the candidates of a service in the order to try them. A connection that changed, or that was closed while its
// endpoint could not be reached, stays with that endpoint where it can.
func (m *Manager) inOrder(service string, list []registry.Candidate, a *ask) []*registryapi.NetworkServiceEndpoint {
	m.mu.Lock()
	former := m.ghost(a)
	m.mu.Unlock()
	if a.old != nil && !a.reselect() {
		former = a.old
	}
	if former != nil {
		i := slices.IndexFunc(list, func(e registry.Candidate) bool { return e.Name == former.conn.NetworkServiceEndpointName })
		if i >= 0 {
			return endpointsOf(slices.Concat(list[i:], list[:i]))
		}
	}
	return m.choice.order(service, list, time.Now())
}

// try asks one endpoint, in its share of the time when others are left to try.
func (m *Manager) try(ctx context.Context, a *ask, e *registryapi.NetworkServiceEndpoint, left int) (reached, error) {
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(left))
		defer cancel()
	}
	if err := checkTransit(a, e); err != nil {
		return reached{}, err
	}
	next, err := m.dial(e, a.old)
	if err != nil {
		return reached{}, err
	}
	request, err := m.forward(ctx, a, e)
	if err != nil {
		next.Release()
		return reached{}, err
	}
	answer, files, err := next.Request(ctx, request)
	if err == nil {
		err = m.checkMechanism(request, answer)
	}
	if err != nil {
		switch {
		case a.keeps(e.Name):
		case answer != nil:
			_ = m.cleanup(ctx, func(ctx context.Context) error { return next.Close(ctx, request.Connection) })
		case atNode(e) && uncertain(err):
			m.revoke(next, request.Connection)
		}
		next.Release()
		return reached{}, err
	}
	answer.Context = fill(answer.Context)
	lower(answer, a.client, answer.Mechanism)
	answer.NetworkServiceEndpointName = e.Name
	return reached{url: e.Url, next: next, conn: answer, files: files}, nil
}

// dial reaches the endpoint where the registry says it is, or else where it was last.
func (m *Manager) dial(e *registryapi.NetworkServiceEndpoint, old *entry) (*hop.Next, error) {
	target, err := m.Directory.Target(e)
	switch {
	case err == nil && atNode(e):
		// All endpoints of a node are reached by one connection.
		return m.Pool.Dial("", target)
	case err == nil:
		return m.Pool.Dial(e.Name+" "+e.Url, target)
	}
	if old != nil && old.next != nil && old.conn.NetworkServiceEndpointName == e.Name {
		return old.next.Hold(), nil
	}
	return nil, err
}

// forward is the request for an endpoint: the connection at our own segment, with our own mechanisms (§5.0). Segments right
// of ours are what we know of them; a caller could name somebody else's connection there.
func (m *Manager) forward(ctx context.Context, a *ask, e *registryapi.NetworkServiceEndpoint) (*networkservice.NetworkServiceRequest, error) {
	c := proto.CloneOf(a.conn)
	c.Context = fill(c.Context)
	lower(c, a.client)
	c.State = connection.State_UP
	c.NetworkServiceEndpointName = e.Name
	m.abroad(c)
	c.Mechanism = nil
	c.Path.PathSegments = c.Path.PathSegments[:c.Path.Index+1]
	if former := m.former(a, e.Name); former != nil {
		c.Mechanism = proto.CloneOf(former.endpoint)
		for _, s := range former.conn.Path.PathSegments[former.own()+1:] {
			c.Path.PathSegments = append(c.Path.PathSegments, proto.CloneOf(s))
		}
	}
	if atNode(e) {
		offers, err := m.propose(ctx, c, e, c.Mechanism)
		if !stands(c.Mechanism, offers) {
			c.Mechanism = nil
		}
		return &networkservice.NetworkServiceRequest{Connection: c, MechanismPreferences: offers}, err
	}
	request := &networkservice.NetworkServiceRequest{Connection: c}
	for _, typ := range m.Mechanisms.Offer(mechanisms.Local, mechanisms.Payload(c.Payload)) {
		request.MechanismPreferences = append(request.MechanismPreferences,
			&connection.Mechanism{Cls: string(mechanisms.Local), Type: typ, Parameters: map[string]string{}})
	}
	if len(request.MechanismPreferences) == 0 {
		return nil, fault.New(fault.Unavailable, "there is no %s mechanism here that carries %s", mechanisms.Local, c.Payload)
	}
	return request, nil
}

// former is what this owner had with the endpoint before, if that can be taken up again.
func (m *Manager) former(a *ask, endpoint string) *entry {
	if a.keeps(endpoint) {
		return a.old
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if g := m.ghost(a); g != nil && g.conn.NetworkServiceEndpointName == endpoint {
		return g
	}
	return nil
}

// ghost is the owner's connection that was closed here while its endpoint could not be reached. It runs under the lock.
func (m *Manager) ghost(a *ask) *entry {
	if g := m.ghosts[a.conn.Id]; g != nil && g.owner == a.owner && time.Now().Before(g.lapse()) {
		return g
	}
	return nil
}
