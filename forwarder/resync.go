package forwarder

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

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
	r.adoptSpares(found)
	want := r.survey(ctx, found, full)
	if ctx.Err() != nil {
		return false // the look was cut short: what it did not find is there all the same
	}
	r.noteDrift(maps.Values(r.desired), r.have, found)
	r.have = found
	rest, leftovers := r.unwanted(found, want)
	sets := []map[vppapi.Key]bool{rest}
	node := make(map[vppapi.Key]bool)
	for _, w := range r.desired {
		if w.node {
			node = w.keys()
			continue
		}
		sets = append(sets, w.keys())
	}
	// The uplink comes first: what tunnels say to their far sides as soon as they are there would be lost, and is said again only
	// seconds later.
	done := r.converge(ctx, c, node)
	done.add(r.convergeAll(ctx, c, sets))
	if c.Err() != nil {
		return false
	}
	if len(done.errs) == 0 {
		clear(r.doubtful)
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
		if w.node && reason != nil {
			r.cfg.Log.Warn("the node's own dataplane is not as it should be, trying again", "reason", reason)
		}
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

// survey adds to what a dump found what the kernel holds of ours, makes it whole by what is wanted, and lists that. It changes
// nothing else.
func (r *Reconciler) survey(ctx context.Context, found vppapi.Realized, full bool) (want map[vppapi.Key]vppapi.Object) {
	r.addLocals(ctx, found, full)
	want = make(map[vppapi.Key]vppapi.Object)
	for k := range r.owners {
		want[k], _ = r.wanted(k)
	}
	found.Adopt(want, r.doubtful)
	return want
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
		if pruning || r.doubtful[k] || r.belongsToWanted(k, e) {
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
		gone := func(k vppapi.Key) bool {
			_, had := r.have[k]
			_, has := found[k]
			return k.Kind == vppapi.KindInterface && had && !has
		}
		for k, e := range r.have {
			// What stands on an interface that VPP has lost is made again with it: a tap takes its addresses along.
			if _, ok := e.Object.(vppapi.Local); ok && !slices.ContainsFunc(e.Object.Uses(), gone) {
				found[k] = e
			}
		}
		return
	}
	listers := make(map[string]any)
	for _, m := range r.cfg.Mechanisms {
		listers[strings.ToLower(m.Type())] = m
	}
	listers["node"] = r.cfg.Node
	for name, m := range listers {
		l, ok := m.(lister)
		if !ok {
			continue
		}
		objects, err := l.List(ctx)
		if err != nil {
			r.cfg.Log.Warn("cannot list leftovers", "of", name, "reason", err)
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
	r.observe(ctx, found, maps.Keys(r.owners))
}

// observedAtOnce bounds looks at kernel objects side by side.
const observedAtOnce = 8

// observe looks at what is wanted in the kernel under the keys. What is not as it should be counts as absent; with something in VPP that
// stands on it, it counts as broken, so that this goes first.
func (r *Reconciler) observe(ctx context.Context, found vppapi.Realized, keys iter.Seq[vppapi.Key]) {
	used := make(map[vppapi.Key]bool)
	for _, e := range found {
		for _, k := range e.Object.Uses() {
			used[k] = true
		}
	}
	var mu sync.Mutex // of found
	var g errgroup.Group
	g.SetLimit(observedAtOnce)
	for k := range keys {
		o, _ := r.wanted(k)
		l, ok := o.(vppapi.Observer)
		if !ok {
			continue
		}
		g.Go(func() error {
			there := l.Observe(ctx)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case there:
				found[k] = vppapi.Entry{Object: o}
			case used[k] && k.Kind < vppapi.KindInterface:
				found[k] = vppapi.Entry{Object: vppapi.Broken{Local: l}}
			default:
				delete(found, k)
			}
			return nil
		})
	}
	_ = g.Wait() // nobody fails
}
