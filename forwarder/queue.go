package forwarder

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"highwire/vppapi/fault"
)

// request is one call of Set, Record or Delete on its way through the queue.
type request struct {
	ctx context.Context // the caller's
	id  string
	// want is the new vWire; nil deletes. For a Record only its Record counts.
	want       *VWire
	recordOnly bool
	taken      atomic.Bool // by the reconciler, or by a caller who gave up
	// changed: it was not so already; former is what was there before, nil for nothing. They come with the result.
	changed bool
	former  *VWire
	result  chan error
}

// Set makes v part of the desired state and returns once the dataplane has it and packets pass: where it leads into a tunnel
// that we ask for, the far side has shaken hands. Setting what is there already costs no message. On error nothing of v is
// left and a former version of it stands. Errors: fault.Invalid, fault.Conflict, fault.Exhausted, fault.Unavailable, and
// those of ctx.
func (r *Reconciler) Set(ctx context.Context, v VWire) error {
	q := &request{id: v.ID, want: &v}
	if err := r.do(ctx, q); err != nil || !q.changed {
		return err
	}
	err := r.shakeHands(ctx, v)
	if err != nil {
		err = errors.Join(err, r.do(context.WithoutCancel(ctx), &request{id: v.ID, want: q.former}))
	}
	return err
}

// Record writes a new VWire.Record to the journal and touches nothing else. fault.NotFound if there is no such vWire.
func (r *Reconciler) Record(ctx context.Context, id string, record []byte) error {
	return r.do(ctx, &request{id: id, want: &VWire{ID: id, Record: record}, recordOnly: true})
}

// Delete takes the vWire out of the desired state and returns once nothing passes through it and its interfaces have lost
// their names; what is slow to remove goes soon after. An unknown id is no error.
func (r *Reconciler) Delete(ctx context.Context, id string) error {
	return r.do(ctx, &request{id: id})
}

func (r *Reconciler) do(ctx context.Context, q *request) error {
	q.ctx, q.result = ctx, make(chan error, 1)
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return fault.New(fault.Unavailable, "the forwarder has stopped")
	}
	r.queue = append(r.queue, q)
	r.mu.Unlock()
	r.poke()
	select {
	case err := <-q.result:
		return err
	case <-ctx.Done():
		if q.taken.CompareAndSwap(false, true) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.queue = slices.DeleteFunc(r.queue, func(o *request) bool { return o == q })
			return q.late()
		}
		// It is being carried out; only its end tells what holds.
		return <-q.result
	}
}

func (r *Reconciler) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// take empties the queue, at most one request a vWire; later ones for the same vWire stay for the next batch.
func (r *Reconciler) take() []*request {
	r.mu.Lock()
	defer r.mu.Unlock()
	var batch, later []*request
	seen := make(map[string]bool)
	for _, q := range r.queue {
		switch {
		case seen[q.id]:
			later = append(later, q)
		case q.taken.CompareAndSwap(false, true):
			seen[q.id] = true
			batch = append(batch, q)
		}
	}
	r.queue = later
	if len(later) > 0 {
		r.poke()
	}
	return batch
}

// late is the error for a caller whose time is over.
func (q *request) late() error {
	err := q.ctx.Err()
	return fault.New(fault.KindOf(err), "the dataplane was not ready in time: %w", err)
}

// putBack returns requests that a dying VPP has left undone to the head of the queue.
func (r *Reconciler) putBack(batch []*request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	batch = slices.DeleteFunc(batch, func(q *request) bool {
		q.taken.Store(false)
		// A caller whose time ended in between waits for nothing but the result.
		late := q.ctx.Err() != nil && q.taken.CompareAndSwap(false, true)
		if late {
			q.result <- q.late()
		}
		return late
	})
	r.queue = append(batch, r.queue...)
}

// refuse answers everything that waits when the reconciler ends.
func (r *Reconciler) refuse() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	for _, q := range r.queue {
		if q.taken.CompareAndSwap(false, true) {
			q.result <- fault.New(fault.Unavailable, "the forwarder is stopping")
		}
	}
	r.queue = nil
}
