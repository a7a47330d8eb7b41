package names

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"highwire/vppapi/fault"
)

// Source is a group of nameservers that know the same names.
type Source struct {
	// Name is for people.
	Name    string
	Servers []netip.AddrPort
	// Domains are those that it owns: it is asked only for names in them, and believed only about these. nil for all.
	Domains []string
}

// ParseDomain gives a domain its canonical form: lower case, with a dot at the end. fault.Invalid is what is not made of letters, digits,
// hyphens and underscores, as it would have another meaning in a file.
func ParseDomain(s string) (string, error) {
	bare := strings.TrimSuffix(s, ".")
	bad := len(bare) > 253
	for label := range strings.SplitSeq(bare, ".") {
		strange := func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
		}
		bad = bad || label == "" || len(label) > 63 || strings.ContainsFunc(label, strange)
	}
	if bad {
		return "", fault.New(fault.Invalid, "%.80q is not a domain", s)
	}
	return dns.CanonicalName(bare), nil
}

// within tells whether a canonical name lies in one of the domains.
func within(name string, domains []string) bool {
	return slices.ContainsFunc(domains, func(d string) bool { return dns.IsSubDomain(d, name) })
}

// source is a Source in use.
type source struct {
	Source
	not     []string // domains that it does not own though Domains has them
	servers []*nameserver
	first   atomic.Int32 // the server that answered last
}

func (s *source) owns(name string) bool {
	return (s.Domains == nil || within(name, s.Domains)) && !within(name, s.not)
}

// hedge is how long a nameserver may be silent before the next one of its source is asked too.
const hedge = 300 * time.Millisecond

// ask returns what the source says to a question: of the first of its servers that has something to say.
func (s *source) ask(ctx context.Context, q question) result {
	n := len(s.servers)
	if n == 1 {
		return s.servers[0].ask(ctx, q, s)
	}
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	type answer struct {
		result
		from int
	}
	answers := make(chan answer, n)
	first := int(s.first.Load())
	started, open := 0, 0
	next := func() {
		if started == n {
			return
		}
		i := (first + started) % n
		started, open = started+1, open+1
		asking.Go(func() { answers <- answer{s.servers[i].ask(ctx, q, s), i} })
	}
	next()
	again := time.NewTicker(hedge)
	defer again.Stop()
	silent := false
	for open > 0 {
		select {
		case a := <-answers:
			open--
			if a.verdict > refused {
				s.first.Store(int32(a.from))
				return a.result
			}
			silent = silent || a.verdict == failed
			next()
		case <-again.C:
			next()
		}
	}
	if silent {
		return result{}
	}
	return result{verdict: refused}
}
