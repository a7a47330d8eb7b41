package manager

import (
	"log/slog"
	"time"

	"highwire/controlplane/api/connection"
	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/registry"
)

// steer follows the network services, and moves live connections whose endpoint no longer fits when one changes (§3.7), until
// the Manager is shut down.
func (m *Manager) steer() {
	for m.ctx.Err() == nil {
		err := m.Directory.WatchServices(m.ctx, func(e registry.Event[*registryapi.NetworkService]) {
			if e.Deleted {
				m.choice.forget(e.Value.Name) // its connections stay: that their service is gone is no reason to cut them
				return
			}
			m.steerService(e.Value)
		})
		if m.ctx.Err() != nil {
			return
		}
		slog.Warn("network services are not followed for a moment", "reason", err)
		select {
		case <-m.ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// steerService moves the connections of ns that no longer fit.
func (m *Manager) steerService(ns *registryapi.NetworkService) {
	// A Close puts fresh tokens into a connection at any time: what is looked at is the one of now.
	live := map[*entry]*connection.Connection{}
	m.mu.Lock()
	for _, e := range m.live {
		if e != nil && e.conn.NetworkService == ns.Name && !e.named {
			live[e] = e.conn
		}
	}
	m.mu.Unlock()
	for e, c := range live {
		endpoint, err := m.Directory.Endpoint(m.ctx, c.NetworkServiceEndpointName)
		if err != nil || m.Directory.Fits(ns, endpoint, c.Labels) && payloadOf(ns) == c.Payload {
			continue // what cannot be told does not move
		}
		m.move(ns, e, c)
	}
}

// move has the client of e ask again, which gives it another endpoint while packets still flow to the one it has. Where no
// endpoint fits, or the service carries something else now, e is closed.
func (m *Manager) move(ns *registryapi.NetworkService, e *entry, c *connection.Connection) {
	others, err := m.Directory.Candidates(m.ctx, ns, c.Labels)
	if err == nil && len(others) > 0 && payloadOf(ns) == c.Payload {
		m.mu.Lock()
		e.misplaced = true
		m.mu.Unlock()
		slog.Info("its endpoint no longer fits the network service; its client is told to ask again", "connection", c.Id, "service", ns.Name)
		m.hub.SetState(c.Id, connection.State_REFRESH_REQUESTED)
		return
	}
	m.background.Go(func() {
		leave, err := m.enter(m.ctx, e.owner)
		if err != nil {
			return
		}
		defer leave()
		if m.current(c.Id) == e {
			e.log().Info("closed: no endpoint fits the network service any more")
			_ = m.remove(m.ctx, e)
		}
	})
}

// misplaced tells whether e, which may be nil, has to move.
func (m *Manager) misplaced(e *entry) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return e != nil && e.misplaced
}
