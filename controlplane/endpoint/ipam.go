package endpoint

import (
	"container/list"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"highwire/vppapi/fault"
)

// ipam gives each connection one pair out of every pool. Safe for concurrent use.
//
// It remembers which pairs a client had last, beyond the connection's end, and gives them to others only when nothing else is
// left. So a client that comes back gets what it had, be it because its connection had to heal or because the endpoint is new
// and has read its leases.
type ipam struct {
	leases leases

	mu     sync.Mutex
	pools  []*pool
	had    map[string]*list.Element // by client
	recent list.List                // of memory, the latest first
}

// memory is which pairs a client had last, one of each pool, by their lower addresses.
type memory struct {
	client string
	pairs  []netip.Addr
}

// maxMemories bounds what is remembered.
const maxMemories = 1 << 16

// leases keep memories beyond the life of the endpoint.
type leases interface {
	load() (map[string][]netip.Addr, error)
	// save replaces what is kept of a client; no pairs forget it.
	save(client string, pairs []netip.Addr) error
}

// newIPAM makes an ipam that begins with what the leases say. leases may be nil.
func newIPAM(pools []Pool, l leases) (*ipam, error) {
	m := &ipam{leases: l, had: map[string]*list.Element{}}
	var all []netip.Prefix
	for _, prefixes := range pools {
		p, err := newPool(prefixes)
		if err != nil {
			return nil, err
		}
		for _, r := range p.ranges {
			if slices.ContainsFunc(all, r.prefix.Overlaps) {
				return nil, fault.New(fault.Invalid, "prefix %s overlaps another one", r.prefix)
			}
			all = append(all, r.prefix)
		}
		m.pools = append(m.pools, p)
	}
	if l == nil {
		return m, nil
	}
	known, err := l.load()
	if err != nil {
		return nil, err
	}
	for client, pairs := range known {
		m.remember(client, pairs)
	}
	return m, nil
}

// assign returns the pairs of a client's connection. Those that it asks for, has already or had last are kept where that is possible
// (polite); others it had are freed. On error it has what it had.
func (m *ipam) assign(id, client string, src, dst, excluded []netip.Prefix) ([]pair, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	former := m.release(id)
	var pairs []pair
	for i, p := range m.pools {
		c, kept := p.wish(id, src, dst, excluded)
		if !kept {
			c, kept = p.keep(id, m.last(client, i), excluded)
		}
		if !kept {
			var err error
			if c, err = p.take(id, client, excluded); err != nil {
				m.release(id)
				for p, at := range former {
					p.mark(id, at)
				}
				return nil, err
			}
		}
		pairs = append(pairs, c)
	}
	m.note(client, pairs)
	return pairs, nil
}

// last is the lower address of the pair that the client had last in a pool, or the zero Addr.
func (m *ipam) last(client string, pool int) netip.Addr {
	if at := m.had[client]; at != nil {
		return at.Value.(memory).pairs[pool]
	}
	return netip.Addr{}
}

// note remembers what a client has, in the leases too.
func (m *ipam) note(client string, pairs []pair) {
	var at []netip.Addr
	for _, p := range pairs {
		at = append(at, p.Dst)
	}
	old := m.had[client]
	if old != nil && slices.Equal(old.Value.(memory).pairs, at) {
		m.recent.MoveToFront(old)
		return
	}
	forgotten := m.remember(client, at)
	if m.leases == nil {
		return
	}
	err := m.leases.save(client, at)
	if forgotten != "" {
		err = errors.Join(err, m.leases.save(forgotten, nil))
	}
	if err != nil {
		slog.Warn("a client may get other addresses after the endpoint's next start", "client", client, "reason", err)
	}
}

// remember puts a client in front; it may be that another one is forgotten for it.
func (m *ipam) remember(client string, at []netip.Addr) (forgotten string) {
	if len(at) != len(m.pools) {
		return "" // of an endpoint with other pools
	}
	if old := m.had[client]; old != nil {
		m.forget(old)
	}
	if m.recent.Len() == maxMemories {
		oldest := m.recent.Back()
		forgotten = oldest.Value.(memory).client
		m.forget(oldest)
	}
	m.had[client] = m.recent.PushFront(memory{client, at})
	for i, p := range m.pools {
		p.promised[at[i]] = client
	}
	return forgotten
}

func (m *ipam) forget(at *list.Element) {
	gone := m.recent.Remove(at).(memory)
	delete(m.had, gone.client)
	for i, p := range m.pools {
		if p.promised[gone.pairs[i]] == gone.client {
			delete(p.promised, gone.pairs[i])
		}
	}
}

// free gives all pairs of a connection back.
func (m *ipam) free(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.release(id)
}

// release frees a connection's pairs and returns them.
func (m *ipam) release(id string) map[*pool]netip.Addr {
	freed := map[*pool]netip.Addr{}
	for _, p := range m.pools {
		if at, ok := p.owned[id]; ok {
			freed[p] = at
			delete(p.used, at)
			delete(p.owned, id)
		}
	}
	return freed
}
