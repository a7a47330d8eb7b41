package pocketvpp

import (
	"context"
	"maps"
	"slices"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
)

// eventKind is what happened to an interface since it was last told of. As in VPP, events that come close together are told
// as one, and say what changed rather than what is.
type eventKind uint8

const (
	eventLinkUp eventKind = 1 << iota
	eventLinkDown
	eventAdminUp
	eventAdminDown
	eventAdded
	eventDeleted
)

// eventMessages lets clients ask for sw_interface_event.
func (s *Server) eventMessages(t *table) {
	t.declare(&interfaces.SwInterfaceEvent{})
	request(t, func(c *call, q *interfaces.WantInterfaceEvents) (p interfaces.WantInterfaceEventsReply) {
		switch wanted := slices.Contains(s.wanted, c.client); {
		case wanted == (q.EnableDisable != 0):
			p.Retval = int32(api.INVALID_REGISTRATION)
		case wanted:
			s.unwantEvents(c.client)
		default:
			c.client.pid = q.PID
			s.wanted = append(s.wanted, c.client)
		}
		return p
	})
}

func (s *Server) unwantEvents(c *client) {
	s.wanted = slices.DeleteFunc(s.wanted, func(w *client) bool { return w == c })
}

// event notes that something happened to i; tellEvents tells it.
func (s *Server) event(i *iface, kind eventKind) {
	s.pending[i.index] |= kind
	s.stir()
}

// stir makes tellEvents look for what is to be told.
func (s *Server) stir() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// tellEvents sends what happened to the clients that want to know, until ctx ends.
func (s *Server) tellEvents(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
			s.flushEvents()
		}
	}
}

func (s *Server) flushEvents() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, index := range slices.Sorted(maps.Keys(s.pending)) {
		kind := s.pending[index]
		e := interfaces.SwInterfaceEvent{SwIfIndex: interface_types.InterfaceIndex(index), Deleted: kind&eventDeleted != 0}
		if kind&eventAdminUp != 0 {
			e.Flags |= interface_types.IF_STATUS_API_FLAG_ADMIN_UP
		}
		if kind&eventLinkUp != 0 {
			e.Flags |= interface_types.IF_STATUS_API_FLAG_LINK_UP
		}
		for _, c := range s.wanted {
			e.PID = c.pid
			c.send(0, &e)
		}
	}
	clear(s.pending)
	s.tellHandshakes()
}
