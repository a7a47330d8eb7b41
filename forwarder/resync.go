package forwarder

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"highwire/vppapi"
)

// resync compares everything wanted with what VPP holds, and mends the difference. A full one also looks at the kernel's
// part; events of VPP need only VPP's. It tells whether all is well now.
func (r *Reconciler) resync(ctx context.Context, c *vppapi.Conn, full bool) bool {
	begun := time.Now()
	found, want, err := r.survey(ctx, c, full)
	if err != nil {
		return false
	}
	r.have = found
	rest, leftovers := r.unwanted(found, want)
	sets := []map[vppapi.Key]bool{rest}
	for _, w := range r.desired {
		set := make(map[vppapi.Key]bool)
		for k := range w.objects {
			set[k] = true
		}
		sets = append(sets, set)
	}
	done := r.convergeAll(ctx, c, sets)
	if c.Err() != nil {
		return false
	}
	for _, w := range r.desired {
		state, reason := Up, error(nil)
		for k := range w.objects {
			if err, ok := done.errs[k]; ok {
				state, reason = Failed, err
			}
		}
		w.enter(state, reason)
		r.publish(w)
	}
	took := time.Since(begun)
	r.cfg.Events.Add(Event{
		Kind: Resynced, Took: took, Created: done.created, Removed: done.removed,
		Text: fmt.Sprintf("%d vWires: created %d, removed %d, failed %d, leftovers %d", len(r.desired), done.created, done.removed, len(done.errs), leftovers),
	})
	if full || done.removed+done.created > 0 {
		r.cfg.Log.Info("resynced with VPP", "vwires", len(r.desired), "removed", done.removed, "created", done.created,
			"leftovers", leftovers, "errors", len(done.errs), "took", took.Round(time.Millisecond))
	}
	return len(done.errs) == 0
}

// survey finds out what there is of ours, and lists what is wanted. It changes nothing.
func (r *Reconciler) survey(ctx context.Context, c *vppapi.Conn, full bool) (found vppapi.Realized, want map[vppapi.Key]vppapi.Object, err error) {
	if found, err = c.Dump(ctx); err != nil {
		return nil, nil, err
	}
	r.addLocals(ctx, found, full)
	want = make(map[vppapi.Key]vppapi.Object)
	for k := range r.owners {
		want[k], _ = r.wanted(k)
	}
	found.Adopt(want)
	return found, want, nil
}

// unwanted are the keys of what nobody wants and what has to go now: all of it after the grace period, before that only
// what stands in the way of something wanted. The rest is counted as leftovers.
func (r *Reconciler) unwanted(found vppapi.Realized, want map[vppapi.Key]vppapi.Object) (keys map[vppapi.Key]bool, leftovers int) {
	keys = make(map[vppapi.Key]bool)
	pruning := time.Since(r.started) >= r.cfg.Grace
	for k, e := range found {
		if _, wanted := want[k]; wanted || r.lingering[k] {
			continue
		}
		if pruning || r.belongsToWanted(k, e) {
			keys[k] = true
		} else {
			leftovers++
		}
	}
	return keys, leftovers
}

// belongsToWanted: what is stray at an end that is wanted stands in its way and goes at once; whole leftovers wait for the
// grace period.
func (r *Reconciler) belongsToWanted(k vppapi.Key, e vppapi.Entry) bool {
	owned := func(k vppapi.Key) bool { return len(r.owners[k]) > 0 }
	return owned(vppapi.Interface(k.Name)) || slices.ContainsFunc(e.Object.Uses(), owned)
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
	for k := range r.lingering {
		if _, ok := r.have[k].Object.(vppapi.Local); ok {
			found[k] = r.have[k] // a list does not show all of them
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
