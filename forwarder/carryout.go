package forwarder

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// job is a request on its way to the dataplane, with all it takes to undo it.
type job struct {
	*request
	next   *wire // nil: delete
	former *wire // nil: there was none
	// left is what of former may be removed later, claimed what next takes over of an earlier one.
	left, claimed []remnant
	err           error
}

// carryOut realizes a batch of requests as one: one journal write, one pipelined application. Each gets its own result.
func (r *Reconciler) carryOut(ctx context.Context, c *vppapi.Conn, batch []*request) {
	begun := time.Now()
	jobs := make([]*job, 0, len(batch))
	changes := make(map[string]*VWire)
	for _, q := range batch {
		j, err := r.accept(q)
		if err != nil || j == nil {
			q.result <- err
			continue
		}
		if j.next != nil {
			changes[q.id] = &j.next.v
		} else {
			changes[q.id] = nil
		}
		jobs = append(jobs, j)
	}
	if err := r.journal.write(changes); err != nil {
		for _, j := range jobs {
			r.restore(j)
			j.result <- err
		}
		return
	}
	sets := make([]map[vppapi.Key]bool, len(jobs))
	for i, j := range jobs {
		sets[i] = j.touched()
	}
	done := r.convergeAll(ctx, c, sets)
	if c.Err() != nil {
		r.postpone(jobs)
		return
	}
	if len(jobs) > 0 {
		r.cfg.Events.Add(Event{
			Kind: Converged, Took: time.Since(begun), Created: done.created, Removed: done.removed,
			Text: fmt.Sprintf("%d vWires: created %d, removed %d, failed %d", len(jobs), done.created, done.removed, len(done.errs)),
		})
	}
	r.undoFailed(ctx, c, jobs, done.errs)
	for _, j := range jobs {
		r.finish(j)
	}
	for len(r.remnants) > maxRemnants && r.cleanUp(ctx, c) {
	}
}

// accept checks a request and installs its vWire. No job and no error: there is nothing to do.
func (r *Reconciler) accept(q *request) (*job, error) {
	current := r.desired[q.id]
	switch {
	case q.want == nil && current == nil:
		return nil, nil
	case q.want == nil:
		former := r.uninstall(q.id)
		return &job{request: q, former: former, left: r.leave(former)}, nil
	case q.recordOnly && current == nil:
		return nil, fault.New(fault.NotFound, "no vWire %s", q.id)
	}
	v := *q.want
	if q.recordOnly {
		v = current.v
		v.Record = q.want.Record
	}
	if current != nil {
		r.keepDevices(&v, current.v)
		if current.state == Up && current.v.same(v) {
			return nil, nil
		}
	} else if err := v.Check(); err == nil {
		r.equip(&v)
	}
	next, err := r.prepare(v)
	if err != nil {
		if current == nil {
			r.unequip(v)
		}
		return nil, err
	}
	if current != nil {
		next.state, next.since, next.drift = current.state, current.since, current.drift
	} else {
		r.takeOver(q.ctx, next)
	}
	return &job{request: q, next: next, former: r.install(next), claimed: r.claim(q.id)}, nil
}

// takeOver gives a new vWire what an earlier life has left of it. A dump has shown that, and not every detail.
func (r *Reconciler) takeOver(ctx context.Context, w *wire) {
	want := make(map[vppapi.Key]vppapi.Object)
	for k, o := range w.objects {
		if len(r.owners[k]) > 0 || r.lingering[k] {
			continue
		}
		want[k] = o
		if l, ok := o.(vppapi.Observer); ok && r.have[k].Object != nil && l.Observe(ctx) {
			r.have[k] = vppapi.Entry{Object: o}
		}
	}
	r.have.Adopt(want, nil)
}

// touched are the keys that the job may change.
func (j *job) touched() map[vppapi.Key]bool {
	keys := make(map[vppapi.Key]bool)
	for _, w := range []*wire{j.next, j.former} {
		if w != nil {
			maps.Copy(keys, w.keys())
		}
	}
	for _, m := range j.claimed {
		maps.Copy(keys, m.keys)
	}
	return keys
}

// restore puts the former version back into the desired state.
func (r *Reconciler) restore(j *job) {
	if j.next != nil {
		r.uninstall(j.id)
		r.drop(j.next)
	}
	if j.former != nil {
		r.install(j.former)
	}
	r.unlinger(j.left)
	r.remnants = append(r.remnants, j.claimed...)
	r.linger(j.claimed)
}

// undoFailed finds the jobs whose objects failed and returns the dataplane and the journal to what was before them.
func (r *Reconciler) undoFailed(ctx context.Context, c *vppapi.Conn, jobs []*job, errs vppapi.Errors) {
	if len(errs) == 0 {
		return
	}
	var sets []map[vppapi.Key]bool
	changes := make(map[string]*VWire)
	for _, j := range jobs {
		mine := j.touched()
		for k := range mine {
			if err, ok := errs[k]; ok {
				j.err = firstOf(j.err, err)
			}
		}
		if j.err == nil {
			continue
		}
		if j.next == nil {
			// What could not be removed stays in have, wanted by nobody, for the next resync.
			r.unsettled = true
			r.cfg.Log.Warn("a vWire was not removed completely, trying again", "vwire", j.id, "reason", j.err)
			j.err = nil
			continue
		}
		sets = append(sets, mine)
		changes[j.id] = nil
		if j.former != nil {
			changes[j.id] = &j.former.v
		}
		r.restore(j)
	}
	if len(changes) == 0 {
		return
	}
	again := r.convergeAll(ctx, c, sets)
	for k, err := range again.errs {
		r.unsettled = true
		r.cfg.Log.Warn("undoing a failed vWire left something behind, trying again", "object", k, "reason", err)
	}
	for _, j := range jobs {
		if j.err == nil || j.former == nil {
			continue
		}
		for k := range j.former.objects {
			if err, ok := again.errs[k]; ok {
				j.former.enter(Failed, err)
			}
		}
	}
	if err := r.journal.write(changes); err != nil {
		r.cfg.Log.Error("the journal still holds a vWire that failed", "reason", err)
	}
}

// firstOf keeps one reason: the objects of a vWire mostly fail for the same.
func firstOf(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// postpone gives the jobs of a batch back to the queue because VPP went away under them. Desired state and journal return
// to what was before: a caller may give up while it waits for the next VPP.
func (r *Reconciler) postpone(jobs []*job) {
	batch := make([]*request, 0, len(jobs))
	changes := make(map[string]*VWire)
	for _, j := range jobs {
		r.restore(j)
		r.doubt(j)
		batch = append(batch, j.request)
		changes[j.id] = nil
		if j.former != nil {
			changes[j.id] = &j.former.v
		}
	}
	if err := r.journal.write(changes); err != nil {
		r.cfg.Log.Error("the journal is ahead of the dataplane", "reason", err)
	}
	r.putBack(batch)
	r.poke()
}

// doubt remembers the tunnels of a job that VPP may have made: without a tag they do not show that they are ours.
func (r *Reconciler) doubt(j *job) {
	if j.next == nil {
		return
	}
	for _, o := range j.next.objects {
		if k, tunnel := vppapi.Untagged(o); tunnel {
			r.doubtful[k] = true
		}
	}
}

// finish answers a job and makes its outcome visible.
func (r *Reconciler) finish(j *job) {
	switch {
	case j.err != nil && j.former != nil:
		r.publish(j.former)
	case j.err != nil:
		r.unpublish(j.id)
	case j.next == nil:
		for _, e := range j.former.v.ends() {
			if !slices.ContainsFunc(j.left, func(m remnant) bool { return m.end.Name() == e.Name() }) {
				r.dropEnd(e)
			}
		}
		r.remnants = append(r.remnants, j.left...)
		r.unpublish(j.id)
	default:
		if j.former != nil {
			r.drop(j.former)
		}
		for _, m := range j.claimed {
			r.dropEnd(m.end)
		}
		j.next.enter(Up, nil)
		r.publish(j.next)
	}
	j.changed = true
	if j.former != nil {
		j.request.former = &j.former.v
	}
	if errors.Is(j.err, context.Canceled) {
		j.err = fault.New(fault.Unavailable, "the forwarder is stopping")
	}
	j.result <- j.err
}
