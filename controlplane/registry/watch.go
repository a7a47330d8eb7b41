package registry

import (
	"context"

	"highwire/vppapi/fault"
)

// backlog is how many events a watcher may be behind before it is dropped.
const backlog = 1024

type watcher[T any] struct {
	events  chan Event[T]
	dropped bool
}

// tell never waits: one slow watcher must not hold up the others, nor make us keep events without limit.
func (w *watcher[T]) tell(e Event[T]) {
	if w.dropped {
		return
	}
	select {
	case w.events <- e:
	default:
		w.dropped = true
		close(w.events)
	}
}

func (t *table[T]) watch(ctx context.Context, ready func() error, fn func(Event[T]) error) error {
	w := &watcher[T]{events: make(chan Event[T], backlog)}
	t.mu.Lock()
	t.watchers[w] = struct{}{}
	present := t.sorted
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		delete(t.watchers, w)
		t.mu.Unlock()
	}()
	for _, v := range present {
		if err := fn(Event[T]{Value: v}); err != nil {
			return err
		}
	}
	if err := ready(); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.store.closed.Done():
			return fault.New(fault.Unavailable, "the registry is closed")
		case e, ok := <-w.events:
			if !ok {
				return fault.New(fault.Exhausted, "the watcher was %d events behind and is dropped; watch again", backlog)
			}
			if err := fn(e); err != nil {
				return err
			}
		}
	}
}
