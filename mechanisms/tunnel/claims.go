package tunnel

import (
	"sync"
	"time"

	"highwire/vppapi/fault"
)

// Claims keeps what no two tunnels of a node may share, such as a UDP port. An end claims it when it is promised to the far
// side, and holds it as long as the vWire is wanted. A promise that comes to nothing ends by itself. The zero Claims is
// empty; it is safe for concurrent use.
type Claims[T comparable] struct {
	// What says in errors what is claimed.
	What string

	mu    sync.Mutex
	taken map[T]*claim
	last  map[string]T // by end
	swept time.Time
}

type claim struct {
	end   string
	holds int
	since time.Time
}

// promised is how long a promise stands that nobody holds: longer than any Request takes.
const promised = 2 * time.Minute

// Last is what the end has claimed last.
func (c *Claims[T]) Last(end string) (T, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, ok := c.last[end]
	return t, ok
}

// Take claims t for the end and tells whether it got it.
func (c *Claims[T]) Take(end string, t T) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.take(end, t) != nil
}

func (c *Claims[T]) take(end string, t T) *claim {
	if c.taken == nil {
		c.taken, c.last = make(map[T]*claim), make(map[string]T)
	}
	now := time.Now()
	if now.Sub(c.swept) > promised {
		c.swept = now
		for t, cl := range c.taken {
			if cl.holds == 0 && now.Sub(cl.since) > promised {
				c.free(t, cl)
			}
		}
	}
	cl, there := c.taken[t]
	if there && cl.end != end {
		return nil
	}
	if !there {
		cl = &claim{end: end}
		c.taken[t] = cl
	}
	cl.since = now
	c.last[end] = t
	return cl
}

func (c *Claims[T]) free(t T, cl *claim) {
	delete(c.taken, t)
	if c.last[cl.end] == t {
		delete(c.last, cl.end)
	}
}

// tries bounds the search for something free. Where half of all is taken, it fails once in 2^64 times.
const tries = 64

// Choose claims for the end, in this order: what it wants if that is right, what it has claimed last if that is right, or the
// first free one that draw gives. fault.Exhausted if there is none.
func (c *Claims[T]) Choose(end string, want T, right func(T) bool, draw func() T) (T, error) {
	if right(want) && c.Take(end, want) {
		return want, nil
	}
	if t, ok := c.Last(end); ok && right(t) && c.Take(end, t) {
		return t, nil
	}
	for range tries {
		if t := draw(); c.Take(end, t) {
			return t, nil
		}
	}
	var none T
	return none, fault.New(fault.Exhausted, "no %s is left on this node", c.What)
}

// Hold keeps t for the end until Drop, as often as it was held. fault.Conflict if another end has it.
func (c *Claims[T]) Hold(end string, t T) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl := c.take(end, t)
	if cl == nil {
		return fault.New(fault.Conflict, "%s %v is in use by %s", c.What, t, c.taken[t].end)
	}
	cl.holds++
	return nil
}

// Drop undoes one Hold.
func (c *Claims[T]) Drop(end string, t T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl, ok := c.taken[t]
	if !ok || cl.end != end || cl.holds == 0 {
		return
	}
	if cl.holds--; cl.holds == 0 {
		c.free(t, cl)
	}
}
