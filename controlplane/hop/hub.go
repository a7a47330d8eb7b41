package hop

import (
	"context"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"highwire/controlplane/api/connection"
	"highwire/vppapi/fault"
)

// Hub tells watchers what becomes of connections (§3.5). The zero Hub is ready to use.
type Hub struct {
	mu          sync.Mutex
	connections map[string]*connection.Connection
	// watchers by a segment id that they select, empty where any will do: most watch one connection of thousands.
	watchers map[string]map[*watcher]struct{}
}

// backlog is how many events a watcher may be behind before it is dropped.
const backlog = 1024

type watcher struct {
	selector *connection.MonitorScopeSelector
	news     chan struct{} // holds one when the queue has grown
	dropped  chan struct{} // closed when the watcher was too slow

	queue []*connection.ConnectionEvent // under the hub's mutex
}

// key is where the hub keeps the watcher.
func (w *watcher) key() string {
	for _, s := range w.selector.GetPathSegments() {
		if s.GetId() != "" {
			return s.Id
		}
	}
	return ""
}

// Put makes c the connection of its id and sends an UPDATE. c is copied; its index must point at the own segment of this
// hop, and c.Id be that segment's id.
func (h *Hub) Put(c *connection.Connection) {
	c = proto.CloneOf(c)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.connections == nil {
		h.connections = map[string]*connection.Connection{}
	}
	h.connections[c.Id] = c
	h.publish(connection.ConnectionEventType_UPDATE, c)
}

// Remove forgets the connection and sends a DELETE. An unknown id is nothing.
func (h *Hub) Remove(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.connections[id]; c != nil {
		delete(h.connections, id)
		h.publish(connection.ConnectionEventType_DELETE, c)
	}
}

// SetState changes the state of a connection and sends an UPDATE, unless it has that state already or is unknown.
func (h *Hub) SetState(id string, state connection.State) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.connections[id]; c != nil && c.State != state {
		c = proto.CloneOf(c)
		c.State = state
		h.connections[id] = c
		h.publish(connection.ConnectionEventType_UPDATE, c)
	}
}

// State is the state of the connection as last told to watchers, UP for an unknown one.
func (h *Hub) State(id string) connection.State {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.connections[id].GetState()
}

// publish runs under the lock, so that events reach each watcher in the order things happened.
func (h *Hub) publish(kind connection.ConnectionEventType, c *connection.Connection) {
	event := &connection.ConnectionEvent{Type: kind, Connections: map[string]*connection.Connection{c.Id: c}}
	keys := []string{""}
	for _, s := range c.GetPath().GetPathSegments() {
		if !slices.Contains(keys, s.GetId()) {
			keys = append(keys, s.GetId())
		}
	}
	for _, key := range keys {
		for w := range h.watchers[key] {
			if Selects(w.selector, c) {
				h.tell(w, event)
			}
		}
	}
}

// tell runs under the lock.
func (h *Hub) tell(w *watcher, event *connection.ConnectionEvent) {
	if len(w.queue) == backlog {
		h.leave(w)
		w.queue = nil
		close(w.dropped)
		return
	}
	w.queue = append(w.queue, event)
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// leave runs under the lock; a watcher may leave twice.
func (h *Hub) leave(w *watcher) {
	key := w.key()
	delete(h.watchers[key], w)
	if len(h.watchers[key]) == 0 {
		delete(h.watchers, key)
	}
}

// Watch sends the matching connections there are in one INITIAL_STATE_TRANSFER, also when there are none, and then every
// event that matches, until ctx ends or send fails. A watcher that takes nothing for 1024 events is dropped with
// fault.Exhausted as soon as send returns. Messages handed to send are shared: never change them.
func (h *Hub) Watch(ctx context.Context, selector *connection.MonitorScopeSelector, send func(*connection.ConnectionEvent) error) error {
	w := &watcher{selector: selector, news: make(chan struct{}, 1), dropped: make(chan struct{})}
	initial := &connection.ConnectionEvent{Connections: map[string]*connection.Connection{}}
	h.mu.Lock()
	if h.watchers == nil {
		h.watchers = map[string]map[*watcher]struct{}{}
	}
	if h.watchers[w.key()] == nil {
		h.watchers[w.key()] = map[*watcher]struct{}{}
	}
	h.watchers[w.key()][w] = struct{}{}
	for id, c := range h.connections {
		if Selects(selector, c) {
			initial.Connections[id] = c
		}
	}
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.leave(w)
	}()

	for events := []*connection.ConnectionEvent{initial}; ; events = h.take(w) {
		for _, event := range events {
			if err := send(event); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.dropped:
			return fault.New(fault.Exhausted, "the watcher is %d events behind and was dropped; watch again", backlog)
		case <-w.news:
		}
	}
}

func (h *Hub) take(w *watcher) []*connection.ConnectionEvent {
	h.mu.Lock()
	defer h.mu.Unlock()
	events := w.queue
	w.queue = nil
	return events
}

// Selects tells whether the selector matches c: its network services, and its segments as a contiguous part of c's, an empty
// field matching any (§3.5).
func Selects(s *connection.MonitorScopeSelector, c *connection.Connection) bool {
	if services := s.GetNetworkServices(); len(services) > 0 && !slices.Contains(services, c.GetNetworkService()) {
		return false
	}
	want, have := s.GetPathSegments(), c.GetPath().GetPathSegments()
	for i := 0; i+len(want) <= len(have); i++ {
		if slices.EqualFunc(want, have[i:i+len(want)], segmentMatches) {
			return true
		}
	}
	return false
}

func segmentMatches(want, have *connection.PathSegment) bool {
	return (want.GetName() == "" || want.GetName() == have.GetName()) &&
		(want.GetId() == "" || want.GetId() == have.GetId()) &&
		(want.GetToken() == "" || want.GetToken() == have.GetToken())
}
