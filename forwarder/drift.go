package forwarder

import (
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"highwire/mechanisms"
	"highwire/vppapi"
)

// Drift is what others have changed of a vWire, by hand or by mistake, and what was put right again.
type Drift struct {
	// Count of the times that something was found changed.
	Count uint64
	// Last is when that was last, What the objects that were missing or otherwise then: "kind name", in order of creation.
	Last time.Time
	What string
}

// noteDrift compares what is found with what was there before, and remembers what has changed of those vWires that were up. It
// tells which.
func (r *Reconciler) noteDrift(wires iter.Seq[*wire], before, found vppapi.Realized) (drifted []*wire) {
	for w := range wires {
		if w.state != Up || w.spare != "" {
			continue
		}
		var changed []vppapi.Key
		for k, o := range w.objects {
			_, had := before[k]
			e, has := found[k]
			if had && stays(o) && (!has || !sameObject(e.Object, o)) {
				changed = append(changed, k)
			}
		}
		if len(changed) == 0 {
			continue
		}
		slices.SortFunc(changed, vppapi.CompareKeys)
		what := make([]string, len(changed))
		for i, k := range changed {
			what[i] = k.String()
		}
		w.drift = Drift{w.drift.Count + 1, time.Now(), strings.Join(what, ", ")}
		r.cfg.Log.Warn("others have changed a vWire, putting it right", "vwire", w.v.ID, "what", w.drift.What)
		if w.isVWire() {
			r.cfg.Events.Add(Event{Kind: Drifted, VWire: w.v.ID, Text: "others have changed " + w.drift.What + "; it is put right"})
		}
		drifted = append(drifted, w)
	}
	return drifted
}

// namespacesChanged never fires without a Watcher.
func (r *Reconciler) namespacesChanged() <-chan struct{} {
	if r.cfg.Namespaces == nil {
		return nil
	}
	return r.cfg.Namespaces.Changed()
}

// mend looks at the kernel's part of the vWires with an end in a namespace that has changed, and puts right what others have
// done to it.
func (r *Reconciler) mend(ctx context.Context, c *vppapi.Conn) {
	if r.cfg.Namespaces == nil {
		return
	}
	touched := make(map[string]bool)
	for id := range r.cfg.Namespaces.Touched() {
		touched[id.String()] = true
	}
	if len(touched) == 0 {
		return
	}
	var wires []*wire
	found := make(vppapi.Realized)
	var keys []vppapi.Key
	for _, w := range r.desired {
		if !touched[w.v.Client.Params[mechanisms.ParamInode]] && !touched[w.v.Endpoint.Params[mechanisms.ParamInode]] {
			continue
		}
		wires = append(wires, w)
		for k := range w.objects {
			if e, ok := r.have[k]; ok {
				found[k] = e
			}
			keys = append(keys, k)
		}
	}
	before := maps.Clone(found)
	r.observe(ctx, found, slices.Values(keys))
	if ctx.Err() != nil {
		return // cut short
	}
	for _, w := range r.noteDrift(slices.Values(wires), before, found) {
		for k := range w.objects {
			if e, ok := found[k]; ok {
				r.have[k] = e
			} else {
				delete(r.have, k)
			}
		}
		done := r.converge(ctx, c, w.keys())
		if c.Err() != nil {
			return
		}
		state, reason := Up, error(nil)
		for _, err := range done.errs {
			state, reason, r.unsettled = Failed, err, true
		}
		w.enter(state, reason)
		r.publish(w)
	}
}

// stays tells whether an object keeps as it was made unless somebody changes it. VPP itself changes the rx mode of a memif
// that connects again; a Local that cannot be observed is never found.
func stays(o vppapi.Object) bool {
	if _, mode := o.(vppapi.RxMode); mode {
		return false
	}
	_, local := o.(vppapi.Local)
	_, observed := o.(vppapi.Observer)
	return observed || !local
}
