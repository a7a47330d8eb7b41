package names

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// upstream is a nameserver of a test.
type upstream struct {
	addr  netip.AddrPort
	asked atomic.Int32
}

// serveAt has a handler answer at an address by UDP and TCP until the test ends.
func serveAt(t *testing.T, at string, handler dns.HandlerFunc) *upstream {
	t.Helper()
	packets, streams, err := listenAt(at)
	for err != nil && strings.HasSuffix(at, ":0") && errors.Is(err, syscall.EADDRINUSE) {
		packets, streams, err = listenAt(at) // the port was free for one of the two only
	}
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{addr: packets.LocalAddr().(*net.UDPAddr).AddrPort()}
	counted := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		u.asked.Add(1)
		handler(w, q)
	})
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: counted}, {Listener: streams, Handler: counted}} {
		started, ended := make(chan struct{}), make(chan error, 1)
		s.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			if err := s.Shutdown(); err != nil {
				t.Error(err)
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	return u
}

func listenAt(at string) (net.PacketConn, net.Listener, error) {
	packets, err := net.ListenPacket("udp", at)
	if err != nil {
		return nil, nil, err
	}
	streams, err := net.Listen("tcp", packets.LocalAddr().String())
	if err != nil {
		packets.Close()
		return nil, nil, err
	}
	return packets, streams, nil
}

// upstreamOf serves on some port of the loopback.
func upstreamOf(t *testing.T, handler dns.HandlerFunc) *upstream {
	t.Helper()
	return serveAt(t, "127.0.0.1:0", handler)
}

// zone answers with the records of the text, one a line, following aliases as far as it has them. The name of a record without data
// ("name.") is there for other types only. For what it does not know it says NXDOMAIN, valid for 20 s.
func zone(text string) dns.HandlerFunc {
	type key struct {
		name  string
		qtype uint16
	}
	records, names := map[key][]dns.RR{}, map[string]bool{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.Contains(line, " ") {
			rr, err := dns.NewRR(line)
			if err != nil {
				panic(err)
			}
			k := key{rr.Header().Name, rr.Header().Rrtype}
			records[k], names[k.name] = append(records[k], rr), true
		} else if line != "" {
			names[line] = true
		}
	}
	soa, _ := dns.NewRR(". 20 IN SOA a. b. 1 2 3 4 60")
	return func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.RecursionAvailable = true
		at := dns.CanonicalName(q.Question[0].Name)
		for range 10 {
			if found := records[key{at, q.Question[0].Qtype}]; found != nil {
				m.Answer = append(m.Answer, found...)
				break
			}
			alias := records[key{at, dns.TypeCNAME}]
			if alias == nil {
				m.Ns = []dns.RR{soa}
				if !names[at] {
					m.Rcode = dns.RcodeNameError
				}
				break
			}
			m.Answer = append(m.Answer, alias...)
			at = alias[0].(*dns.CNAME).Target
		}
		if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
			m.Truncate(dns.MinMsgSize)
		}
		_ = w.WriteMsg(m)
	}
}

// says answers with a code alone.
func says(rcode int) dns.HandlerFunc {
	return func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(new(dns.Msg).SetRcode(q, rcode)) }
}

// silent answers nothing.
func silent(dns.ResponseWriter, *dns.Msg) {}

// after answers once the channel is closed.
func after(c <-chan struct{}, then dns.HandlerFunc) dns.HandlerFunc {
	return func(w dns.ResponseWriter, q *dns.Msg) {
		select {
		case <-c:
			then(w, q)
		case <-time.After(30 * time.Second):
		}
	}
}

// clock is one that stands until it is moved.
type clock struct{ now atomic.Pointer[time.Time] }

func newClock() *clock {
	c := &clock{}
	c.move(0)
	return c
}

func (c *clock) time() time.Time { return *c.now.Load() }

func (c *clock) move(d time.Duration) {
	now := time.Unix(1e9, 0)
	if old := c.now.Load(); old != nil {
		now = old.Add(d)
	}
	c.now.Store(&now)
}

// resolverOf is a resolver with these sources.
func resolverOf(t *testing.T, c *clock, sources ...Source) *resolver {
	t.Helper()
	r := &resolver{mark: newMark(), clock: c.time, size: 100, dial: func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, to.String())
	}}
	r.use(inUse(sources...))
	t.Cleanup(r.close)
	return r
}

func inUse(sources ...Source) (list []*source) {
	for _, s := range sources {
		list = append(list, &source{Source: s})
	}
	return list
}

func sourceAt(domain string, upstreams ...*upstream) Source {
	s := Source{Name: domain}
	if domain != "" {
		s.Domains = []string{domain}
	}
	for _, u := range upstreams {
		s.Servers = append(s.Servers, u.addr)
	}
	return s
}

// show is a result as a line: the code, and the data of the records.
func show(r result) string {
	parts := []string{dns.RcodeToString[r.rcode()]}
	for _, rr := range r.records {
		parts = append(parts, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return strings.Join(parts, " ")
}

// soon is a context for what should not take long. What ends with it fails.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func a(name string) question { return question{name: name, qtype: dns.TypeA} }
