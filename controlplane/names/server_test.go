package names

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"highwire/cmd/lab"
	"highwire/controlplane/api/connectioncontext"
	"highwire/vppapi/fault"
)

// Addresses of a pod's nameservers; its loopback has them too.
const (
	clusterAt = "10.96.0.10"
	serviceAt = "10.9.0.53"
)

const podConf = "search default.svc.cluster.local cluster.local\nnameserver " + clusterAt + "\noptions ndots:5\n"

// pod is a network namespace with nameservers and a resolv.conf.
type pod struct {
	t    *testing.T
	ns   *lab.Namespace
	conf string
	log  buffer
}

// buffer is for many writers.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newPod(t *testing.T, conf string) *pod {
	t.Helper()
	ns, err := lab.New()
	if errors.Is(err, unix.EPERM) {
		t.Skip("no right to make network namespaces here (root is needed)")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	p := &pod{t: t, ns: ns, conf: filepath.Join(t.TempDir(), "resolv.conf")}
	p.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, a := range []string{clusterAt, serviceAt} {
			addr, err := netlink.ParseAddr(a + "/32")
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(lo, addr); err != nil {
				return err
			}
		}
		return nil
	})
	if err := os.WriteFile(p.conf, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pod) do(fn func() error) {
	p.t.Helper()
	if err := p.ns.Do(fn); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pod) nameserver(addr string, h dns.HandlerFunc) (u *upstream) {
	p.t.Helper()
	p.do(func() error {
		u = serveAt(p.t, addr+":53", h)
		return nil
	})
	return u
}

func (p *pod) config() Config {
	return Config{ResolvConf: p.conf, Enter: p.ns.Do, Log: slog.New(slog.NewTextHandler(&p.log, nil))}
}

func (p *pod) start(c Config) *Server {
	p.t.Helper()
	s, err := Start(c)
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// ask is an application's query in the pod.
func (p *pod) ask(network string, m *dns.Msg) *dns.Msg {
	p.t.Helper()
	var answer *dns.Msg
	p.do(func() (err error) {
		answer, _, err = (&dns.Client{Net: network, Timeout: 20 * time.Second}).Exchange(m, "127.0.0.1:53")
		return err
	})
	return answer
}

func query(name string) *dns.Msg { return new(dns.Msg).SetQuestion(name, dns.TypeA) }

// line is an answer as a line.
func line(m *dns.Msg) string {
	parts := []string{dns.RcodeToString[m.Rcode]}
	if m.Truncated {
		parts = append(parts, "cut")
	}
	for _, rr := range m.Answer {
		parts = append(parts, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return strings.Join(parts, " ")
}

func (p *pod) text() string {
	p.t.Helper()
	b, err := os.ReadFile(p.conf)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

func service(server string, domains ...string) *connectioncontext.DNSContext {
	return &connectioncontext.DNSContext{Configs: []*connectioncontext.DNSConfig{{DnsServerIps: []string{server}, SearchDomains: domains}}}
}

// TestPod is a pod's day: a service comes, is asked, and goes.
func TestPod(t *testing.T) {
	t.Parallel()
	p := newPod(t, podConf)
	c := p.nameserver(clusterAt, zone("kubernetes.default.svc.cluster.local. 60 IN A 10.96.0.1\nwww.example. 60 IN A 192.0.2.1"))
	s := p.nameserver(serviceAt, zone("db.svc.example. 60 IN A 10.9.0.7\nwww.example. 60 IN A 6.6.6.6\nkubernetes.default.svc.cluster.local. 60 IN A 6.6.6.6"))
	server := p.start(p.config())
	expect := func(network, name, want string) {
		t.Helper()
		if got := line(p.ask(network, query(name))); got != want {
			t.Errorf("%s by %s: %s, want %s", name, network, got, want)
		}
	}
	expect("udp", "db.svc.example.", "NXDOMAIN")
	if err := server.Use(0, "db", service(serviceAt, "svc.example")); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(p.text(), header+"nameserver 127.0.0.1\nsearch default.svc.cluster.local cluster.local svc.example\noptions ndots:5\n") {
		t.Errorf("resolv.conf is\n%s", p.text())
	}
	expect("udp", "db.svc.example.", "NOERROR 10.9.0.7")
	expect("tcp", "DB.svc.Example.", "NOERROR 10.9.0.7")
	expect("udp", "www.example.", "NOERROR 192.0.2.1")
	expect("udp", "kubernetes.default.svc.cluster.local.", "NOERROR 10.96.0.1")
	if n := s.asked.Load(); n != 1 {
		t.Errorf("the service was asked %d times, and knows one name", n)
	}
	// The same connection, refreshed: what is known stays.
	before := c.asked.Load()
	if err := server.Use(0, "db", service(serviceAt, "svc.example")); err != nil {
		t.Fatal(err)
	}
	expect("udp", "www.example.", "NOERROR 192.0.2.1")
	if n := c.asked.Load(); n != before {
		t.Error("a refresh has emptied the cache")
	}
	if err := server.Use(0, "db", nil); err != nil {
		t.Fatal(err)
	}
	expect("udp", "db.svc.example.", "NXDOMAIN")
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if p.text() != podConf {
		t.Errorf("left behind:\n%s", p.text())
	}
}

// TestKilled: a client that was killed has left its resolv.conf; the next one finds the cluster in it and puts it right.
func TestKilled(t *testing.T) {
	t.Parallel()
	p := newPod(t, string(wrap([]byte(podConf), netip.MustParseAddr("127.0.0.1"), []string{"old.example"})))
	p.nameserver(clusterAt, zone("www.example. 60 IN A 192.0.2.1"))
	server := p.start(p.config())
	if got := line(p.ask("udp", query("www.example."))); got != "NOERROR 192.0.2.1" {
		t.Error(got)
	}
	if strings.Contains(p.text(), "old.example") {
		t.Errorf("a former life's domains are left:\n%s", p.text())
	}
	// A second client of the same pod is told so, and changes nothing.
	if _, err := Start(p.config()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a second one: %v", err)
	}
	if got := line(p.ask("udp", query("www.example."))); got != "NOERROR 192.0.2.1" {
		t.Error(got)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if p.text() != podConf {
		t.Errorf("left behind:\n%s", p.text())
	}
}

// TestClaims: which domains and nameservers of a service are used.
func TestClaims(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		allow   []string
		offered *connectioncontext.DNSContext
		want    string // server and domains of each source
		said    string
	}{
		"a domain":              {nil, service(serviceAt, "svc.example"), "10.9.0.53:53 svc.example.", ""},
		"all names":             {nil, service(serviceAt), "10.9.0.53:53 *", ""},
		"a domain of the pod's": {nil, service(serviceAt, "db.cluster.local", "x.example"), "10.9.0.53:53 x.example.", "claims a domain of the cluster"},
		"nothing but that":      {nil, service(serviceAt, "Cluster.Local"), "", "claims a domain of the cluster"},
		"allowed":               {[]string{"db.cluster.local"}, service(serviceAt, "db.cluster.local", "x.example"), "10.9.0.53:53 db.cluster.local.", "x.example"},
		"all that is allowed":   {[]string{"x.example"}, service(serviceAt), "10.9.0.53:53 x.example.", ""},
		"the pod itself":        {nil, service("127.0.0.1", "x.example"), "", "leads nowhere"},
		"nowhere":               {nil, service("0.0.0.0", "x.example"), "", "leads nowhere"},
		"a group":               {nil, service("ff02::fb", "x.example"), "", "leads nowhere"},
		"no name":               {nil, service(serviceAt, "x\nnameserver 6.6.6.6"), "", "not a domain"},
		"mapped":                {nil, service("::ffff:10.9.0.53", "x"), "10.9.0.53:53 x.", ""},
		"nothing":               {nil, nil, "", ""},
	}
	for name, test := range tests {
		var log buffer
		c := Config{Allow: test.allow, Log: slog.New(slog.NewTextHandler(&log, nil))}
		if err := c.complete(); err != nil {
			t.Fatal(err)
		}
		s := &Server{config: c, conf: parseResolvConf([]byte(podConf))}
		var got []string
		for _, src := range s.sourcesOf("db", test.offered) {
			domains := strings.Join(src.Domains, " ")
			if src.Domains == nil {
				domains = "*"
			}
			got = append(got, src.Servers[0].String()+" "+domains)
		}
		if have := strings.Join(got, ", "); have != test.want {
			t.Errorf("%s: %q, want %q", name, have, test.want)
		}
		if said := log.String(); !strings.Contains(said, test.said) || test.said == "" && said != "" {
			t.Errorf("%s: said %q, want %q", name, said, test.said)
		}
	}
}

// TestLoops: nameservers that ask us again, knowingly or not, and our own address among them.
func TestLoops(t *testing.T) {
	t.Parallel()
	forward := func(p *pod, strip bool) dns.HandlerFunc {
		return func(w dns.ResponseWriter, q *dns.Msg) {
			m := q.Copy()
			if strip {
				m.Extra = nil
			}
			p.do(func() error {
				conn, err := net.Dial("udp", "127.0.0.1:53")
				if err != nil {
					return err
				}
				c := &dns.Conn{Conn: conn}
				defer c.Close()
				c.SetDeadline(time.Now().Add(10 * time.Second))
				if err := c.WriteMsg(m); err != nil {
					return err
				}
				if r, err := c.ReadMsg(); err == nil {
					r.Id = q.Id
					_ = w.WriteMsg(r)
				}
				return nil
			})
		}
	}
	for name, test := range map[string]struct {
		strip bool
		want  string
		asked int32 // at most
	}{
		"marked":   {false, "REFUSED", 1},
		"unmarked": {true, "SERVFAIL", 4}, // sent again while nothing comes
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPod(t, podConf)
			u := p.nameserver(clusterAt, forward(p, test.strip))
			server := p.start(p.config())
			if got := line(p.ask("udp", query("www.example."))); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
			if n := u.asked.Load(); n > test.asked {
				t.Errorf("the nameserver was asked %d times", n)
			}
			if err := server.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	p := newPod(t, "nameserver 127.0.0.1\n")
	server := p.start(p.config())
	if got := line(p.ask("udp", query("www.example."))); got != "REFUSED" {
		t.Errorf("our own address: %s", got)
	}
	if !strings.Contains(p.log.String(), "names the client itself") {
		t.Errorf("said %q", p.log.String())
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
}

// TestQueries: what the pod may ask, and how.
func TestQueries(t *testing.T) {
	t.Parallel()
	p := newPod(t, podConf)
	var many strings.Builder
	for i := range 100 {
		many.WriteString("many. 60 IN A 10.0.0." + string(rune('0'+i%10)) + "\n")
	}
	p.nameserver(clusterAt, zone("x. 60 IN A 10.0.0.1\n"+many.String()+"many. 60 IN A 10.0.1.1"))
	server := p.start(p.config())
	chaos := query("version.bind.")
	chaos.Question[0].Qclass = dns.ClassCHAOS
	version := query("x.").SetEdns0(4096, false)
	version.IsEdns0().SetVersion(1)
	status := query("x.")
	status.Opcode = dns.OpcodeStatus
	for name, test := range map[string]struct {
		network string
		q       *dns.Msg
		want    string
	}{
		"a name":           {"udp", query("x."), "NOERROR 10.0.0.1"},
		"EDNS":             {"udp", query("x.").SetEdns0(4096, true), "NOERROR 10.0.0.1"},
		"a class":          {"udp", chaos, "REFUSED"},
		"a zone":           {"tcp", new(dns.Msg).SetAxfr("x."), "REFUSED"},
		"an EDNS to come":  {"udp", version, dns.RcodeToString[dns.RcodeBadVers]},
		"another opcode":   {"udp", status, "NOTIMP"},
		"too much for UDP": {"udp", query("many."), "NOERROR cut"},
		"as much by TCP":   {"tcp", query("many."), "NOERROR 10.0.0.0"},
		"or by EDNS":       {"udp", query("many.").SetEdns0(4096, false), "NOERROR 10.0.0.0"},
	} {
		m := p.ask(test.network, test.q)
		if got := line(m); !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: %.80s, want %s", name, got, test.want)
		}
		if (m.IsEdns0() != nil) != (test.q.IsEdns0() != nil) {
			t.Errorf("%s: EDNS in the answer: %v", name, m.IsEdns0())
		}
	}
	// A header that promises a question which is not there.
	p.do(func() error {
		conn, err := net.Dial("udp", "127.0.0.1:53")
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := conn.Write([]byte{1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
			return err
		}
		b := make([]byte, 512)
		n, err := conn.Read(b)
		if err != nil {
			return err
		}
		if n < 12 || b[0] != 1 || b[1] != 2 || b[3]&15 != dns.RcodeFormatError {
			t.Errorf("a header without its question: % x", b[:n])
		}
		return nil
	})
	if err := server.Close(); err != nil {
		t.Error(err)
	}
}

func TestStartProblems(t *testing.T) {
	t.Parallel()
	p := newPod(t, podConf)
	bad := p.config()
	bad.Allow = []string{"a b"}
	if _, err := Start(bad); !fault.Is(err, fault.Invalid) {
		t.Errorf("no domain: %v", err)
	}
	bad = p.config()
	bad.ResolvConf += ".none"
	if _, err := Start(bad); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	// Nothing is bound any more.
	if err := p.start(p.config()).Close(); err != nil {
		t.Error(err)
	}
}
