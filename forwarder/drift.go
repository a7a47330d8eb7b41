package forwarder

import (
	"slices"
	"strings"
	"time"

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

// noteDrift compares what is found with what was there before, and remembers what has changed of vWires that were up.
func (r *Reconciler) noteDrift(before, found vppapi.Realized) {
	for _, w := range r.desired {
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
