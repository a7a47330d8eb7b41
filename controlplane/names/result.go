package names

import (
	"strings"

	"github.com/miekg/dns"
)

// question is what is asked, and what makes a difference to the answer.
type question struct {
	name  string // canonical
	qtype uint16
	// dnssec and unchecked are the bits DO and CD.
	dnssec, unchecked bool
}

// verdict is what an answer comes to. Of two, the higher one says more.
type verdict int

const (
	failed   verdict = iota // no answer, or one of no use
	refused                 // the nameserver does not answer for such names
	nxdomain                // there is no such name
	nodata                  // the name is there, but has no such records
	positive
)

// result is what is believed of an answer.
type result struct {
	verdict verdict
	// records are the answer: aliases that lead from the question's name, and the records at their end.
	records []dns.RR
	// soa says how long a negative result holds; may be nil.
	soa *dns.SOA
	// target is where an alias leads whose end others have to say; empty otherwise.
	target string
	// authentic is the AD bit.
	authentic bool
}

// rcode is what the pod is told.
func (r result) rcode() int {
	switch r.verdict {
	case positive, nodata:
		return dns.RcodeSuccess
	case nxdomain:
		return dns.RcodeNameError
	case refused:
		return dns.RcodeRefused
	}
	return dns.RcodeServerFailure
}

// maxChain is how many aliases one answer may lead over.
const maxChain = 16

// believe takes from a source's answer to q what the source owns.
func believe(m *dns.Msg, q question, owns func(name string) bool) result {
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
	case dns.RcodeRefused, dns.RcodeNotAuth:
		return result{verdict: refused}
	default:
		return result{verdict: failed}
	}
	r := result{authentic: m.AuthenticatedData}
	at := q.name
	for aliases := 0; ; aliases++ {
		alias, end := r.take(m.Answer, at, q.qtype)
		if end {
			r.verdict = positive
			return r
		}
		if alias == "" {
			break
		}
		if aliases == maxChain {
			return result{verdict: failed} // they lead in a circle, or nowhere soon
		}
		if at = alias; !owns(at) {
			r.verdict, r.target = positive, at
			return r
		}
	}
	r.verdict = nodata
	if m.Rcode == dns.RcodeNameError {
		r.verdict = nxdomain
	}
	if len(r.records) > 0 {
		r.target = at // only the resolver knows whether there is somebody else to ask
	}
	referral := false
	for _, rr := range m.Ns {
		switch rr := rr.(type) {
		case *dns.SOA:
			if dns.IsSubDomain(dns.CanonicalName(rr.Hdr.Name), at) {
				r.soa = rr
			}
		case *dns.NS:
			referral = true
		}
	}
	if referral && r.soa == nil && r.verdict == nodata {
		return result{verdict: refused} // it only knows who knows
	}
	return r
}

// take adds the records of one name to the result: those asked for, or its alias, and their signatures.
func (r *result) take(answer []dns.RR, name string, qtype uint16) (alias string, end bool) {
	for _, rr := range answer {
		h := rr.Header()
		if h.Class != dns.ClassINET || dns.CanonicalName(h.Name) != name {
			continue
		}
		covered := h.Rrtype
		if sig, ok := rr.(*dns.RRSIG); ok {
			covered = sig.TypeCovered
		}
		switch {
		case h.Rrtype == qtype || qtype == dns.TypeANY:
			end = true
		case h.Rrtype == dns.TypeCNAME:
			alias = dns.CanonicalName(rr.(*dns.CNAME).Target)
		case h.Rrtype == dns.TypeRRSIG && (covered == qtype || covered == dns.TypeCNAME):
		default:
			continue
		}
		r.records = append(r.records, rr)
	}
	return alias, end
}

// ttl is how many seconds a result holds.
func (r result) ttl() uint32 {
	switch {
	case r.verdict == positive && r.target == "":
		return min(lowest(r.records), maxPositive)
	case (r.verdict == nodata || r.verdict == nxdomain) && r.soa != nil:
		return min(r.soa.Hdr.Ttl, r.soa.Minttl, lowest(r.records), maxNegative) // RFC 2308, section 5
	case r.verdict == failed:
		return failureHolds
	}
	return 0
}

// Bounds in seconds.
const (
	maxPositive  = 3600
	maxNegative  = 30 // a name that is new in a cluster is soon wanted
	failureHolds = 1  // RFC 9520, section 3.2
)

func lowest(records []dns.RR) uint32 {
	low := uint32(maxPositive)
	for _, rr := range records {
		low = min(low, rr.Header().Ttl)
	}
	return low
}

// String is for logs and tests.
func (q question) String() string {
	return strings.Join([]string{q.name, dns.TypeToString[q.qtype]}, " ")
}
