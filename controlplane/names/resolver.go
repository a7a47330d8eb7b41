package names

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// patience bounds a question; resolvers ask again after 5 s.
const patience = 4500 * time.Millisecond

// maxAliases is how many aliases may lead from one source to another.
const maxAliases = 8

// resolver answers questions out of sources.
type resolver struct {
	dial  func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)
	mark  []byte
	clock func() time.Time
	size  int // of the cache

	mu      sync.Mutex
	current *view
}

// view is the sources at one time and what is known from them. It never changes; when sources come or go there is a new one.
type view struct {
	sources []*source
	servers map[netip.AddrPort]*nameserver
	cache   *cache

	mu      sync.Mutex
	flights map[question]*flight
}

// flight is a question under way.
type flight struct {
	done chan struct{} // closed once result is set
	result
}

// use replaces the sources. Servers that stay keep their sockets; what is in the cache is forgotten.
func (r *resolver) use(sources []*source) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := &view{sources: sources, servers: map[netip.AddrPort]*nameserver{}, cache: newCache(r.size, r.clock), flights: map[question]*flight{}}
	old := r.current
	for _, s := range sources {
		for _, addr := range s.Servers {
			known := v.servers[addr]
			if known == nil && old != nil {
				known = old.servers[addr]
			}
			if known == nil {
				known = &nameserver{addr: addr, dial: r.dial, mark: r.mark}
			}
			v.servers[addr] = known
			s.servers = append(s.servers, known)
		}
	}
	r.current = v
	if old == nil {
		return
	}
	for addr, s := range old.servers {
		if v.servers[addr] == nil {
			s.close()
		}
	}
}

// resolve answers a question.
func (r *resolver) resolve(ctx context.Context, q question) result {
	r.mu.Lock()
	v := r.current
	r.mu.Unlock()
	return v.resolve(ctx, q)
}

// resolve answers from the cache, or together with others who ask the same, or from the sources.
func (v *view) resolve(ctx context.Context, q question) result {
	if r, ok := v.cache.get(q); ok {
		return r
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	v.mu.Lock()
	if f := v.flights[q]; f != nil {
		v.mu.Unlock()
		select {
		case <-f.done:
			return f.result
		case <-ctx.Done():
			return result{}
		}
	}
	f := &flight{done: make(chan struct{})}
	v.flights[q] = f
	v.mu.Unlock()

	f.result = v.follow(ctx, q, maxAliases)
	v.mu.Lock()
	delete(v.flights, q)
	v.mu.Unlock()
	close(f.done)
	return f.result
}

// follow asks the sources, follows the aliases that lead from one to another, and keeps the answer.
func (v *view) follow(ctx context.Context, q question, aliases int) result {
	owners := v.owners(q.name)
	r := ask(ctx, q, owners)
	if r.verdict != positive && len(owners) == 1 && slices.Equal(owners, v.owners(r.target)) {
		r.target = "" // all who may know have been asked
	}
	if r.target != "" {
		r = v.beyond(ctx, q, r, aliases)
	}
	v.cache.put(q, r)
	return r
}

// beyond is r with what its alias leads to.
func (v *view) beyond(ctx context.Context, q question, r result, aliases int) result {
	if aliases == 0 {
		return result{}
	}
	at := question{r.target, q.qtype, q.dnssec, q.unchecked}
	end, known := v.cache.get(at)
	if !known {
		end = v.follow(ctx, at, aliases-1)
	}
	if end.verdict <= refused {
		return result{}
	}
	end.records = append(slices.Clone(r.records), end.records...)
	end.authentic = end.authentic && r.authentic
	return end
}

func (v *view) owners(name string) []*source {
	var list []*source
	for _, s := range v.sources {
		if s.owns(name) {
			list = append(list, s)
		}
	}
	return list
}

// ask asks sources all at once. The first positive answer wins. The others count only together: a name is there if one says so,
// and is not if all say so; nothing is known if one of them does not answer. Who refuses has no say.
func ask(ctx context.Context, q question, sources []*source) result {
	switch len(sources) {
	case 0:
		return result{verdict: refused}
	case 1:
		return sources[0].ask(ctx, q)
	}
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	results := make(chan result, len(sources))
	for _, s := range sources {
		asking.Go(func() { results <- s.ask(ctx, q) })
	}
	best, unknown := result{verdict: refused}, false
	for range sources {
		r := <-results
		if r.verdict == positive {
			return r
		}
		unknown = unknown || r.verdict == failed
		if r.verdict > best.verdict || r.verdict == best.verdict && len(r.records) > len(best.records) {
			best = r
		}
	}
	if unknown {
		return result{}
	}
	return best
}

// close lets go of all sockets. Nobody may ask any more.
func (r *resolver) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.current.servers {
		s.close()
	}
}

// newQuestion is what a query asks.
func newQuestion(m *dns.Msg) question {
	q := question{name: dns.CanonicalName(m.Question[0].Name), qtype: m.Question[0].Qtype, unchecked: m.CheckingDisabled}
	if opt := m.IsEdns0(); opt != nil {
		q.dnssec = opt.Do()
	}
	return q
}
