package endpoint

import (
	"net/netip"
	"slices"
	"sync"

	"highwire/vppapi/fault"
)

// pair is the two addresses of one connection out of one prefix: Dst, the lower one, for the endpoint, Src for the client.
type pair struct{ Dst, Src netip.Addr }

// pool hands out pairs of neighbouring addresses of one prefix. Nothing is kept for addresses not in use, so the size of the
// prefix does not matter.
type pool struct {
	prefix netip.Prefix
	used   map[netip.Addr]string // connection id by Dst
	owned  map[string]netip.Addr // the other way round
	next   netip.Addr            // where the search begins
}

// newPool makes a pool. The prefix must have room for one pair.
func newPool(prefix netip.Prefix) (*pool, error) {
	prefix = prefix.Masked()
	if !prefix.IsValid() || prefix.IsSingleIP() {
		return nil, fault.New(fault.Invalid, "prefix %s has no room for a pair of addresses; want at least a /31 or /127", prefix)
	}
	return &pool{prefix: prefix, used: map[netip.Addr]string{}, owned: map[string]netip.Addr{}, next: prefix.Addr()}, nil
}

// take finds a free pair for the connection that is not excluded. Pairs freed last are handed out last.
func (p *pool) take(id string, excluded []netip.Prefix) (pair, error) {
	at, turned := p.next, false
	for {
		if !at.IsValid() || !p.prefix.Contains(at) {
			if turned {
				return pair{}, fault.New(fault.Exhausted, "prefix %s has no free pair of addresses left: %d are in use, %d prefixes are excluded", p.prefix, len(p.used), len(excluded))
			}
			at, turned = p.prefix.Addr(), true
		}
		candidate := pair{Dst: at, Src: at.Next()}
		if behind, hit := p.skip(candidate, excluded); hit {
			at = even(behind)
			continue
		}
		if _, taken := p.used[at]; !taken {
			p.mark(id, at)
			p.next = candidate.Src.Next()
			return candidate, nil
		}
		at = candidate.Src.Next()
	}
}

// skip tells whether a pair cannot be used, and the first address behind what forbids it.
func (p *pool) skip(c pair, excluded []netip.Prefix) (behind netip.Addr, hit bool) {
	for _, e := range excluded {
		if e.Contains(c.Dst) || e.Contains(c.Src) {
			return last(e.Masked()).Next(), true
		}
	}
	// A subnet's own address and its broadcast address stay free where there is room.
	if hosts := p.prefix.Addr().BitLen() - p.prefix.Bits(); hosts >= 3 {
		end := last(p.prefix)
		if c.Dst == p.prefix.Addr() || c.Src == end {
			return c.Src.Next(), true
		}
	}
	return netip.Addr{}, false
}

// keep takes a certain pair for the connection if it is free and not excluded.
func (p *pool) keep(id string, c pair, excluded []netip.Prefix) bool {
	if !p.prefix.Contains(c.Dst) || c.Dst != even(c.Dst) || c.Src != c.Dst.Next() {
		return false
	}
	if _, hit := p.skip(c, excluded); hit {
		return false
	}
	if _, taken := p.used[c.Dst]; taken {
		return false
	}
	p.mark(id, c.Dst)
	return true
}

func (p *pool) mark(id string, dst netip.Addr) { p.used[dst], p.owned[id] = id, dst }

// even rounds up to the lower address of a pair; the zero Addr stays.
func even(a netip.Addr) netip.Addr {
	if !a.IsValid() {
		return a
	}
	bytes := a.AsSlice()
	if bytes[len(bytes)-1]&1 == 1 {
		return a.Next()
	}
	return a
}

// last is the highest address of a masked prefix.
func last(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(bytes)
	return a
}

// ipam gives each connection one pair out of every pool. Safe for concurrent use.
type ipam struct {
	mu    sync.Mutex
	pools []*pool
}

func newIPAM(prefixes []netip.Prefix) (*ipam, error) {
	m := &ipam{}
	for _, prefix := range prefixes {
		p, err := newPool(prefix)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(m.pools, func(o *pool) bool { return o.prefix.Overlaps(p.prefix) }) {
			return nil, fault.New(fault.Invalid, "prefix %s overlaps another one", p.prefix)
		}
		m.pools = append(m.pools, p)
	}
	return m, nil
}

// assign returns the connection's pairs. Those it asks for or has already are kept where that is possible (polite); others it
// had are freed. On error it has what it had.
func (m *ipam) assign(id string, src, dst, excluded []netip.Prefix) ([]pair, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	former := m.release(id)
	var pairs []pair
	for _, p := range m.pools {
		c, kept := p.wish(id, src, dst, excluded)
		if !kept {
			var err error
			if c, err = p.take(id, excluded); err != nil {
				m.release(id)
				for p, at := range former {
					p.mark(id, at)
				}
				return nil, err
			}
		}
		pairs = append(pairs, c)
	}
	return pairs, nil
}

// wish keeps the pair of the pool that the connection names in its addresses.
func (p *pool) wish(id string, src, dst, excluded []netip.Prefix) (pair, bool) {
	for _, d := range dst {
		c := pair{Dst: d.Addr(), Src: d.Addr().Next()}
		named := slices.ContainsFunc(src, func(s netip.Prefix) bool { return s.Addr() == c.Src })
		if named && p.keep(id, c, excluded) {
			return c, true
		}
	}
	return pair{}, false
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
