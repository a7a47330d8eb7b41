package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"highwire/controlplane/client"
	"highwire/controlplane/identity"
)

func newClient() *cobra.Command {
	var m member
	var services []string
	var labels map[string]string
	var memifDir string
	var try trial
	var dns nameFlags
	var interval, timeout time.Duration
	var initOnly bool
	cmd := &cobra.Command{
		Use:   "client URL...",
		Short: "Ask for network services and keep them",
		Long: `Asks the agent for vWires to network services and prints a line for each once packets can flow. It refreshes them, asks anew
when an endpoint is lost or answers no pings any more, and closes them when it gets SIGTERM or SIGINT. After a kill, the next client of
the same --name goes on with them.

With --init it exits once all are there and leaves them to the next client of the same --name: so an init container of a pod holds
back the application until its interfaces are there, and a sidecar keeps them.

A URL is kernel://SERVICE/INTERFACE?LABEL=VALUE&...: the interface (at most 15 bytes) appears in --netns. Without URLs,
NSM_NETWORK_SERVICES is taken, a comma separated list.

With the label sriovToken=SERVICEDOMAIN/CAPABILITY the interface is a virtual function of a network card; its token comes from
the variable NSM_SRIOV_TOKENS_SERVICEDOMAIN/CAPABILITY, which the agent's device plugin sets in a pod.

memif://SERVICE/NAME?... makes the client itself the application at the end of the vWire, on a memif socket in --netns, or a
file in --memif-dir where client and agent share a directory: it answers ARP, IPv6 neighbour discovery and echo requests for
its addresses, connects again when VPP or the other side was
restarted, and can try the vWire with --ping and --generate.`,
		Example: "  highwire client kernel://icmp-responder/nsm-1\n" +
			"  highwire client --ping 5 --generate 10s --rate 100000 memif://icmp-responder\n" +
			"  highwire client --netns blue 'kernel://db/db0?zone=a' kernel://web/web0",
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg := client.Config{Target: m.connectTo, Name: m.name, Labels: labels, Namespace: m.namespace(), MemifDir: memifDir}
			urls := append(services, args...)
			if len(args) > 0 {
				urls = args
			}
			if len(urls) == 0 {
				return usagef("no network service: give a URL such as kernel://icmp-responder/nsm-1")
			}
			for _, u := range urls {
				s, err := client.ParseService(u)
				if err != nil {
					return usageError{err}
				}
				cfg.Services = append(cfg.Services, s)
			}
			if err := client.TakeTokens(cfg.Services, os.Environ()); err != nil {
				return err
			}
			if err := try.check(); err != nil {
				return err
			}
			if cfg.Init = initOnly; initOnly && (try.pings > 0 || try.generate > 0) {
				return usagef("--init does not try vWires: it leaves them to the next client")
			}
			if interval < 0 || timeout <= 0 {
				return usagef("--liveness-interval %v, --liveness-timeout %v: want times that are not negative", interval, timeout)
			}
			cfg.LivenessInterval, cfg.LivenessTimeout = interval, timeout
			var err error
			if cfg.DNS, err = dns.config(m.netns); err != nil {
				return err
			}
			log, err := m.logs.logger(cmd)
			if err != nil {
				return err
			}
			slog.SetDefault(log)
			return runClient(cmd.Context(), cmd.OutOrStdout(), log, cfg, urls, &m, try)
		},
	}
	m.add(cmd.Flags(), "client")
	try.add(cmd.Flags())
	dns.add(cmd.Flags())
	cmd.Flags().StringToStringVar(&labels, "label", nil, "label of all services that do not set it themselves, repeatable: KEY=VALUE")
	cmd.Flags().BoolVar(&initOnly, "init", false, "exit once all vWires are there and leave them to the next client of the same --name")
	cmd.Flags().DurationVar(&interval, "liveness-interval", time.Second, "how often the other side of a kernel interface is pinged, by unprivileged ICMP from --netns; 0 for never")
	alsoFrom(cmd.Flags(), "liveness-interval", "NSM_LIVENESS_CHECK_INTERVAL")
	cmd.Flags().DurationVar(&timeout, "liveness-timeout", 3*time.Second, "how long it may answer nothing before another endpoint is asked for")
	alsoFrom(cmd.Flags(), "liveness-timeout", "NSM_LIVENESS_CHECK_TIMEOUT")
	cmd.Flags().StringVar(&memifDir, "memif-dir", "", "the agent's --memif-dir as it is seen from here; memif sockets are files in it then (default: abstract sockets in --netns)")
	cmd.Flags().StringSliceVar(&services, "network-services", nil, "URLs, as arguments")
	alsoFrom(cmd.Flags(), "network-services", "NSM_NETWORK_SERVICES")
	return cmd
}

// runClient keeps the services until ctx ends, or only makes them if that is asked for, and reports on them to out.
func runClient(ctx context.Context, out io.Writer, log *slog.Logger, cfg client.Config, urls []string, m *member, try trial) error {
	p := newParts(ctx)
	source, err := openSource(p, m.spiffe, identity.WithTokenLifetime(m.lifetime))
	if err != nil {
		return p.abort(err)
	}
	cfg.Source = source
	peers := &memifs{out: out, log: log, netns: cfg.Namespace, trial: try, byService: map[int]*running{}}
	p.onStop(peers.close)
	ready := readiness{missing: map[int]bool{}}
	for i := range urls {
		ready.missing[i] = true
	}
	cfg.Events = func(e client.Event) {
		log := log.With("service", urls[e.Service])
		switch e.Kind {
		case client.Connected:
			ip := e.Connection.GetContext().GetIpContext()
			place := "interface " + e.Interface
			if e.Socket != "" {
				place = "memif " + e.Socket
			}
			fmt.Fprintf(out, "connected %s: %s, addresses %s, peer %s\n", urls[e.Service], place,
				strings.Join(ip.GetSrcIpAddrs(), " "), strings.Join(ip.GetDstIpAddrs(), " "))
		case client.Failed:
			log.Warn("no vWire yet, asking again", "reason", e.Err)
		case client.Lost:
			log.Warn("the vWire was lost, asking again", "reason", e.Err)
		case client.Refreshed:
			log.Debug("refreshed")
		case client.Closed:
			log.Info("closed")
		}
		up := e.Kind == client.Connected || e.Kind == client.Refreshed
		switch {
		case up && e.Socket != "" && !cfg.Init:
			if err := peers.connected(e.Service, urls[e.Service], e.Connection, e.Socket, func() { ready.have(e.Service) }); err != nil {
				log.Error("nothing runs on the memif", "reason", err)
			}
		case up:
			ready.have(e.Service)
		case e.Kind == client.Lost || e.Kind == client.Closed:
			peers.ended(e.Service)
		}
	}
	p.run("client", func(ctx context.Context) error {
		if err := client.Run(ctx, cfg); err != nil || !cfg.Init {
			return err
		}
		return errDone
	})
	if err := p.wait(); err != nil {
		return err
	}
	if n := ready.lacks(); cfg.Init && n > 0 {
		return fmt.Errorf("stopped while %d of %d vWires were not there; none is left", n, len(urls))
	}
	return nil
}

// readiness tells who started this process once all services are there, and tried where that was asked for.
type readiness struct {
	mu      sync.Mutex
	missing map[int]bool // by service
}

// lacks is how many services have never been there.
func (r *readiness) lacks() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.missing)
}

func (r *readiness) have(service int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.missing[service] {
		return
	}
	delete(r.missing, service)
	if len(r.missing) > 0 {
		return
	}
	if err := notifyReady(); err != nil {
		slog.Warn("nobody could be told that the client is ready", "reason", err)
	}
}
