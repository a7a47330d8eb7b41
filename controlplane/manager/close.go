package manager

import (
	"context"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"highwire/controlplane/api/connection"
	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/hop"
	"highwire/controlplane/identity"
	"highwire/vppapi/fault"
)

// Close ends the caller's connection: here, and at the endpoint (§3.2). Closing what does not exist is no error; closing
// what belongs to somebody else is fault.Denied.
func (m *Manager) Close(ctx context.Context, caller identity.Caller, c *connection.Connection) error {
	if err := hop.CheckPath(c); err != nil {
		return err
	}
	c = proto.CloneOf(c)
	named := int64(c.Path.Index)+1 < int64(len(c.Path.PathSegments))
	place, err := hop.Enter(ctx, c, m.Name, caller, m.Signer, uuid.NewString)
	if err != nil {
		return err
	}
	owner := place.CallerOf(c, caller.ID)
	leave, err := m.enter(ctx, owner)
	if err != nil {
		return err
	}
	defer leave()
	e := m.current(c.Id)
	if e == nil && !named {
		e = m.tunnelOf(owner)
	}
	switch {
	case e == nil:
		return nil
	case e.owner != owner:
		return fault.New(fault.Denied, "connection %s belongs to %s, not to %s", c.Id, e.owner, owner)
	}
	// The stored tokens may have lapsed since the last Request; the endpoint wants good ones (§4.4).
	m.freshen(e, c.Path.PathSegments[:place.Own+1])
	return m.remove(ctx, e)
}

// freshen puts fresh tokens into e's connection.
func (m *Manager) freshen(e *entry, segments []*connection.PathSegment) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := proto.CloneOf(e.conn)
	for i, s := range segments[:min(len(segments), len(c.Path.PathSegments))] {
		c.Path.PathSegments[i].Token, c.Path.PathSegments[i].Expires = s.Token, s.Expires
	}
	e.conn = c
}

func (m *Manager) current(id string) *entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.live[id]
}

// tunnelOf is the connection of a node that did not hear how we call it.
func (m *Manager) tunnelOf(owner hop.Caller) *entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tunneled(owner)
}

// remove ends a connection whose gate was passed. The endpoint not answering does not hold it up; the error is the
// dataplane's.
func (m *Manager) remove(ctx context.Context, e *entry) error {
	m.drop(e)
	m.closeNext(ctx, e)
	return m.forget(ctx, e)
}

// forget is the rest of remove, for what is closed at the endpoint already. While VPP is away the deletion stays queued, ahead
// of anything that is asked for the same id later.
func (m *Manager) forget(ctx context.Context, e *entry) error {
	e.next.Release()
	if m.Dataplane == nil { // a forwarder had the vWire
		m.hub.Remove(e.conn.Id)
		e.log().Info("closed")
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	deleted := make(chan error, 1)
	m.background.Go(func() { deleted <- m.Dataplane.Delete(m.ctx, e.conn.Id) })
	var err error
	select {
	case err = <-deleted:
	case <-ctx.Done():
		err = fault.New(fault.Timeout, "the dataplane is not ready; the vWire is deleted as soon as it is")
	}
	if err != nil {
		e.log().Error("vWire not deleted", "error", err)
	}
	m.hub.Remove(e.conn.Id)
	e.log().Info("closed")
	return err
}

// closeNext closes e at its endpoint. Where the endpoint cannot be reached, what it knows of e is remembered until it must
// have expired there, so that the owner can take it up again.
func (m *Manager) closeNext(ctx context.Context, e *entry) {
	m.mu.Lock()
	e.closing = true
	m.mu.Unlock()
	err := fault.New(fault.Unavailable, "endpoint %s has not been heard of since the restart", e.conn.NetworkServiceEndpointName)
	if next := m.nextOf(ctx, e); next != nil {
		defer next.Release()
		err = m.cleanup(ctx, func(ctx context.Context) error { return next.Close(ctx, e.conn) })
	}
	if err == nil {
		return
	}
	e.log().Warn("not closed at the endpoint; it will expire there", "error", err)
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for id, ghost := range m.ghosts {
		if now.After(ghost.lapse()) {
			delete(m.ghosts, id)
		}
	}
	m.ghosts[e.conn.Id] = e
}

// lapse is when the endpoint has forgotten e for certain.
func (e *entry) lapse() time.Time { return e.conn.Path.PathSegments[e.own()].Expires.AsTime() }

// nextOf is the way to e's endpoint, held; after a restart it is looked up again. It is nil when there is none.
func (m *Manager) nextOf(ctx context.Context, e *entry) *hop.Next {
	if e.next != nil {
		return e.next.Hold()
	}
	endpoint, err := m.Directory.Endpoint(ctx, e.conn.NetworkServiceEndpointName)
	if err != nil {
		endpoint = &registryapi.NetworkServiceEndpoint{Name: e.conn.NetworkServiceEndpointName, Url: e.url}
	}
	next, err := m.dial(endpoint, nil)
	if err != nil {
		return nil
	}
	return next
}

// cleanup runs fn in time of its own: the caller's may be over.
func (m *Manager) cleanup(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	return fn(ctx)
}

// expire closes a connection that was not refreshed in time (§3.3).
func (m *Manager) expire(e *entry) {
	leave, err := m.enter(m.ctx, e.owner)
	if err != nil {
		return
	}
	defer leave()
	// A Request that held the gate may have replaced it.
	if m.ctx.Err() == nil && m.current(e.conn.Id) == e {
		e.log().Info("expired: its client did not refresh it")
		_ = m.remove(m.ctx, e)
	}
}
