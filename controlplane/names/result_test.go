package names

import (
	"testing"

	"github.com/miekg/dns"
)

// FuzzBelieve: whatever a source sends, nothing is believed beyond its domains, and an answer is one that was asked for.
func FuzzBelieve(f *testing.F) {
	q := question{name: "x.svc.example.", qtype: dns.TypeA}
	asked := new(dns.Msg).SetQuestion(q.name, q.qtype)
	asked.Id = 0
	for _, text := range [][]string{
		{"x.svc.example. 60 IN A 10.0.0.1"},
		{"x.svc.example. 60 IN CNAME y.svc.example.", "y.svc.example. 60 IN A 10.0.0.1"},
		{"x.svc.example. 60 IN CNAME bank.example.", "bank.example. 60 IN A 6.6.6.6"},
		{"x.svc.example. 60 IN CNAME y.svc.example.", "y.svc.example. 60 IN CNAME x.svc.example."},
	} {
		m := new(dns.Msg).SetReply(asked)
		for _, s := range text {
			rr, err := dns.NewRR(s)
			if err != nil {
				f.Fatal(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
		f.Add(wire[:len(wire)-3])
	}
	owns := func(name string) bool { return dns.IsSubDomain("svc.example.", name) }
	f.Fuzz(func(t *testing.T, wire []byte) {
		m := answerTo(asked, wire)
		if m == nil || m.Truncated {
			return
		}
		r := believe(m, q, owns)
		for _, rr := range r.records {
			if !owns(dns.CanonicalName(rr.Header().Name)) {
				t.Fatalf("believed %s", rr)
			}
		}
		if r.verdict == positive && len(r.records) == 0 {
			t.Fatal("positive, with nothing in it")
		}
		if r.verdict < nxdomain && len(r.records) > 0 {
			t.Fatalf("no answer, but %v", r.records)
		}
		r.ttl()
	})
}
