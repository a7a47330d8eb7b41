package manager

import (
	"cmp"
	"slices"
	"sync"
	"time"

	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/registry"
	"highwire/vppapi/fault"
)

// restTime is how long an endpoint that failed is tried after all others.
const restTime = 10 * time.Second

// choice decides in which order a service's candidates are asked: by the weights of their routes, in turn, and those that just
// failed last. The zero choice is ready to use.
type choice struct {
	mu       sync.Mutex
	services map[string]*turns
	failed   map[string]time.Time // by endpoint name: when it may come in turn again
}

// turns are whose turn it is in one service.
type turns struct {
	next   int // where weights say nothing
	routes map[registry.Route]*turn
}

// turn is a route's: its credit among the weighted routes, and which of its endpoints is next.
type turn struct {
	credit int64
	next   int
}

// order lists the candidates as they are to be asked. Where routes have weights, each comes first as often as its weight says,
// as evenly spread as can be; the others follow by weight, and those without one last. Endpoints of one route take turns.
func (c *choice) order(service string, list []registry.Candidate, now time.Time) []*registryapi.NetworkServiceEndpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.services[service]
	if t == nil {
		if c.services == nil {
			c.services = map[string]*turns{}
		}
		t = &turns{routes: map[registry.Route]*turn{}}
		c.services[service] = t
	}
	var ordered []registry.Candidate
	if slices.ContainsFunc(list, func(e registry.Candidate) bool { return e.Weight > 0 }) {
		ordered = t.weighted(list)
	} else {
		ordered = rotated(list, &t.next)
	}
	slices.SortStableFunc(ordered, func(a, b registry.Candidate) int {
		return cmp.Compare(c.rests(a.Name, now), c.rests(b.Name, now))
	})
	return endpointsOf(ordered)
}

func endpointsOf(list []registry.Candidate) []*registryapi.NetworkServiceEndpoint {
	endpoints := make([]*registryapi.NetworkServiceEndpoint, len(list))
	for i, e := range list {
		endpoints[i] = e.NetworkServiceEndpoint
	}
	return endpoints
}

// weighted picks the first route by smooth weighted round-robin: every route gains its weight, the richest one goes first and
// pays for all.
func (t *turns) weighted(list []registry.Candidate) []registry.Candidate {
	var routes []registry.Route
	of := map[registry.Route][]registry.Candidate{}
	for _, e := range list {
		if len(of[e.Route]) == 0 {
			routes = append(routes, e.Route)
		}
		of[e.Route] = append(of[e.Route], e)
	}
	var first registry.Route
	var richest *turn
	var total int64
	for _, r := range routes {
		weight := int64(of[r][0].Weight)
		if t.routes[r] == nil {
			t.routes[r] = &turn{}
		}
		if weight == 0 {
			continue
		}
		t.routes[r].credit += weight
		total += weight
		if richest == nil || t.routes[r].credit > richest.credit {
			first, richest = r, t.routes[r]
		}
	}
	richest.credit -= total
	slices.SortStableFunc(routes, func(a, b registry.Route) int { return cmp.Compare(of[b][0].Weight, of[a][0].Weight) })
	ordered := rotated(of[first], &t.routes[first].next)
	for _, r := range routes {
		if r != first {
			next := t.routes[r].next
			ordered = append(ordered, rotated(of[r], &next)...)
		}
	}
	return ordered
}

// rotated begins the list with whose turn it is.
func rotated(list []registry.Candidate, next *int) []registry.Candidate {
	first := *next % len(list)
	*next = (first + 1) % len(list)
	return slices.Concat(list[first:], list[:first])
}

// rests is 1 for an endpoint that failed a short while ago.
func (c *choice) rests(endpoint string, now time.Time) int {
	if until, ok := c.failed[endpoint]; ok && now.Before(until) {
		return 1
	}
	return 0
}

// tried notes how an endpoint answered. What it refuses to one client says nothing of the next.
func (c *choice) tried(endpoint string, err error, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && !slices.Contains([]fault.Kind{fault.Unavailable, fault.Timeout, fault.Exhausted, fault.Internal}, fault.KindOf(err)) {
		return
	}
	delete(c.failed, endpoint)
	if err == nil {
		return
	}
	for name, until := range c.failed {
		if !now.Before(until) {
			delete(c.failed, name)
		}
	}
	if c.failed == nil {
		c.failed = map[string]time.Time{}
	}
	c.failed[endpoint] = now.Add(restTime)
}

// forget drops the turns of a service: it changed, or is gone.
func (c *choice) forget(service string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.services, service)
}
