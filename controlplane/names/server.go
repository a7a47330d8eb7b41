package names

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"

	"highwire/controlplane/api/connectioncontext"
	"highwire/vppapi/fault"
)

// Config says where a pod is, and what it trusts services with.
type Config struct {
	// Listen is the address that is served, in the pod's loopback; none for 127.0.0.1:53. Resolvers know port 53 only.
	Listen netip.AddrPort
	// ResolvConf is the path of the pod's resolv.conf, which is made to name Listen while the Server runs; empty for
	// /etc/resolv.conf.
	ResolvConf string
	// Allow are the domains that services may answer for. nil allows all but those of the cluster, which are the search domains
	// of ResolvConf.
	Allow []string
	// Enter runs fn on a thread in the pod's network namespace; nil where that is our own.
	Enter func(fn func() error) error
	// Entries is how many answers are kept, 0 for 4096.
	Entries int
	// Log is told which nameservers and domains are not used, and why.
	Log *slog.Logger

	clock func() time.Time
}

// Bounds on what the pod asks.
const (
	maxQuestions = 1024 // at a time; more are dropped, as by a full socket
	maxStreams   = 64
)

// Server answers the queries of a pod.
type Server struct {
	config   Config
	resolver resolver
	file     *file
	conf     resolvConf // the original
	packets  net.PacketConn
	streams  net.Listener
	ctx      context.Context // ends the questions under way
	cancel   context.CancelFunc
	asked    atomic.Int64 // how many there are
	servers  []*dns.Server
	serving  errgroup.Group

	mu       sync.Mutex
	services map[int][]Source
}

// Start serves the pod, and has its resolv.conf say so. End it with Close.
func Start(config Config) (*Server, error) {
	if err := config.complete(); err != nil {
		return nil, err
	}
	s := &Server{config: config, services: map[int][]Source{}}
	if err := s.listen(); err != nil {
		return nil, err
	}
	var err error
	if s.file, err = openFile(config.ResolvConf); err != nil {
		return nil, errors.Join(err, s.packets.Close(), s.streams.Close())
	}
	s.conf = parseResolvConf(s.file.original)
	s.resolver = resolver{dial: s.dial, mark: newMark(), clock: config.clock, size: config.Entries}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.refresh(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.servers = []*dns.Server{{PacketConn: s.packets, UDPSize: dns.DefaultMsgSize}, {Listener: s.streams}}
	for _, d := range s.servers {
		started := make(chan struct{})
		d.Handler = dns.HandlerFunc(s.answer)
		d.NotifyStartedFunc = func() { close(started) }
		s.serving.Go(d.ActivateAndServe)
		<-started // else it could not be shut down
	}
	return s, nil
}

// complete sets what is left out.
func (c *Config) complete() error {
	if !c.Listen.IsValid() {
		c.Listen = netip.MustParseAddrPort("127.0.0.1:53")
	}
	c.ResolvConf = cmp.Or(c.ResolvConf, "/etc/resolv.conf")
	c.Entries = cmp.Or(c.Entries, 4096)
	if c.Enter == nil {
		c.Enter = func(fn func() error) error { return fn() }
	}
	c.Log = cmp.Or(c.Log, slog.Default())
	if c.clock == nil {
		c.clock = time.Now
	}
	allow := slices.Clone(c.Allow)
	for i, d := range c.Allow {
		var err error
		if allow[i], err = ParseDomain(d); err != nil {
			return err
		}
	}
	c.Allow = allow
	return nil
}

// Close restores the pod's resolv.conf and ends the Server.
func (s *Server) Close() error {
	s.mu.Lock()
	err := s.file.restore()
	s.mu.Unlock()
	s.cancel()
	for _, d := range s.servers {
		err = errors.Join(err, d.Shutdown())
	}
	err = errors.Join(err, s.serving.Wait())
	s.packets.Close()
	s.streams.Close()
	s.resolver.close()
	return err
}

// listen opens the sockets. Having them is also what keeps a second client from serving the same pod.
func (s *Server) listen() error {
	err := s.config.Enter(func() (err error) {
		at := s.config.Listen
		if s.packets, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)); err != nil {
			return err
		}
		// The same port where it was ours to choose.
		at = netip.AddrPortFrom(at.Addr(), s.packets.LocalAddr().(*net.UDPAddr).AddrPort().Port())
		s.config.Listen = at
		if s.streams, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at)); err != nil {
			s.packets.Close()
		}
		return err
	})
	if err != nil {
		return fault.New(fault.Unavailable, "serving DNS at %s in the pod: %w; is another one serving there, or the loopback interface down?", s.config.Listen, err)
	}
	s.streams = netutil.LimitListener(s.streams, maxStreams)
	return nil
}

func (s *Server) dial(ctx context.Context, network string, to netip.AddrPort) (conn net.Conn, err error) {
	err = s.config.Enter(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, to.String())
		return err
	})
	return conn, err
}

// Addr is where the pod's queries are answered.
func (s *Server) Addr() netip.AddrPort { return s.config.Listen }

// Use has a connection's nameservers asked from now on, instead of those that it had before; nil for none. Errors are those of the
// pod's resolv.conf.
func (s *Server) Use(connection int, service string, c *connectioncontext.DNSContext) error {
	sources := s.sourcesOf(service, c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.EqualFunc(s.services[connection], sources, equalSources) {
		return nil
	}
	s.services[connection] = sources
	return s.refresh()
}

func equalSources(a, b Source) bool {
	return a.Name == b.Name && slices.Equal(a.Servers, b.Servers) && slices.Equal(a.Domains, b.Domains)
}

// refresh has the resolver and the pod's resolv.conf know all sources. It runs under the lock.
func (s *Server) refresh() error {
	var list []*source
	if own := s.clusterServers(); len(own) > 0 {
		list = append(list, &source{Source: Source{Name: "cluster", Servers: own}})
	}
	search := slices.Clone(s.conf.Search)
	for _, connection := range slices.Sorted(maps.Keys(s.services)) {
		for _, src := range s.services[connection] {
			use := &source{Source: src}
			if len(s.config.Allow) == 0 {
				use.not = s.conf.domains()
			}
			list = append(list, use)
			for _, d := range src.Domains {
				if d = strings.TrimSuffix(d, "."); !slices.Contains(search, d) {
					search = append(search, d)
				}
			}
		}
	}
	s.resolver.use(list)
	return s.file.point(s.config.Listen.Addr(), search)
}

// clusterServers are the nameservers that the pod had before us.
func (s *Server) clusterServers() (list []netip.AddrPort) {
	for _, a := range s.conf.Nameservers {
		to := netip.AddrPortFrom(a, dnsPort)
		if to == s.config.Listen {
			s.config.Log.Warn("the pod's resolv.conf names the client itself; it is not asked", "nameserver", a)
			continue
		}
		list = append(list, to)
	}
	return list
}

const dnsPort = 53

// sourcesOf are the sources that a connection brings along, as far as they may be used.
func (s *Server) sourcesOf(service string, c *connectioncontext.DNSContext) (list []Source) {
	log := s.config.Log.With("service", service)
	for _, config := range c.GetConfigs() {
		src := Source{Name: service}
		for _, ip := range config.GetDnsServerIps() {
			a, err := netip.ParseAddr(ip)
			if a = a.Unmap(); err != nil || !a.IsGlobalUnicast() && !a.IsLinkLocalUnicast() || a == s.config.Listen.Addr() {
				log.Warn("a nameserver of the service is not asked: its address leads nowhere beyond the pod", "nameserver", ip)
				continue
			}
			src.Servers = append(src.Servers, netip.AddrPortFrom(a, dnsPort))
		}
		domains := config.GetSearchDomains()
		if len(domains) == 0 {
			src.Domains = s.config.Allow // nil for all
		}
		for _, d := range domains {
			name, err := ParseDomain(d)
			switch {
			case err != nil:
				log.Warn("a domain of the service is left out", "reason", err)
			case len(s.config.Allow) > 0 && !within(name, s.config.Allow):
				log.Warn("the service may not answer for a domain of its own; allow it, if it is to", "domain", d, "allowed", s.config.Allow)
			case len(s.config.Allow) == 0 && within(name, s.conf.domains()):
				log.Warn("the service claims a domain of the cluster; allow it, if it is to answer there", "domain", d, "cluster", s.conf.Search)
			default:
				src.Domains = append(src.Domains, name)
			}
		}
		if len(src.Servers) > 0 && (len(src.Domains) > 0 || len(domains) == 0) {
			list = append(list, src)
		}
	}
	return list
}
