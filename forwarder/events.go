package forwarder

import (
	"context"
	"strings"
	"sync"
	"time"

	"highwire/vppapi"
)

// EventKind says what an Event is about.
type EventKind string

// Kinds of events. Those of Requests come from the manager, the others from the reconciler.
const (
	// Requested: a client asked for a vWire or refreshed it; Err tells why it did not get it.
	Requested EventKind = "requested"
	// Closed and Expired: its client let it go, or was not heard of again.
	Closed  EventKind = "closed"
	Expired EventKind = "expired"
	// Changed: a plan was carried out for the vWire; Steps are its lines.
	Changed EventKind = "changed"
	// StateChanged: Text is the state it entered.
	StateChanged EventKind = "state"
	// Drifted: others have changed something of the vWire in VPP or the kernel; Text says what.
	Drifted EventKind = "drifted"
	// Converged: a batch of requests was realized, for all vWires in it together.
	Converged EventKind = "converged"
	// Resynced: everything wanted was compared with what VPP holds.
	Resynced EventKind = "resynced"
	// Connected and Disconnected: a VPP came, or went.
	Connected    EventKind = "vpp-connected"
	Disconnected EventKind = "vpp-lost"
)

// Event is something that happened to a vWire, or to the dataplane as a whole.
type Event struct {
	// Seq counts events from 1 on.
	Seq  uint64
	Time time.Time
	Kind EventKind
	// VWire is empty for the dataplane as a whole.
	VWire string
	// Text is one line without secrets.
	Text string
	Err  error
	// Took is how long it lasted, where it did.
	Took time.Duration
	// Mechanism of the client, of Requested.
	Mechanism string
	// Created and Removed count objects, of Converged and Resynced.
	Created, Removed int
	// Steps are lines of a plan.
	Steps []string
}

// kept is how many events are remembered.
const kept = 4096

// Events remembers what happened last and tells who listens. A nil *Events takes events and forgets them. All methods are
// safe for concurrent use.
type Events struct {
	mu        sync.Mutex
	ring      []Event
	last      uint64
	added     chan struct{} // closed with the next event
	listeners []func(Event)
}

// NewEvents makes an empty memory of events.
func NewEvents() *Events { return &Events{added: make(chan struct{})} }

// Listen calls fn for each event that is remembered, and for each from now on, on the goroutine that it happened on: fn must be
// quick.
func (e *Events) Listen(fn func(Event)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for n := e.last + 1 - uint64(len(e.ring)); n <= e.last; n++ {
		fn(e.ring[(n-1)%kept])
	}
	e.listeners = append(e.listeners, fn)
}

// Add tells of an event; Seq and Time are filled in.
func (e *Events) Add(event Event) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last++
	event.Seq, event.Time = e.last, time.Now()
	if len(e.ring) < kept {
		e.ring = append(e.ring, event)
	} else {
		e.ring[(e.last-1)%kept] = event
	}
	for _, fn := range e.listeners {
		fn(event)
	}
	close(e.added)
	e.added = make(chan struct{})
}

// Last is the number of the latest event.
func (e *Events) Last() uint64 {
	if e == nil {
		return 0
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

// Since lists the remembered events after the one numbered seq, oldest first, of one vWire or, with an empty id, of all.
// more is closed when there is another event.
func (e *Events) Since(seq uint64, vwire string) (list []Event, more <-chan struct{}) {
	if e == nil {
		return nil, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for n := max(seq+1, e.last+1-uint64(len(e.ring))); n <= e.last; n++ {
		if event := e.ring[(n-1)%kept]; vwire == "" || event.VWire == vwire {
			list = append(list, event)
		}
	}
	return list, e.added
}

// Follow calls fn for each event after the one numbered seq, as Since selects them, until ctx ends or fn fails. Who is too
// slow misses some.
func (e *Events) Follow(ctx context.Context, seq uint64, vwire string, fn func(Event) error) error {
	for {
		list, more := e.Since(seq, vwire)
		for _, event := range list {
			if err := fn(event); err != nil {
				return err
			}
			seq = event.Seq
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tellPlan tells each vWire's part of a plan that was carried out.
func (r *Reconciler) tellPlan(p vppapi.Plan, errs vppapi.Errors) {
	if r.cfg.Events == nil {
		return
	}
	parts := make(map[string]*Event)
	var order []string
	for _, part := range []struct {
		mark    string
		objects []vppapi.Object
	}{{"- ", p.Remove}, {". ", p.Vanish}, {"+ ", p.Create}} {
		for _, o := range part.objects {
			id := r.vwireOf(o.Key())
			if id == "" {
				continue
			}
			if parts[id] == nil {
				parts[id] = &Event{Kind: Changed, VWire: id, Text: "objects in the dataplane"}
				order = append(order, id)
			}
			parts[id].Steps = append(parts[id].Steps, part.mark+o.Key().String()+": "+o.String())
			if err := errs[o.Key()]; err != nil {
				parts[id].Err = err
			}
		}
	}
	for _, id := range order {
		r.cfg.Events.Add(*parts[id])
	}
}

// vwireOf is the vWire an object belongs to, empty for none or a spare device. Names begin with the vWire, but for those of
// sockets.
func (r *Reconciler) vwireOf(k vppapi.Key) string {
	for id := range r.owners[k] {
		if r.desired[id].spare != "" {
			return ""
		}
		return id
	}
	id, side, named := strings.Cut(k.Name, ":")
	if !named || side == "pool" || checkID(id) != nil {
		return ""
	}
	return id
}
