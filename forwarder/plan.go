package forwarder

import (
	"cmp"
	"context"
	"slices"

	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// Action is what a step of a Preview does with its object.
type Action string

// Actions.
const (
	Create Action = "create"
	Remove Action = "remove"
	// Vanish: it goes by itself with something that is removed.
	Vanish Action = "vanish"
	// Verify: the kernel's part is read, and changed only where it differs.
	Verify Action = "verify"
)

// Step is one object that a plan would touch.
type Step struct {
	Action Action
	Object vppapi.Object
	// Messages of VPP's binary API that it takes, as vppapi.Messages writes them.
	Messages []string
}

// Preview is a plan that is not carried out.
type Preview struct {
	Steps []Step
	// Again: something has to be removed before it can be made anew, which a second plan would do.
	Again bool
}

// Difference is an object that is not as wanted. Want or Have is nil where there is none.
type Difference struct {
	VWire      string
	Key        vppapi.Key
	Want, Have vppapi.Object
}

// look runs fn on the goroutine that owns the state, between two pieces of its work. fault.Unavailable while there is no VPP.
func (r *Reconciler) look(ctx context.Context, fn func(context.Context, *vppapi.Conn)) error {
	vpp, err := r.VPP()
	if err != nil {
		return err
	}
	done := make(chan struct{})
	select {
	case r.looks <- func(ctx context.Context, c *vppapi.Conn) { defer close(done); fn(ctx, c) }:
		<-done
		return nil
	case <-vpp.Done():
		return fault.New(fault.Unavailable, "VPP has just gone; ask again when it is back")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// PlanSet tells what Set would do, and does nothing. With anew it tells what it would do if nothing of the vWire were there.
// Errors are those of Set as far as nothing needs to be done to find them. The spare devices of the pool are not considered.
func (r *Reconciler) PlanSet(ctx context.Context, v VWire, anew bool) (p Preview, err error) {
	looked := r.look(ctx, func(context.Context, *vppapi.Conn) {
		w := &wire{v: v}
		if current := r.desired[v.ID]; current != nil && current.v.Equal(v) {
			w.objects = current.objects
		} else if w.objects, err = expand(r.cfg.Mechanisms, v); err == nil {
			if err = r.conflict(w); err == nil {
				err = r.room(w)
			}
			r.place(w)
		}
		if err != nil {
			return
		}
		have := make(vppapi.Realized)
		for k := range (&job{next: w, former: r.desired[v.ID]}).touched() {
			if e, exists := r.have[k]; exists && !anew {
				have[k] = e
			}
		}
		p = preview(vppapi.Diff(w.objects, have), have, nil)
	})
	return p, cmp.Or(looked, err)
}

// PlanResync tells what a full resync would do now, and does nothing.
func (r *Reconciler) PlanResync(ctx context.Context) (p Preview, err error) {
	looked := r.look(ctx, func(ctx context.Context, c *vppapi.Conn) {
		var found vppapi.Realized
		if found, err = c.Dump(ctx); err != nil {
			return
		}
		want := r.survey(ctx, found, true)
		leaving, _ := r.unwanted(found, want)
		have := make(vppapi.Realized)
		for k, e := range found {
			if _, wanted := want[k]; wanted || leaving[k] {
				have[k] = e
			}
		}
		p = preview(vppapi.Diff(want, have), have, r.have)
	})
	return p, cmp.Or(looked, err)
}

// preview puts a plan into steps, in the order in which they are taken. Kernel objects that are there for all we know are
// only verified.
func preview(plan vppapi.Plan, have, known vppapi.Realized) Preview {
	p := Preview{Again: plan.Again}
	for _, part := range []struct {
		action  Action
		objects []vppapi.Object
	}{{Remove, plan.Remove}, {Vanish, plan.Vanish}, {Create, plan.Create}} {
		for _, o := range part.objects {
			s := Step{Action: part.action, Object: o}
			if _, local := o.(vppapi.Local); local && part.action == Create && !observable(o) {
				if _, ok := known[o.Key()]; ok {
					s.Action = Verify
				}
			}
			if part.action != Vanish {
				s.Messages = vppapi.Messages(o, part.action == Create, have)
			}
			p.Steps = append(p.Steps, s)
		}
	}
	return p
}

func observable(o vppapi.Object) bool {
	_, ok := o.(vppapi.Observer)
	return ok
}

// Compare looks at everything that VPP and the kernel hold of ours now and tells what is not as wanted, and how many objects
// it compared. Kernel objects that cannot be observed from outside are left out; a resync verifies them.
func (r *Reconciler) Compare(ctx context.Context) (list []Difference, compared int, err error) {
	looked := r.look(ctx, func(ctx context.Context, c *vppapi.Conn) {
		var found vppapi.Realized
		if found, err = c.Dump(ctx); err != nil {
			return
		}
		want := r.survey(ctx, found, true)
		for k, w := range want {
			if _, local := w.(vppapi.Local); local && !observable(w) {
				continue
			}
			compared++
			e, exists := found[k]
			if !exists || !sameObject(w, e.Object) {
				list = append(list, Difference{r.vwireOf(k), k, w, e.Object})
			}
		}
		for k, e := range found {
			// An interface always has an MTU and an rx mode; without a wish for them they are no concern of ours. What lingers
			// goes when there is time.
			if _, wanted := want[k]; !wanted && k.Kind != vppapi.KindSetting && !r.lingering[k] {
				compared++
				list = append(list, Difference{r.vwireOf(k), k, nil, e.Object})
			}
		}
	})
	slices.SortFunc(list, func(a, b Difference) int {
		return cmp.Or(cmp.Compare(a.VWire, b.VWire), cmp.Compare(a.Key.Kind, b.Key.Kind), cmp.Compare(a.Key.Name, b.Key.Name))
	})
	return list, compared, cmp.Or(looked, err)
}
