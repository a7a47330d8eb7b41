// Command dns measures how many queries of a pod highwire answers in a second, beside CoreDNS with its forward plugin, and writes
// the report. Both run as processes of their own, ask the same nameserver, and are asked by the same clients in rounds that
// alternate.
//
// It is a module of its own, so that CoreDNS is no dependency of highwire.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"highwire/bench"
)

// Addresses in the loopback of the namespace that all run in.
const (
	nameserver    = "127.0.53.1:53"
	highwire      = "127.0.0.1:53"
	coreDNS       = "127.0.0.1:5301"
	coreDNSCached = "127.0.0.1:5302"
)

const conditions = "A records by UDP, %d clients with one query each at a time, rounds of %s; nameserver and clients on the same cores"

func main() {
	serve := flag.String("serve", "", "be what is measured: highwire or coredns")
	out := flag.String("out", "bench/out/dns.json", "file of the report")
	rounds := flag.Int("rounds", 9, "rounds that count")
	length := flag.Duration("length", time.Second, "of a round")
	clients := flag.Int("clients", 16, "that ask at once")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var code int
	var err error
	switch *serve {
	case "":
		var inside bool
		if code, inside, err = bench.Inside(); inside {
			err = measure(ctx, *out, *rounds, *length, *clients)
		}
	default:
		err = be(ctx, *serve)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "dns:", err)
		code = 1
	}
	os.Exit(code)
}

// thisMachine is what the figures are measured on.
func thisMachine() bench.Machine {
	m := bench.Machine{Cores: runtime.NumCPU(), Dataplane: versions()}
	for file, field := range map[string]*string{"/proc/sys/kernel/osrelease": &m.Kernel, "/proc/loadavg": &m.Load} {
		*field = "unknown"
		if b, err := os.ReadFile(file); err == nil {
			*field, _, _ = strings.Cut(strings.TrimSpace(string(b)), " ")
		}
	}
	return m
}

func measure(ctx context.Context, out string, rounds int, length time.Duration, clients int) (err error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	upstream, err := answerAll(nameserver)
	if err != nil {
		return err
	}
	defer upstream.Close()
	for _, name := range []string{"highwire", "coredns"} {
		child, err := launch(name)
		if err != nil {
			return err
		}
		defer child.end()
	}
	report := &bench.Report{Machine: thisMachine().String()}
	for _, kind := range []struct{ name, prefix, baseline, what string }{
		{"queries forwarded", "f", coreDNS, "no answer may be kept (TTL 0); baseline: CoreDNS's forward"},
		{"queries from the cache", "c", coreDNSCached, "a thousand names; baseline: CoreDNS's cache before forward"},
	} {
		load := func(at string) bench.Trial {
			return func(ctx context.Context) ([]float64, error) {
				rate, err := ask(ctx, at, kind.prefix, clients, length)
				return []float64{rate}, err
			}
		}
		compared, err := bench.Compare(ctx, rounds, load(highwire), load(kind.baseline))
		if err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		report.Add(compared[0].Figure(kind.name, "queries/s", "", strings.Join([]string{kind.what, fmt.Sprintf(conditions, clients, length)}, "; ")))
	}
	fmt.Print(report.Table())
	return errors.Join(err, report.Write(out))
}
