package pocketvpp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"highwire/vppapi/fault"
	"highwire/vppapi/stats"
)

// Version is what show_version and "show version" answer.
const Version = "25.10-pocket"

// Config says where a Server listens. Socket is required.
type Config struct {
	// Socket is the path of the binary API's Unix stream socket, created with mode 0600. A socket file that nobody
	// answers on any more is replaced.
	Socket string
	// StatsSocket is the path of the socket that hands out the stats segment; empty is stats.sock beside Socket.
	StatsSocket string
	// Buffers is the size of the pool of packet buffers, 0 for 32768. The stand-in needs none, and says of it what VPP would
	// say about as many interfaces.
	Buffers int
	// Netns is the network namespace whose interfaces af_packet attaches to and where taps are made that name none:
	// a path such as /run/netns/x. Empty is the namespace of the process.
	Netns string
	// Workers is how many worker threads the stand-in says it has. It serves all queues alike.
	Workers int
	// Logger receives what VPP would write to its log; nil is slog.Default.
	Logger *slog.Logger
	// Fault, for tests, is asked before each request. A retval other than zero is answered without acting (a dump, whose
	// answer has no retval, then has no details); drop means the request is never answered. It must not block.
	Fault func(msgName string) (retval int32, drop bool)
}

// Server is one lifetime of the stand-in. Its methods are safe for concurrent use.
type Server struct {
	cfg     Config
	log     *slog.Logger
	started time.Time
	table   *table
	stats   *stats.Writer
	ready   chan struct{}

	// mu is VPP's main thread: every handler runs under it. It is taken before fwd.
	mu       sync.Mutex
	counts   map[string]uint64
	clients  pool[*client]
	ifaces   pool[*iface]
	l3xcs    map[l3xcKey]*l3xc
	l3xcList pool[*l3xc]
	tapIDs   map[uint32]*tap
	afNames  map[string]*afPacket
	memifs   map[uint32]*memifSocket
	// nextWorker is whose turn it is to get a receive queue.
	nextWorker uint32
	// instances are the vxlan tunnels, wireguards the WireGuard interfaces, by what VPP numbers them by.
	instances      pool[*vxlanTunnel]
	vxlanRoutes    bool // vxlan's frames may go to routing
	wireguards     pool[*wireguardPort]
	wireguardPeers pool[*wireguardPeer]
	wanted         []*client            // of interface events
	pending        map[uint32]eventKind // not told yet, by sw_if_index

	// fwd guards what the packet path reads: the fields of iface that say so. Handlers write under mu and fwd, and so may
	// read under mu alone.
	fwd    sync.RWMutex
	routes []fibRoute
	udp    map[uint16]receiver // by port
	vxlans map[vxlanKey]*vxlanTunnel

	tracer tracer
	pcap   pcapTrace

	wake       chan struct{}  // interface events are waiting
	background sync.WaitGroup // what ports run beyond their close
}

// New prepares a Server; Run makes it listen. Without a socket path it is fault.Invalid.
func New(cfg Config) (*Server, error) {
	if cfg.Socket == "" {
		return nil, fault.New(fault.Invalid, "pocketvpp: no socket path: set Config.Socket")
	}
	cfg.StatsSocket = cmp.Or(cfg.StatsSocket, filepath.Join(filepath.Dir(cfg.Socket), "stats.sock"))
	cfg.Buffers = cmp.Or(cfg.Buffers, 32768)
	s := &Server{
		cfg:     cfg,
		log:     cmp.Or(cfg.Logger, slog.Default()),
		started: time.Now(),
		table:   newTable(),
		ready:   make(chan struct{}),
		counts:  map[string]uint64{},
		l3xcs:   map[l3xcKey]*l3xc{},
		tapIDs:  map[uint32]*tap{},
		afNames: map[string]*afPacket{},
		memifs:  map[uint32]*memifSocket{},
		udp:     map[uint16]receiver{},
		vxlans:  map[vxlanKey]*vxlanTunnel{},
		pending: map[uint32]eventKind{},
		wake:    make(chan struct{}, 1),
	}
	for _, feature := range []func(*table){
		s.sessionMessages, s.interfaceMessages, s.eventMessages, s.tapMessages, s.afPacketMessages, s.memifMessages,
		s.l2Messages, s.l3xcMessages, s.neighborMessages, s.addressMessages, s.routeMessages, s.vxlanMessages,
		s.wireguardMessages, s.cliMessages, s.traceMessages, s.pcapMessages,
	} {
		feature(s.table)
	}
	var err error
	if s.stats, err = stats.NewWriter(poolName, slices.Sorted(maps.Values(dropCounters))); err != nil {
		return nil, err
	}
	s.addIface(&iface{name: "local0", devType: "local", local: true})
	return s, nil
}

// Ready is closed once the socket accepts clients.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Messages counts the requests received so far by message name, those answered by Config.Fault included.
func (s *Server) Messages() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.counts)
}

// Run listens and serves until ctx ends; then it closes every interface it made and the socket, and returns nil when all
// its goroutines have. A socket that somebody else serves is fault.Conflict. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	listener, err := listen("unix", s.cfg.Socket)
	if err != nil {
		return fmt.Errorf("pocketvpp: %w", err)
	}
	defer func() { _ = os.Remove(s.cfg.Socket) }()
	statsListener, err := listen("unixpacket", s.cfg.StatsSocket)
	if err != nil {
		_ = listener.Close()
		return fmt.Errorf("pocketvpp: %w", err)
	}
	defer func() { _ = os.Remove(s.cfg.StatsSocket) }()
	close(s.ready)

	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.stats.Serve(ctx, statsListener); err != nil {
			s.log.Error("nobody can read counters any more", "error", err)
		}
	})
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	wg.Go(func() { s.tellEvents(ctx) })

	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				err = nil
			}
			_ = listener.Close()
			s.shutdown()
			s.background.Wait()
			wg.Wait()
			return err
		}
		c := s.addClient(conn)
		wg.Go(c.write)
		wg.Go(c.read)
	}
}

// shutdown ends clients and interfaces; what they ran is waited for by Run.
func (s *Server) shutdown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients.values() {
		_ = c.conn.Close()
	}
	for _, i := range slices.Collect(s.ifaces.values()) {
		if !i.local {
			s.deleteIface(i)
		}
	}
}

// listen makes the socket under another name first, so that it is never seen with a wider mode, nor before it accepts.
func listen(network, path string) (net.Listener, error) {
	if conn, err := net.Dial(network, path); err == nil {
		_ = conn.Close()
		return nil, fault.New(fault.Conflict, "socket %s: another process serves it: stop that or choose another path", path)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() != fs.ModeSocket {
		return nil, fault.New(fault.Conflict, "socket %s: a file that is no socket is in the way: choose another path", path)
	}
	fresh := path + "~"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: fresh, Net: network})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(fresh, 0o600), os.Rename(fresh, path)); err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(fresh))
	}
	return l, nil
}
