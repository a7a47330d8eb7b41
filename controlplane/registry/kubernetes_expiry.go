package registry

import (
	"context"
	"time"
)

// expire hides endpoints when they expire, and deletes what agents left behind in our namespace, until ctx ends.
func (o *objects[T]) expire(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.changed:
		case <-timer.C:
		}
		next, dead := o.sweep(time.Now())
		for _, x := range dead {
			o.bury(ctx, x)
		}
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
	}
}

// sweep hides what has expired. It returns what is to be deleted by now, and when to look again.
func (o *objects[T]) sweep(now time.Time) (next time.Time, dead []object[T]) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, x := range o.known {
		end, ends := expiration(x.value)
		if !ends || x.gone {
			continue
		}
		if !x.expired && !now.Before(end) {
			x.expired = true
			o.known[key] = x
			o.tell(x.name())
		}
		due := end
		if x.expired {
			if x.GetNamespace() != o.namespace || !x.ours(o.ids(x.value)) {
				continue
			}
			if !now.Before(x.reap) {
				dead = append(dead, x)
				x.reap = now.Add(o.linger) // should it fail
				o.known[key] = x
			}
			due = x.reap
		}
		if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	return next, dead
}

// bury deletes an endpoint that nobody renews, unless somebody did or another agent was first.
func (o *objects[T]) bury(ctx context.Context, x object[T]) {
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	if err := o.delete(ctx, x); err != nil {
		o.log.Debug("not deleted after its end", "endpoint", x.name(), "error", err)
		return
	}
	o.log.Info("deleted after its end", "endpoint", x.name())
}
