package names

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestAsk has the cluster and a service that owns svc.example answer in an order that each case says.
func TestAsk(t *testing.T) {
	t.Parallel()
	const alias = "x.svc.example. 60 IN CNAME y.svc.example."
	tests := map[string]struct {
		name             string
		cluster, service dns.HandlerFunc
		slow             string // who answers only after the other one has
		want             string
	}{
		"slow and right, fast and wrong":     {"x.svc.example.", zone(""), zone("x.svc.example. 60 IN A 10.0.0.1"), "service", "NOERROR 10.0.0.1"},
		"slow cluster knows":                 {"x.svc.example.", zone("x.svc.example. 60 IN A 10.0.0.2"), zone(""), "cluster", "NOERROR 10.0.0.2"},
		"first positive answer wins":         {"x.svc.example.", silent, zone("x.svc.example. 60 IN A 10.0.0.1"), "", "NOERROR 10.0.0.1"},
		"neither knows":                      {"x.svc.example.", zone(""), zone(""), "cluster", "NXDOMAIN"},
		"there, but of another type":         {"x.svc.example.", zone(""), zone("x.svc.example."), "cluster", "NOERROR"},
		"one silent, one denies":             {"x.svc.example.", silent, zone(""), "", "SERVFAIL"},
		"one broken, one denies":             {"x.svc.example.", zone(""), says(dns.RcodeServerFailure), "", "SERVFAIL"},
		"one broken, one knows":              {"x.svc.example.", zone("x.svc.example. 60 IN A 10.0.0.2"), says(dns.RcodeServerFailure), "cluster", "NOERROR 10.0.0.2"},
		"who refuses has no say":             {"x.svc.example.", says(dns.RcodeRefused), zone(""), "cluster", "NXDOMAIN"},
		"all refuse":                         {"x.svc.example.", says(dns.RcodeRefused), says(dns.RcodeRefused), "", "REFUSED"},
		"not its domain: lies are not heard": {"bank.example.", zone("bank.example. 60 IN A 10.0.0.2"), zone("bank.example. 60 IN A 6.6.6.6"), "", "NOERROR 10.0.0.2"},
		"a domain is more than a suffix":     {"xsvc.example.", zone(""), zone("xsvc.example. 60 IN A 6.6.6.6"), "", "NXDOMAIN"},
		"lies beside the question": {"x.svc.example.", zone("bank.example. 60 IN A 10.0.0.2"),
			zone("x.svc.example. 60 IN CNAME bank.example.\nbank.example. 60 IN A 6.6.6.6"), "cluster", "NOERROR bank.example. 10.0.0.2"},
		"alias within a domain": {"x.svc.example.", zone(""), zone(alias + "\ny.svc.example. 60 IN A 10.0.0.1"), "", "NOERROR y.svc.example. 10.0.0.1"},
		"alias of the cluster into a domain": {"x.default.", zone("x.default. 60 IN CNAME x.svc.example."), zone("x.svc.example. 60 IN A 10.0.0.1"), "",
			"NOERROR x.svc.example. 10.0.0.1"},
		"alias to nothing":    {"x.svc.example.", zone(""), zone(alias), "", "NXDOMAIN y.svc.example."},
		"aliases in a circle": {"x.svc.example.", zone("bank.example. 60 IN CNAME x.svc.example."), zone("x.svc.example. 60 IN CNAME bank.example."), "cluster", "SERVFAIL"},
		"an alias to itself":  {"x.svc.example.", silent, zone("x.svc.example. 60 IN CNAME x.svc.example."), "", "SERVFAIL"},
		"a referral says nothing": {"x.svc.example.", zone(""), func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg).SetReply(q)
			ns, _ := dns.NewRR("svc.example. 60 IN NS ns.svc.example.")
			m.Ns = []dns.RR{ns}
			_ = w.WriteMsg(m)
		}, "", "NXDOMAIN"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answered := make(chan struct{})
			var once sync.Once
			first := func(h dns.HandlerFunc) dns.HandlerFunc {
				return func(w dns.ResponseWriter, q *dns.Msg) {
					h(w, q)
					once.Do(func() { close(answered) })
				}
			}
			cluster, service := first(test.cluster), first(test.service)
			switch test.slow {
			case "cluster":
				cluster = after(answered, test.cluster)
			case "service":
				service = after(answered, test.service)
			}
			c, s := upstreamOf(t, cluster), upstreamOf(t, service)
			r := resolverOf(t, newClock(), sourceAt("", c), sourceAt("svc.example.", s))
			ctx := soon(t)
			if test.want == "SERVFAIL" {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 500*time.Millisecond)
				defer cancel()
			}
			if got := show(r.resolve(ctx, a(test.name))); got != test.want {
				t.Errorf("%s: %s, want %s", test.name, got, test.want)
			}
			if n := s.asked.Load(); n != 0 && !strings.HasSuffix(test.name, ".svc.example.") && !strings.Contains(test.want, "svc.example.") {
				t.Errorf("the service was asked %d times for %s, which it does not own", n, test.name)
			}
		})
	}
}

// TestNobodyToAsk: without sources nothing is known, and nothing is denied.
func TestNobodyToAsk(t *testing.T) {
	t.Parallel()
	s := upstreamOf(t, zone(""))
	r := resolverOf(t, newClock(), sourceAt("svc.example.", s))
	if got := show(r.resolve(soon(t), a("www.example."))); got != "REFUSED" {
		t.Error(got)
	}
}

// TestServers: within a source, the next server is asked when one is silent or broken, and the good one is asked first then.
func TestServers(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]dns.HandlerFunc{"silent": silent, "broken": says(dns.RcodeServerFailure), "refusing": says(dns.RcodeRefused)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second := upstreamOf(t, bad), upstreamOf(t, zone("x. 0 IN A 10.0.0.1"))
			r := resolverOf(t, newClock(), sourceAt("", first, second))
			for range 3 {
				if got := show(r.resolve(soon(t), a("x."))); got != "NOERROR 10.0.0.1" {
					t.Fatal(got)
				}
			}
			if n := second.asked.Load(); n != 3 {
				t.Errorf("the good server was asked %d times", n)
			}
		})
	}
}

// TestWrongAnswers: what does not answer the query is not taken for an answer.
func TestWrongAnswers(t *testing.T) {
	t.Parallel()
	good := zone("x. 60 IN A 10.0.0.1")
	lie := func(change func(m *dns.Msg)) dns.HandlerFunc {
		return func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg).SetReply(q)
			rr, _ := dns.NewRR("x. 60 IN A 6.6.6.6")
			m.Answer = []dns.RR{rr}
			change(m)
			_ = w.WriteMsg(m)
			good(w, q)
		}
	}
	for name, h := range map[string]dns.HandlerFunc{
		"another id":       lie(func(m *dns.Msg) { m.Id++ }),
		"another question": lie(func(m *dns.Msg) { m.Question[0].Name = "y." }),
		"another type":     lie(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA }),
		"no question":      lie(func(m *dns.Msg) { m.Question = nil }),
		"a query":          lie(func(m *dns.Msg) { m.Response = false }),
		"no message": func(w dns.ResponseWriter, q *dns.Msg) {
			_, _ = w.Write([]byte{byte(q.Id >> 8), byte(q.Id), 0x80, 0, 0, 1, 0, 9, 0, 0, 0, 0, 1})
			good(w, q)
		},
		"records of others": func(w dns.ResponseWriter, q *dns.Msg) {
			zone("x. 60 IN A 10.0.0.1\nx. 60 CH A 6.6.6.6")(w, q)
		},
		"no EDNS": func(w dns.ResponseWriter, q *dns.Msg) {
			if q.IsEdns0() != nil {
				says(dns.RcodeFormatError)(w, q)
				return
			}
			good(w, q)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := upstreamOf(t, h)
			r := resolverOf(t, newClock(), sourceAt("", u))
			if got := show(r.resolve(soon(t), a("x."))); got != "NOERROR 10.0.0.1" {
				t.Error(got)
			}
		})
	}
}

// TestTruncated: what does not fit in a packet is asked for by TCP.
func TestTruncated(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	for i := range 200 {
		fmt.Fprintf(&text, "x. 60 IN A 10.0.0.%d\n", i)
	}
	all := zone(text.String())
	onlyUDP := func(w dns.ResponseWriter, q *dns.Msg) {
		if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
			all(w, q)
		} else {
			w.Close()
		}
	}
	cut := func(w dns.ResponseWriter, q *dns.Msg) {
		if _, udp := w.RemoteAddr().(*net.UDPAddr); !udp {
			all(w, q)
			return
		}
		m := new(dns.Msg).SetReply(q)
		m.Truncated, m.Answer = true, []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "x.", Rrtype: dns.TypeA, Class: 1}, A: net.IPv4(6, 6, 6, 6)}}
		wire, _ := m.Pack()
		_, _ = w.Write(wire[:len(wire)-2])
	}
	for name, test := range map[string]struct {
		h       dns.HandlerFunc
		verdict verdict
		records int
	}{"TCP has it all": {all, positive, 200}, "cut in a record": {cut, positive, 200}, "no TCP": {onlyUDP, failed, 0}} {
		u := upstreamOf(t, test.h)
		r := resolverOf(t, newClock(), sourceAt("", u))
		if got := r.resolve(soon(t), a("x.")); got.verdict != test.verdict || len(got.records) != test.records {
			t.Errorf("%s: verdict %d, %d records", name, got.verdict, len(got.records))
		}
	}
}

// TestResent: a packet that is lost is sent again.
func TestResent(t *testing.T) {
	t.Parallel()
	var once sync.Once
	good := zone("x. 60 IN A 10.0.0.1")
	u := upstreamOf(t, func(w dns.ResponseWriter, q *dns.Msg) {
		lost := false
		once.Do(func() { lost = true })
		if !lost {
			good(w, q)
		}
	})
	r := resolverOf(t, newClock(), sourceAt("", u))
	if got := show(r.resolve(soon(t), a("x."))); got != "NOERROR 10.0.0.1" {
		t.Error(got)
	}
}

// TestOneFlight: whoever asks meanwhile, or later, does not ask the nameserver again.
func TestOneFlight(t *testing.T) {
	t.Parallel()
	all := make(chan struct{})
	u := upstreamOf(t, after(all, zone("x. 60 IN A 10.0.0.1")))
	r := resolverOf(t, newClock(), sourceAt("", u))
	var asking sync.WaitGroup
	for i := range 50 {
		asking.Go(func() {
			if got := show(r.resolve(soon(t), a("x."))); got != "NOERROR 10.0.0.1" {
				t.Error(got)
			}
		})
		if i == 25 {
			close(all)
		}
	}
	asking.Wait()
	// A lost race with the time until a query is sent again is no failure.
	if n := u.asked.Load(); n > 2 {
		t.Errorf("asked %d times", n)
	}
}

// TestSourcesChange: a source that has gone is not asked any more, and nothing that it said is known any more.
func TestSourcesChange(t *testing.T) {
	t.Parallel()
	c, s := upstreamOf(t, zone("")), upstreamOf(t, zone("x.svc.example. 60 IN A 10.0.0.1"))
	r := resolverOf(t, newClock(), sourceAt("", c))
	for _, step := range []struct {
		sources []Source
		want    string
	}{
		{[]Source{sourceAt("", c)}, "NXDOMAIN"},
		{[]Source{sourceAt("", c), sourceAt("svc.example.", s)}, "NOERROR 10.0.0.1"},
		{[]Source{sourceAt("", c)}, "NXDOMAIN"},
	} {
		r.use(inUse(step.sources...))
		if got := show(r.resolve(soon(t), a("x.svc.example."))); got != step.want {
			t.Errorf("%s, want %s", got, step.want)
		}
	}
}
