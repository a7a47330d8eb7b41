package manager

import (
	"time"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/hop"
)

// silence is a node that we do not hear any more. Packets may flow on: its agent may have been restarted, or the control
// network be cut.
type silence struct {
	since time.Time
	end   *time.Timer
}

// heard takes what a next hop's monitor says (§3.5): connections that it lost are DOWN here. When the monitor breaks, an
// endpoint is gone and its connections are DOWN at once. Another node gets time to be heard again, and then is asked which of
// the connections it still has.
func (m *Manager) heard(from *hop.Next, event *connection.ConnectionEvent) {
	m.mu.Lock()
	states := map[string]connection.State{}
	if event == nil {
		m.broken(from, states)
	}
	for _, c := range event.GetConnections() {
		e := m.behind(c)
		if e == nil || e.next != from || e.closing {
			continue
		}
		states[e.conn.Id] = c.State
		if event.Type == connection.ConnectionEventType_DELETE {
			states[e.conn.Id] = connection.State_DOWN
		}
	}
	if event != nil && event.Type == connection.ConnectionEventType_INITIAL_STATE_TRANSFER {
		m.endSilence(from)
		m.lost(from, from.Since(), states)
	}
	m.mu.Unlock()
	for id, state := range states {
		m.hub.SetState(id, state)
	}
}

// broken says what becomes of the connections at from. It runs under the lock, as do all below.
func (m *Manager) broken(from *hop.Next, states map[string]connection.State) {
	remote := false
	for id, e := range m.live {
		switch {
		case e == nil || e.next != from || e.closing:
		case isRemote(e.endpoint):
			remote = true
		default:
			states[id] = connection.State_DOWN
		}
	}
	if !remote || m.silent[from] != nil || m.ctx.Err() != nil {
		return
	}
	s := &silence{since: time.Now()}
	m.silent[from] = s
	m.background.Add(1)
	s.end = time.AfterFunc(m.NodeSilence, func() {
		defer m.background.Done()
		states := map[string]connection.State{}
		m.mu.Lock()
		if m.silent[from] == s {
			delete(m.silent, from)
			m.lost(from, s.since, states)
		}
		m.mu.Unlock()
		for id, state := range states {
			m.hub.SetState(id, state)
		}
	})
}

func (m *Manager) endSilence(from *hop.Next) {
	if s := m.silent[from]; s != nil {
		delete(m.silent, from)
		if s.end.Stop() {
			m.background.Done()
		}
	}
}

// lost takes for DOWN what a node should know from before and is not in states, which is what it told.
func (m *Manager) lost(from *hop.Next, before time.Time, states map[string]connection.State) {
	for id, e := range m.live {
		if e == nil || e.next != from || e.closing || !isRemote(e.endpoint) || !e.answered.Before(before) {
			continue
		}
		if _, told := states[id]; !told {
			e.log().Warn("the other node has lost the connection, or is not heard of", "url", e.url)
			states[id] = connection.State_DOWN
		}
	}
}

// behind finds the connection that c, as its endpoint sees it, belongs to. An endpoint's former connection of ours, just
// closed for a reselect, is not taken for the present one. It runs under the lock.
func (m *Manager) behind(c *connection.Connection) *entry {
	for _, s := range c.GetPath().GetPathSegments() {
		if s.Name != m.Name {
			continue
		}
		if e := m.live[s.Id]; e != nil && e.nextID() == c.Id {
			return e
		}
	}
	return nil
}
