package forwarder

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"highwire/vppapi"
)

// State of a vWire.
type State string

const (
	// Pending: wanted, and not yet looked at in this VPP's lifetime.
	Pending State = "pending"
	// Up: everything it needs exists.
	Up State = "up"
	// Failed: something could not be made; it is tried again.
	Failed State = "failed"
)

// Status is what is known of one vWire.
type Status struct {
	VWire VWire
	State State
	// Err is why State is Failed.
	Err error
	// Since is when State was entered.
	Since time.Time
	// Drift since the agent's start.
	Drift Drift
	// Objects in the order of creation.
	Objects []ObjectStatus

	direct counter // of a direct path
}

// Direct tells whether packets go between the two ends without VPP: it has no interface for them.
func (s Status) Direct() bool {
	return !slices.ContainsFunc(s.Objects, func(o ObjectStatus) bool { return o.Key.Kind == vppapi.KindInterface })
}

// ObjectStatus is one object of a vWire, wanted and perhaps realized.
type ObjectStatus struct {
	Key      vppapi.Key
	Text     string
	Realized bool
	// SwIfIndex is VPP's index; HasIndex tells whether there is one.
	SwIfIndex uint32
	HasIndex  bool
}

// List is a snapshot of all vWires in order of their ids.
func (r *Reconciler) List() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.statuses), func(a, b Status) int { return cmp.Compare(a.VWire.ID, b.VWire.ID) })
}

// publish makes the state of a vWire visible. Called by the owner goroutine only.
func (r *Reconciler) publish(w *wire) {
	if !w.isVWire() {
		return
	}
	s := Status{VWire: w.v, State: w.state, Err: w.err, Since: w.since, Drift: w.drift, Objects: make([]ObjectStatus, 0, len(w.objects))}
	for k, o := range w.objects {
		if c, ok := o.(counter); ok {
			s.direct = c
		}
		e, ok := r.have[k]
		s.Objects = append(s.Objects, ObjectStatus{
			Key: k, Text: o.String(), Realized: ok, SwIfIndex: e.Index, HasIndex: ok && k.Kind == vppapi.KindInterface,
		})
	}
	slices.SortFunc(s.Objects, func(a, b ObjectStatus) int {
		return cmp.Or(cmp.Compare(a.Key.Kind, b.Key.Kind), cmp.Compare(a.Key.Name, b.Key.Name))
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.statuses[w.v.ID].State != w.state {
		r.cfg.Events.Add(Event{Kind: StateChanged, VWire: w.v.ID, Text: string(w.state), Err: w.err})
	}
	r.statuses[w.v.ID] = s
}

func (r *Reconciler) unpublish(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.statuses[id]; known {
		r.cfg.Events.Add(Event{Kind: StateChanged, VWire: id, Text: "gone"})
	}
	delete(r.statuses, id)
}
