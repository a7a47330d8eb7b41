package endpoint

import (
	"net/netip"
	"slices"
	"strings"

	"highwire/vppapi/fault"
)

// Pool is prefixes of one family. Each connection gets a pair of addresses out of one of them, of the first that has room.
type Pool []netip.Prefix

// ParsePools reads a list of prefixes, separated by commas. Each is a pool of its own; those in brackets are one pool together:
// "10.0.0.0/24,[fd00::/64,fd01::/64]". Errors are fault.Invalid.
func ParsePools(s string) ([]Pool, error) {
	var pools []Pool
	inside := false
	for item := range strings.SplitSeq(s, ",") {
		item = strings.TrimSpace(item)
		rest, opens := strings.CutPrefix(item, "[")
		rest, closes := strings.CutSuffix(rest, "]")
		if opens && inside || closes && !inside && !opens {
			return nil, fault.New(fault.Invalid, "prefixes %.200q: brackets do not match at %.60q", s, item)
		}
		p, err := netip.ParsePrefix(strings.TrimSpace(rest))
		if err != nil {
			return nil, fault.New(fault.Invalid, "prefixes %.200q: %.60q is none; want e.g. 10.0.0.0/24", s, item)
		}
		if !inside {
			pools = append(pools, nil)
		}
		pools[len(pools)-1] = append(pools[len(pools)-1], p)
		inside = (inside || opens) && !closes
	}
	if inside {
		return nil, fault.New(fault.Invalid, "prefixes %.200q: a bracket is not closed", s)
	}
	for _, p := range pools {
		if _, err := newPool(p); err != nil {
			return nil, err
		}
	}
	return pools, nil
}

// pair is the two addresses of one connection out of one pool: Dst, the lower one, for the endpoint, Src for the client.
type pair struct{ Dst, Src netip.Addr }

// pool hands out pairs of neighbouring addresses. Nothing is kept for addresses that nobody has or had, so the size of the
// prefixes does not matter.
type pool struct {
	ranges   []*span
	used     map[netip.Addr]string // connection id by Dst
	owned    map[string]netip.Addr // the other way round
	promised map[netip.Addr]string // client that had it last, by Dst
}

// span is one prefix of a pool.
type span struct {
	prefix netip.Prefix
	next   netip.Addr // where the search begins
}

// newPool makes a pool. Its prefixes must have room for one pair each, and be of one family.
func newPool(prefixes []netip.Prefix) (*pool, error) {
	p := &pool{used: map[netip.Addr]string{}, owned: map[string]netip.Addr{}, promised: map[netip.Addr]string{}}
	for _, prefix := range prefixes {
		prefix = prefix.Masked()
		if !prefix.IsValid() || prefix.IsSingleIP() {
			return nil, fault.New(fault.Invalid, "prefix %s has no room for a pair of addresses; want at least a /31 or /127", prefix)
		}
		if len(p.ranges) > 0 && p.ranges[0].prefix.Addr().Is4() != prefix.Addr().Is4() {
			return nil, fault.New(fault.Invalid, "prefix %s is of another family than %s; give each family a pool of its own", prefix, p.ranges[0].prefix)
		}
		p.ranges = append(p.ranges, &span{prefix, prefix.Addr()})
	}
	return p, nil
}

// take finds a free pair that is not excluded: one that is promised to nobody else, if there is one.
func (p *pool) take(id, client string, excluded []netip.Prefix) (pair, error) {
	unpromised := func(at netip.Addr) bool {
		to, ok := p.promised[at]
		return !ok || to == client
	}
	for _, free := range []func(netip.Addr) bool{unpromised, func(netip.Addr) bool { return true }} {
		for _, s := range p.ranges {
			c, found := s.find(excluded, func(at netip.Addr) bool {
				_, taken := p.used[at]
				return !taken && free(at)
			})
			if found {
				p.mark(id, c.Dst)
				return c, nil
			}
		}
	}
	return pair{}, fault.New(fault.Exhausted, "%s has no free pair of addresses left: %d are in use, %d prefixes are excluded", p, len(p.used), len(excluded))
}

// String is for errors.
func (p *pool) String() string {
	var list []string
	for _, s := range p.ranges {
		list = append(list, s.prefix.String())
	}
	if len(list) == 1 {
		return "prefix " + list[0]
	}
	return "each of the prefixes " + strings.Join(list, ", ")
}

// find looks for a pair from where the last search ended. Pairs freed last are handed out last.
func (s *span) find(excluded []netip.Prefix, free func(dst netip.Addr) bool) (pair, bool) {
	at, turned := s.next, false
	for {
		if !at.IsValid() || !s.prefix.Contains(at) {
			if turned {
				return pair{}, false
			}
			at, turned = s.prefix.Addr(), true
		}
		candidate := pair{Dst: at, Src: at.Next()}
		if behind, hit := s.skip(candidate, excluded); hit {
			at = even(behind)
			continue
		}
		if free(at) {
			s.next = candidate.Src.Next()
			return candidate, true
		}
		at = candidate.Src.Next()
	}
}

// skip tells whether a pair cannot be used, and the first address behind what forbids it.
func (s *span) skip(c pair, excluded []netip.Prefix) (behind netip.Addr, hit bool) {
	for _, e := range excluded {
		if e.Contains(c.Dst) || e.Contains(c.Src) {
			return last(e.Masked()).Next(), true
		}
	}
	// A subnet's own address and its broadcast address stay free where there is room.
	if hosts := s.prefix.Addr().BitLen() - s.prefix.Bits(); hosts >= 3 {
		end := last(s.prefix)
		if c.Dst == s.prefix.Addr() || c.Src == end {
			return c.Src.Next(), true
		}
	}
	return netip.Addr{}, false
}

// keep takes the pair with this lower address for the connection if it is one of the pool, free and not excluded.
func (p *pool) keep(id string, dst netip.Addr, excluded []netip.Prefix) (pair, bool) {
	i := slices.IndexFunc(p.ranges, func(s *span) bool { return s.prefix.Contains(dst) })
	if i < 0 || dst != even(dst) {
		return pair{}, false
	}
	c := pair{Dst: dst, Src: dst.Next()}
	if _, hit := p.ranges[i].skip(c, excluded); hit {
		return pair{}, false
	}
	if _, taken := p.used[dst]; taken {
		return pair{}, false
	}
	p.mark(id, dst)
	return c, true
}

// wish keeps the pair of the pool that the connection names in its addresses.
func (p *pool) wish(id string, src, dst, excluded []netip.Prefix) (pair, bool) {
	for _, d := range dst {
		if !slices.ContainsFunc(src, func(s netip.Prefix) bool { return s.Addr() == d.Addr().Next() }) {
			continue
		}
		if c, ok := p.keep(id, d.Addr(), excluded); ok {
			return c, true
		}
	}
	return pair{}, false
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
