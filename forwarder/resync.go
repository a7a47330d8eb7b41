package forwarder

import (
	"context"
	"slices"
	"strings"
	"time"

	"highwire/vppapi"
)

// resync compares everything wanted with what VPP holds, and mends the difference. A full one also looks at the kernel's
// part; events of VPP need only VPP's. It tells whether all is well now.
func (r *Reconciler) resync(ctx context.Context, c *vppapi.Conn, full bool) bool {
	begun := time.Now()
	found, err := c.Dump(ctx)
	if err != nil {
		return false
	}
	r.addLocals(ctx, found, full)
	keys := make(map[vppapi.Key]bool)
	want := make(map[vppapi.Key]vppapi.Object)
	for k := range r.owners {
		want[k], _ = r.wanted(k)
		keys[k] = true
	}
	found.Adopt(want)
	pruning := time.Since(r.started) >= r.cfg.Grace
	leftovers := 0
	for k, e := range found {
		_, wanted := want[k]
		leftover := !wanted && !r.belongsToWanted(k, e)
		if leftover {
			leftovers++
		}
		if !leftover || pruning {
			keys[k] = true
		}
	}
	r.have = found
	drift := vppapi.Diff(want, r.restricted(keys))
	errs := r.converge(ctx, c, keys)
	if c.Err() != nil {
		return false
	}
	for _, w := range r.desired {
		state, reason := Up, error(nil)
		for k := range w.objects {
			if err, ok := errs[k]; ok {
				state, reason = Failed, err
			}
		}
		w.enter(state, reason)
		r.publish(w)
	}
	if full || !drift.Empty() {
		r.cfg.Log.Info("resynced with VPP", "vwires", len(r.desired), "removed", len(drift.Remove), "created", len(drift.Create),
			"leftovers", leftovers, "errors", len(errs), "took", time.Since(begun).Round(time.Millisecond))
	}
	return len(errs) == 0
}

// belongsToWanted: what is stray at an end that is wanted stands in its way and goes at once; whole leftovers wait for the
// grace period.
func (r *Reconciler) belongsToWanted(k vppapi.Key, e vppapi.Entry) bool {
	owned := func(k vppapi.Key) bool { return len(r.owners[k]) > 0 }
	return owned(vppapi.Interface(k.Name)) || slices.ContainsFunc(e.Object.Uses(), owned)
}

func (r *Reconciler) restricted(keys map[vppapi.Key]bool) vppapi.Realized {
	part := make(vppapi.Realized)
	for k := range keys {
		if e, ok := r.have[k]; ok {
			part[k] = e
		}
	}
	return part
}

// addLocals adds the kernel's part to what was found in VPP: as remembered, or as a full look shows it. What cannot be
// observed counts as absent then and is realized again, which changes nothing where nothing differs.
func (r *Reconciler) addLocals(ctx context.Context, found vppapi.Realized, full bool) {
	if !full {
		for k, e := range r.have {
			if _, ok := e.Object.(vppapi.Local); ok {
				found[k] = e
			}
		}
		return
	}
	for _, m := range r.cfg.Mechanisms {
		l, ok := m.(lister)
		if !ok {
			continue
		}
		objects, err := l.List(ctx)
		if err != nil {
			r.cfg.Log.Warn("cannot list leftovers", "mechanism", strings.ToLower(m.Type()), "reason", err)
		}
		for _, o := range objects {
			found[o.Key()] = vppapi.Entry{Object: o}
		}
	}
	for k := range r.owners {
		o, _ := r.wanted(k)
		if l, ok := o.(vppapi.Observer); ok {
			if l.Observe(ctx) {
				found[k] = vppapi.Entry{Object: o}
			} else {
				delete(found, k)
			}
		}
	}
}
