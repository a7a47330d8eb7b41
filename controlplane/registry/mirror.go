package registry

import (
	"context"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	"highwire/vppapi/fault"
)

// entry is what stores hold.
type entry interface {
	proto.Message
	GetName() string
}

// backlog is how many events a watcher may be behind before it is dropped.
const backlog = 1024

// mirror is a store's content in memory, and those who watch it. Reads and watches of every store come from one.
type mirror[T entry] struct {
	closed <-chan struct{} // ends watches

	mu       sync.Mutex
	sorted   []T // by name; replaced as a whole, never changed
	watchers map[*watcher[T]]struct{}
}

func newMirror[T entry](closed <-chan struct{}) *mirror[T] {
	return &mirror[T]{closed: closed, watchers: map[*watcher[T]]struct{}{}}
}

func (m *mirror[T]) list() []T {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sorted
}

// replace puts with (one value or none) in the place of name and tells the watchers. They are told under the lock, so that
// each sees a snapshot and then exactly what came after it.
func (m *mirror[T]) replace(name string, with []T) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, found := slices.BinarySearchFunc(m.sorted, name, func(v T, name string) int { return strings.Compare(v.GetName(), name) })
	after := i
	if found {
		after++
	}
	event := Event[T]{}
	switch {
	case len(with) == 1:
		event.Value = with[0]
	case found:
		event.Value, event.Deleted = m.sorted[i], true
	default:
		return
	}
	m.sorted = slices.Concat(m.sorted[:i], with, m.sorted[after:])
	for w := range m.watchers {
		w.tell(event)
	}
}

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

func (m *mirror[T]) watch(ctx context.Context, ready func() error, fn func(Event[T]) error) error {
	w := &watcher[T]{events: make(chan Event[T], backlog)}
	m.mu.Lock()
	m.watchers[w] = struct{}{}
	present := m.sorted
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.watchers, w)
		m.mu.Unlock()
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
		case <-m.closed:
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
