package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"highwire/controlplane/api/connection"
	"highwire/mechanisms"
	"highwire/mechanisms/memif/peer"
	"highwire/vppapi/memif"
)

// application is a peer at work at our end of one memif vWire.
type application struct {
	*peer.Peer
	ctx  context.Context // of everything that runs on it
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// newApplication begins to answer for the addresses on the socket, an abstract one in the network namespace netns. A master
// listens when it returns. End it with end.
func newApplication(c *connection.Connection, socket, netns string, addresses []string, master bool, log *slog.Logger) (*application, error) {
	cfg := peer.Config{
		Address: memif.Address{Name: socket, Netns: netns}, Master: master, L3: c.GetPayload() != string(mechanisms.Ethernet), Log: log,
	}
	for _, a := range addresses {
		prefix, err := netip.ParsePrefix(a)
		if err != nil {
			return nil, err
		}
		cfg.Addresses = append(cfg.Addresses, prefix)
	}
	p, err := peer.New(cfg)
	if err == nil && master {
		err = p.Listen()
	}
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	a := &application{Peer: p, ctx: ctx, stop: stop}
	a.wg.Go(func() {
		if err := p.Run(ctx); ctx.Err() == nil {
			log.Error("memif ended", "socket", socket, "reason", err)
		}
	})
	return a, nil
}

// end stops the application and waits for it.
func (a *application) end() {
	a.stop()
	a.wg.Wait()
}

// summary is what went through the memif, for people.
func (a *application) summary() string {
	c := a.Counters()
	return fmt.Sprintf("received %d packets, %d bytes; sent %d packets, %d bytes; dropped %d", c.RxPackets, c.RxBytes, c.TxPackets, c.TxBytes, c.RxDrops+c.TxDrops)
}

// trial is what a client does with a new memif vWire by itself.
type trial struct {
	pings    int
	pingSize int
	generate time.Duration
	rate     int
	size     int
}

func (t *trial) add(flags *pflag.FlagSet) {
	flags.IntVar(&t.pings, "ping", 0, "memif: echo requests to each address of the endpoint once connected")
	flags.IntVar(&t.pingSize, "ping-size", 0, "memif: bytes of an IP packet of --ping (default: a small one)")
	flags.DurationVar(&t.generate, "generate", 0, "memif: how long to send UDP packets to the endpoint once connected, e.g. 10s")
	flags.IntVar(&t.rate, "rate", 0, "memif: packets a second of --generate (default: as many as there is room for)")
	flags.IntVar(&t.size, "size", 64, "memif: bytes of a packet of --generate, headers included")
}

func (t *trial) check() error {
	switch {
	case t.pings < 0 || t.pingSize < 0 || t.rate < 0 || t.generate < 0:
		return usagef("--ping, --ping-size, --rate and --generate must not be negative")
	case t.size < 64 || t.size > 9216:
		return usagef("--size %d: want 64 to 9216", t.size)
	}
	return nil
}

// run tries the vWire and says to out how that went; it waits for the other side first.
func (t *trial) run(out io.Writer, a *application, peers []string) {
	if a.Await(a.ctx, true) != nil {
		return
	}
	for _, cidr := range peers {
		prefix, err := netip.ParsePrefix(cidr)
		if err != nil || t.pings == 0 {
			continue
		}
		echoes, err := a.Ping(a.ctx, prefix.Addr(), t.pings, t.pingSize)
		if err != nil {
			fmt.Fprintf(out, "ping %s: failed: %v\n", prefix.Addr(), err)
			continue
		}
		fmt.Fprintf(out, "ping %s: %s\n", prefix.Addr(), echoes)
	}
	if t.generate == 0 || len(peers) == 0 {
		return
	}
	to, err := netip.ParsePrefix(peers[0])
	if err != nil {
		return
	}
	generating, cancel := context.WithTimeout(a.ctx, t.generate)
	defer cancel()
	begun := time.Now()
	sent, err := a.Generate(generating, peer.Traffic{To: to.Addr(), Size: t.size, Rate: t.rate})
	if err != nil {
		fmt.Fprintf(out, "generate to %s: failed: %v\n", to.Addr(), err)
		return
	}
	took := time.Since(begun)
	fmt.Fprintf(out, "generated to %s: %d packets of %d bytes in %s, %.0f packets/s\n", to.Addr(), sent, t.size,
		took.Round(time.Millisecond), float64(sent)/took.Seconds())
}

// memifs are a client's applications, one for each of its services by memif that is connected.
type memifs struct {
	out   io.Writer
	log   *slog.Logger
	netns string
	trial trial

	mu        sync.Mutex
	byService map[int]*running
}

// running is an application of a client with the connection it was made for.
type running struct {
	*application
	title, key string
}

// connected runs an application on the connection of a service; title is the service for people. One that runs already goes
// on where nothing has changed for it. tried is called when the trial of a new one is over; it must not wait for m.
func (m *memifs) connected(service int, title string, c *connection.Connection, socket string, tried func()) error {
	key := fmt.Sprint(socket, c.GetPayload(), c.GetContext().GetIpContext().GetSrcIpAddrs())
	ip := c.GetContext().GetIpContext()
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.byService[service]; r != nil && r.key == key {
		return nil
	}
	m.drop(service)
	a, err := newApplication(c, socket, m.netns, ip.GetSrcIpAddrs(), false, m.log)
	if err != nil {
		return err
	}
	m.byService[service] = &running{a, title, key}
	a.wg.Go(func() {
		m.trial.run(m.out, a, ip.GetDstIpAddrs())
		if a.ctx.Err() == nil {
			tried()
		}
	})
	return nil
}

// ended stops the application of a service that is gone.
func (m *memifs) ended(service int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(service)
}

// drop is ended under the lock.
func (m *memifs) drop(service int) {
	if r := m.byService[service]; r != nil {
		delete(m.byService, service)
		r.end()
		fmt.Fprintf(m.out, "counters %s: %s\n", r.title, r.summary())
	}
}

// close stops all.
func (m *memifs) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for service := range m.byService {
		m.drop(service)
	}
}
