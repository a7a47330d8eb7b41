package manager

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/connectioncontext"
	"highwire/controlplane/api/networkservice"
	"highwire/controlplane/hop"
	"highwire/controlplane/identity"
	"highwire/controlplane/policy"
	"highwire/forwarder"
	"highwire/vppapi/fault"
)

const (
	// requestTime bounds a Request whose caller set no deadline.
	requestTime = 30 * time.Second
	// answerTime is kept of the caller's time for telling it why there is no vWire, but no more than a tenth: a reason that
	// comes after the caller has given up reaches nobody.
	answerTime = 500 * time.Millisecond
	// cleanupTime bounds what is undone after a failure, when the caller's own time may be over.
	cleanupTime = 5 * time.Second
)

// Request makes or refreshes the connection of the caller (§3.2, §5.0). files are those of the caller's transport
// connection, nil when it carries none. The answer is the caller's own.
func (m *Manager) Request(ctx context.Context, caller identity.Caller, files hop.Files, r *networkservice.NetworkServiceRequest) (*connection.Connection, error) {
	bound := requestTime
	if deadline, ok := ctx.Deadline(); ok {
		bound = time.Until(deadline)
		bound -= min(answerTime, bound/10)
	}
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	if err := hop.CheckRequest(r); err != nil {
		return nil, err
	}
	if err := m.checkLoop(r); err != nil {
		return nil, err
	}
	c := proto.CloneOf(r.Connection)
	place, err := hop.Enter(ctx, c, m.Name, caller, m.Signer, uuid.NewString)
	if err != nil {
		return nil, err
	}
	client, err := identity.Subject(c.Path.PathSegments[0].Token)
	if err != nil {
		return nil, err
	}
	if err := m.allowed(c, place, caller); err != nil {
		return nil, err
	}
	restore := m.atHome(c)
	owner := place.CallerOf(c, caller.ID)
	leave, err := m.enter(ctx, owner)
	if err != nil {
		return nil, err
	}
	defer leave()
	old, err := m.claim(owner, client, c, uuid.NewString)
	if err != nil {
		return nil, err
	}
	if old != nil && c.State == connection.State_RESELECT_REQUESTED {
		// The dataplane keeps the vWire until the new one replaces it.
		m.closeNext(ctx, old)
	}
	begun := time.Now()
	e, err := m.connect(ctx, &ask{
		owner: owner, origin: client, conn: c, preferences: r.MechanismPreferences, files: files, old: old, moves: m.misplaced(old), names: names(c, old),
	})
	m.tell(c, e, old != nil, time.Since(begun), err)
	switch {
	case err != nil && old == nil:
		m.unclaim(c.Id, client)
	case err != nil && c.State == connection.State_RESELECT_REQUESTED:
		m.drop(old)
		_ = m.forget(ctx, old)
	}
	if err != nil {
		return nil, fmt.Errorf("connection %s of %s to %s: %w", c.Id, owner.Name, c.NetworkService, err)
	}
	answer := proto.CloneOf(e.conn)
	// The caller knows its own segment by the id it sent.
	place.Leave(answer)
	restore(answer)
	return answer, nil
}

// allowed asks the operator's policy, if there is one.
func (m *Manager) allowed(c *connection.Connection, place hop.Place, caller identity.Caller) error {
	if m.Policy == nil {
		return nil
	}
	s := policy.Subject{Caller: caller.ID, Service: c.NetworkService, Labels: c.Labels}
	for _, segment := range c.Path.PathSegments[:place.Own] {
		id, err := identity.Subject(segment.Token)
		if err != nil {
			return err
		}
		s.Path = append(s.Path, policy.Hop{ID: id, Name: segment.Name})
	}
	return m.Policy.Check(s)
}

// tell tells of a Request that came as far as to be carried out.
func (m *Manager) tell(asked *connection.Connection, e *entry, refresh bool, took time.Duration, err error) {
	what := "made"
	if refresh {
		what = "refreshed"
	}
	event := forwarder.Event{Kind: forwarder.Requested, VWire: asked.Id, Took: took, Err: err, Mechanism: asked.GetMechanism().GetType()}
	if err != nil {
		what = "not " + what
	} else {
		asked = e.conn
		event.Mechanism = e.conn.Mechanism.Type
	}
	event.Text = fmt.Sprintf("%s: client %s, service %s, endpoint %s", what, asked.GetPath().GetPathSegments()[0].GetName(), asked.NetworkService, asked.NetworkServiceEndpointName)
	m.Events.Add(event)
}

// ask is one Request on its way down.
type ask struct {
	owner       hop.Caller
	origin      string                 // SPIFFE id of the client
	conn        *connection.Connection // at our own segment
	preferences []*connection.Mechanism
	files       hop.Files
	old         *entry
	// client is the mechanism towards the client, once it is chosen.
	client *connection.Mechanism
	// moves: the endpoint it has no longer fits.
	moves bool
	// names: the caller chose the endpoint.
	names bool
}

// names tells whether it is the caller of c who chose the endpoint: it named one before it ever got one from us.
func names(c *connection.Connection, old *entry) bool {
	name := c.NetworkServiceEndpointName
	if old != nil && name == old.conn.NetworkServiceEndpointName {
		return old.named
	}
	return name != "" && (old != nil || len(c.Path.PathSegments) == int(c.Path.Index)+1)
}

// reselect: whatever was chosen before does not count.
func (a *ask) reselect() bool { return a.conn.State == connection.State_RESELECT_REQUESTED }

// refreshes tells whether the connection exists and the endpoint chosen for it is still right.
func (a *ask) refreshes() bool {
	return a.old != nil && !a.reselect() && !a.moves && a.conn.NetworkService == a.old.conn.NetworkService &&
		maps.Equal(a.conn.Labels, a.old.conn.Labels) &&
		(a.conn.NetworkServiceEndpointName == "" || a.conn.NetworkServiceEndpointName == a.old.conn.NetworkServiceEndpointName)
}

// keeps tells whether the endpoint serves the connection as it stands: then a failure must not close it there.
func (a *ask) keeps(endpoint string) bool {
	return a.old != nil && !a.reselect() && a.old.conn.NetworkServiceEndpointName == endpoint
}

// connect does the work of a Request and stores the result. On error all that it did is undone.
func (m *Manager) connect(ctx context.Context, a *ask) (*entry, error) {
	if m.Forwarders != "" {
		return m.relay(ctx, a)
	}
	expires, err := expiry(ctx, a.conn)
	if err != nil {
		return nil, err
	}
	client, err := m.clientMechanism(a)
	if err != nil {
		return nil, err
	}
	a.client = client
	// A namespace that the dataplane uses already need not arrive again.
	if a.old == nil || a.old.restored || a.old.link() != linkOf(client) {
		release, err := m.hold(ctx, a.files, client)
		if err != nil {
			return nil, fmt.Errorf("client: %w", err)
		}
		defer release()
		if err := m.supersede(ctx, a, linkOf(client)); err != nil {
			return nil, err
		}
	}

	reached, err := m.reach(ctx, a)
	if err != nil {
		return nil, err
	}
	e, err := m.realize(ctx, a, client, reached, expires)
	if err != nil {
		if !a.keeps(reached.conn.NetworkServiceEndpointName) {
			_ = m.cleanup(ctx, func(ctx context.Context) error { return reached.next.Close(ctx, reached.conn) })
		}
		reached.next.Release()
		return nil, err
	}
	if a.old != nil {
		if !a.reselect() && !a.keeps(e.conn.NetworkServiceEndpointName) && !sameNext(a.old, e) {
			m.closeNext(ctx, a.old)
		}
		a.old.next.Release()
	}
	m.store(e, a.old)
	m.hub.Put(e.conn)
	return e, nil
}

// sameNext tells whether the next hop took b for what it had as a: another node does, when both endpoints are there.
func sameNext(a, b *entry) bool { return a.nextID() != "" && a.nextID() == b.nextID() }

// realize turns both sides' mechanisms into a vWire and has it made.
func (m *Manager) realize(ctx context.Context, a *ask, client *connection.Mechanism, r reached, expires time.Time) (*entry, error) {
	name := r.conn.NetworkServiceEndpointName
	if a.old == nil || a.old.restored || !a.refreshes() || !proto.Equal(a.old.endpoint, r.conn.Mechanism) {
		release, err := m.hold(ctx, r.files, r.conn.Mechanism)
		if err != nil {
			return nil, fmt.Errorf("endpoint %s: %w", name, err)
		}
		defer release()
	}
	v, err := m.build(a.conn, client, r.conn)
	if err != nil {
		return nil, fmt.Errorf("endpoint %s: %w", name, err)
	}
	c := proto.CloneOf(a.conn)
	c.Mechanism, c.Context, c.Path, c.State = client, r.conn.Context, r.conn.Path, connection.State_UP
	c.NetworkServiceEndpointName = name
	e := &entry{owner: a.owner, client: a.origin, conn: c, endpoint: r.conn.Mechanism, url: r.url, expires: expires, created: time.Now(), answered: time.Now(), next: r.next, named: a.names}
	if a.old != nil {
		e.created = a.old.created
	}
	if v.Record, err = e.record(); err != nil {
		return nil, err
	}
	e.vwire = v
	if a.old != nil && !a.old.restored && a.old.vwire.Equal(v) {
		return e, m.Dataplane.Record(ctx, v.ID, v.Record)
	}
	return e, m.Dataplane.Set(ctx, v)
}

// expiry is when the connection must be closed unless it is refreshed.
func expiry(ctx context.Context, c *connection.Connection) (time.Time, error) {
	caller := c.Path.PathSegments[c.Path.Index-1]
	now := time.Now()
	expires := caller.Expires.AsTime()
	if !expires.After(now) {
		return time.Time{}, fault.New(fault.Denied, "the token of %s expired at %s", caller.Name, expires.Format(time.RFC3339))
	}
	deadline, _ := ctx.Deadline()
	return hop.Expiry(expires, now, deadline), nil
}

// fill makes the parts of a context that hops dereference (§7.7).
func fill(c *connectioncontext.ConnectionContext) *connectioncontext.ConnectionContext {
	if c == nil {
		c = &connectioncontext.ConnectionContext{}
	}
	if c.IpContext == nil {
		c.IpContext = &connectioncontext.IPContext{}
	}
	if c.DnsContext == nil {
		c.DnsContext = &connectioncontext.DNSContext{}
	}
	return c
}
