package identity

import "sync"

// generation is how many entries are kept before the older ones are forgotten.
const generation = 2048

// recent remembers the latest some thousand entries, and perhaps twice as many. It is safe for concurrent use; the zero value
// is ready.
type recent[K comparable, V any] struct {
	mu         sync.Mutex
	young, old map[K]V
}

func (r *recent[K, V]) get(k K) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.young[k]
	if !ok {
		v, ok = r.old[k]
	}
	return v, ok
}

func (r *recent[K, V]) put(k K, v V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.young == nil || len(r.young) >= generation {
		r.young, r.old = make(map[K]V), r.young
	}
	r.young[k] = v
}
