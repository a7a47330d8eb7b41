package forwarder_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"highwire/cmd/lab"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/mechanisms/memif"
	"highwire/mechanisms/trunk"
	"highwire/mechanisms/uplink"
	"highwire/mechanisms/vxlan"
	"highwire/mechanisms/wireguard"
	"highwire/vppapi"
	"highwire/vppapi/pocketvpp"
	"highwire/vppapi/process"
)

// node is one of two nodes: a process in a network namespace of its own, with a dataplane and a forwarder on it, which does
// what the test tells it.
type node struct {
	*lab.Namespace
	addrs []netip.Addr // IPv4, IPv6
	dir   string

	mu  sync.Mutex
	in  *json.Encoder
	out *json.Decoder
}

// nodeSettings, as environment variable, makes the test binary a node.
const nodeSettings = "HIGHWIRE_TEST_NODE"

type nodeConfig struct {
	Dir, VPP string
	Verbose  bool
}

// order is what a test tells a node; result is its answer.
type order struct {
	Op    string
	End   mechanisms.End
	Far   netip.Addr
	VWire forwarder.VWire
	Hold  []string // paths of namespaces that arrive with the order
	Line  string
	// Message is the how manieth message from now on that changes something which fails, or is never answered; 0 for none.
	Message int64
	Silent  bool
	// Within is how long it may take; 0 for a minute.
	Within time.Duration
}

type result struct {
	Params map[string]string
	Text   string
	Err    string
}

// uplinkName is the interface between the two nodes.
const uplinkName = "eth0"

// newNodes are two nodes joined by a veth pair, with both families on it.
func newNodes(t *testing.T, vpp string) [2]*node {
	t.Helper()
	var nodes [2]*node
	for i := range nodes {
		ns, err := lab.New()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ns.Close() })
		nodes[i] = &node{Namespace: ns, addrs: []netip.Addr{
			netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 1, 15: byte(i + 1)}),
		}}
	}
	err := nodes[0].Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: uplinkName, MTU: 1500}, PeerName: uplinkName, PeerNamespace: netlink.NsFd(nodes[1].File().Fd()),
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		if err := n.Do(func() error {
			link, err := netlink.LinkByName(uplinkName)
			if err != nil {
				return err
			}
			for i, a := range n.addrs {
				addr, _ := netlink.ParseAddr(netip.PrefixFrom(a, []int{24, 64}[i]).String())
				addr.Flags = syscall.IFA_F_NODAD
				if err := netlink.AddrAdd(link, addr); err != nil {
					return err
				}
			}
			return netlink.LinkSetUp(link)
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nodes {
		n.start(t, vpp)
	}
	return nodes
}

// start runs the node's process until the test ends.
func (n *node) start(t *testing.T, vpp string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "hw") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	n.dir = dir
	settings, _ := json.Marshal(nodeConfig{dir, vpp, testing.Verbose()})
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), nodeSettings+"="+string(settings))
	cmd.Stderr = t.Output()
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, n.Do(cmd.Start)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("node: %v", err)
		}
		_ = os.RemoveAll(dir)
	})
	n.in, n.out = json.NewEncoder(stdin), json.NewDecoder(bufio.NewReader(stdout))
	n.do(t, order{Op: "ready"})
}

// ask gives an order and returns the answer, which may be an error.
func (n *node) ask(t *testing.T, o order) result {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	var r result
	if err := errors.Join(n.in.Encode(o), n.out.Decode(&r)); err != nil {
		t.Fatal("node:", err)
	}
	return r
}

// do gives an order that must succeed.
func (n *node) do(t *testing.T, o order) result {
	t.Helper()
	r := n.ask(t, o)
	if r.Err != "" {
		t.Fatalf("%s: %s", o.Op, r.Err)
	}
	return r
}

// runNode is the node's process.
func runNode() {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	err := serveNode(ctx, &wg)
	cancel()
	wg.Wait()
	if err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		os.Exit(1)
	}
}

func serveNode(ctx context.Context, wg *sync.WaitGroup) error {
	var cfg nodeConfig
	if err := json.Unmarshal([]byte(os.Getenv(nodeSettings)), &cfg); err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	if cfg.Verbose {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	run := func(fn func(context.Context) error) {
		wg.Go(func() {
			if err := fn(ctx); err != nil && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "node:", err)
			}
		})
	}
	socket := filepath.Join(cfg.Dir, "api.sock")
	var trouble trouble
	if cfg.VPP != "" {
		c := process.Config{Bin: cfg.VPP, PluginPath: process.Plugins(cfg.VPP), Dir: cfg.Dir, Buffers: 16384, HeapMB: 256, Log: log}
		socket = c.Socket()
		run(c.Run)
	} else {
		s, err := pocketvpp.New(pocketvpp.Config{Socket: socket, Logger: log, Fault: trouble.of})
		if err != nil {
			return err
		}
		run(s.Run)
	}
	u, err := uplink.New(uplink.Config{Interface: uplinkName, Log: log})
	if err != nil {
		return err
	}
	run(u.Run)
	secret, err := wireguard.LoadSecret(filepath.Join(cfg.Dir, "secret"))
	if err != nil {
		return err
	}
	n := kernel.NewNamespaces()
	set := mechanisms.Set{kernel.New(kernel.Config{Namespaces: n, Backing: kernel.Veth}), memif.New(memif.Config{Namespaces: n}), trunk.New(u, secret), vxlan.New(u), wireguard.New(u, secret)}
	r, err := forwarder.New(forwarder.Config{
		Dialer: vppapi.Dialer{Socket: socket, Log: log}, Mechanisms: set, Journal: filepath.Join(cfg.Dir, "journal"), Node: u, Log: log,
	})
	if err != nil {
		return err
	}
	run(r.Run)
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := in.Decode(&o); err != nil {
			return nil // the test has ended
		}
		var res result
		if o.Op == "trouble" {
			trouble.make(o)
		} else if err := carryOut(ctx, o, &res, r, set, n); err != nil {
			res.Err = err.Error()
		}
		if err := out.Encode(res); err != nil {
			return err
		}
	}
}

// trouble makes one of the next messages fail, as the test says.
type trouble struct {
	message atomic.Int64
	silent  atomic.Bool
}

func (t *trouble) make(o order) {
	t.silent.Store(o.Silent)
	t.message.Store(o.Message)
}

func (t *trouble) of(message string) (retval int32, drop bool) {
	if !changing(message) || t.message.Add(-1) != 0 {
		return 0, false
	}
	if t.silent.Load() {
		return 0, true
	}
	return -1, false
}

func carryOut(ctx context.Context, o order, res *result, r *forwarder.Reconciler, set mechanisms.Set, n *kernel.Namespaces) (err error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(o.Within, time.Minute))
	defer cancel()
	switch o.Op {
	case "ready":
		select {
		case <-r.Ready():
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	case "propose":
		m, err := set.Get(o.End.Type)
		if err != nil {
			return err
		}
		res.Params, err = m.(mechanisms.Proposer).Propose(o.End, o.Far)
		return err
	case "complete":
		m, err := set.Get(o.End.Type)
		if err != nil {
			return err
		}
		res.Params, err = m.(mechanisms.Completer).Complete(o.End)
		return err
	case "set":
		for _, path := range o.Hold {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			id, err := n.Hold(f)
			_ = f.Close()
			if err != nil {
				return err
			}
			defer n.Release(id)
		}
		return r.Set(ctx, o.VWire)
	case "delete":
		return r.Delete(ctx, o.VWire.ID)
	case "list":
		for _, s := range r.List() {
			res.Text += fmt.Sprintf("%s %s\n", s.VWire.ID, s.State)
		}
		return nil
	case "dump", "cli":
		c, err := r.VPP()
		if err != nil {
			return err
		}
		if o.Op == "cli" {
			res.Text, err = c.CLI(ctx, o.Line)
			return err
		}
		have, err := c.Dump(ctx)
		for _, k := range have.Keys() {
			res.Text += k.String() + ": " + have[k].Object.String() + "\n"
		}
		return err
	}
	return errors.New("unknown order " + o.Op)
}

// explain logs VPP's own view of a test that has failed.
func (n *node) explain(t *testing.T) {
	t.Helper()
	if !t.Failed() {
		return
	}
	t.Log(n.ask(t, order{Op: "dump"}).Text)
	for _, line := range []string{"show interface", "show interface address", "show mode", "show l3xc", "show ip neighbors", "show errors", "show wireguard interface", "show wireguard peer", "show vxlan tunnel", "show ip fib"} {
		if text := n.ask(t, order{Op: "cli", Line: line}).Text; strings.TrimSpace(text) != "" {
			t.Logf("%s\n%s", line, text)
		}
	}
}
