// Package demo shows highwire's main job on this machine: a packet that travels from a client's network namespace to an
// endpoint's through a cross-connect in VPP.
//
//  1. Three unnamed namespaces (package lab) and a directory for all sockets and data are made.
//  2. Agent, endpoint and client are started as the separate processes that they are in production; each says over
//     NOTIFY_SOCKET when it is ready.
//  3. Echo and a TCP stream go through the vWire, and the same commands that an operator uses show it. By memif the ends are
//     no kernel's: client and endpoint answer, ping and generate packets themselves, and say how it went.
//  4. Everything is taken down in reverse order, whatever happened before, and the client's and the endpoint's
//     namespaces are looked at: only their loopback may be left.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"google.golang.org/protobuf/encoding/protojson"

	"highwire/cmd/lab"
	highwirev1 "highwire/controlplane/api/highwire/v1"
)

// Config says what to run.
type Config struct {
	// Exe is the highwire binary.
	Exe string
	// Dataplane is how people call the one that the agent will use, and AgentFlags choose it.
	Dataplane  string
	AgentFlags []string
	// HostNamespace leaves the agent in the network namespace it was started in: a VPP that runs already is there.
	HostNamespace bool
	// Payload is ETHERNET or IP.
	Payload string
	// Mechanism of both ends: kernel or memif.
	Mechanism string
	// CIDRs are what the endpoint hands out addresses from, at most one of each family.
	CIDRs []string
	// Stream is how long the TCP stream lasts, or by memif the generated packets; 0 leaves it out.
	Stream time.Duration
	// Out takes the progress lines.
	Out io.Writer
}

// memif is a value of Config.Mechanism.
const memif = "memif"

// service is what the endpoint offers and the client asks for.
const service = "icmp-responder"

// pings is how many echo requests go to each address.
const pings = 5

// demo is one run.
type demo struct {
	Config
	start            time.Time
	dir              string
	client, endpoint *lab.Namespace
	children         []*lab.Process
	undo             []func(context.Context) error // newest last
}

// Run shows it all and returns nil only if packets flowed and nothing was left behind.
func Run(ctx context.Context, cfg Config) (err error) {
	d := &demo{Config: cfg, start: time.Now()}
	defer func() {
		switch {
		case ctx.Err() != nil:
			err = errors.New("interrupted")
		case err != nil:
			d.lastWords()
		}
		// Interrupted or not, what was made is removed.
		err = errors.Join(err, d.remove(context.WithoutCancel(ctx)))
	}()
	d.say("dataplane: %s", cfg.Dataplane)
	for _, step := range []func(context.Context) error{d.namespaces, d.processes, d.show, d.measure, d.dataplane} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// say prints a progress line with the time since the start.
func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.Out, "[%6.2fs] %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

// lastWords shows what the processes said before it went wrong.
func (d *demo) lastWords() {
	for _, c := range d.children {
		fmt.Fprintf(d.Out, "\nlast words of the %s:\n%s\n", c.Name(), c.LastWords())
	}
}

// later remembers how to take back what was just made.
func (d *demo) later(fn func(context.Context) error) { d.undo = append(d.undo, fn) }

// remove takes everything back in reverse order.
func (d *demo) remove(ctx context.Context) error {
	var errs []error
	for i := len(d.undo) - 1; i >= 0; i-- {
		errs = append(errs, d.undo[i](ctx))
	}
	err := errors.Join(errs...)
	if err == nil {
		d.say("removed: processes, vWire, namespaces, files")
	}
	return err
}

// namespaces makes the two ends and the directory.
func (d *demo) namespaces(context.Context) (err error) {
	if d.dir, err = os.MkdirTemp("", "hw-demo-"); err != nil {
		return err
	}
	d.later(func(context.Context) error { return os.RemoveAll(d.dir) })
	for _, n := range []struct {
		name string
		ns   **lab.Namespace
	}{{"client", &d.client}, {"endpoint", &d.endpoint}} {
		ns, err := lab.New()
		if err != nil {
			return err
		}
		*n.ns = ns
		d.later(func(context.Context) error { return errors.Join(onlyLoopback(n.name, ns), ns.Close()) })
		d.say("namespace of the %s: %s", n.name, ns.Path())
	}
	return nil
}

// onlyLoopback is an error when the namespace still holds an interface.
func onlyLoopback(name string, ns *lab.Namespace) error {
	return ns.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			if l.Attrs().Name != "lo" {
				return fmt.Errorf("interface %s was left in the namespace of the %s", l.Attrs().Name, name)
			}
		}
		return nil
	})
}

// processes starts agent, endpoint and client, each once the one before is ready.
func (d *demo) processes(ctx context.Context) error {
	var agentSpace *lab.Namespace
	if !d.HostNamespace {
		ns, err := lab.New()
		if err != nil {
			return err
		}
		d.later(func(context.Context) error { return ns.Close() })
		agentSpace = ns
	}
	member := []string{"--connect-to", "unix://" + d.path("nsm.sock"), "--spiffe-socket", "unix://" + d.path("workload.sock")}
	endpoint := []string{"endpoint", "--name", "demo-endpoint", "--service", service, "--payload", d.Payload, "--mechanism", d.Mechanism, "--netns", d.endpoint.Path()}
	for _, cidr := range d.CIDRs {
		endpoint = append(endpoint, "--cidr", cidr)
	}
	client := []string{"client", "--name", "demo-client", "--netns", d.client.Path(), d.Mechanism + "://" + service + "/nsm-1"}
	if d.Mechanism == memif {
		client = append(client, "--ping", strconv.Itoa(pings), "--generate", d.Stream.String())
	}
	for _, p := range []struct {
		in   *lab.Namespace
		args []string
		done string
	}{
		{agentSpace, append([]string{"agent", "--data", d.path("data"), "--listen", "unix://" + d.path("nsm.sock"),
			"--admin", d.path("admin.sock"), "--workload-socket", d.path("workload.sock")}, d.AgentFlags...), "serves"},
		{nil, append(endpoint, member...), "is registered"},
		{nil, append(client, member...), "is connected"},
	} {
		begin := time.Now()
		child, err := lab.Launch(ctx, d.Exe, d.dir, p.in, p.args...)
		if err != nil {
			return err
		}
		d.children = append(d.children, child)
		d.later(func(ctx context.Context) error {
			err := child.Stop(ctx)
			for _, line := range child.Said("counters") {
				d.say("%s: %s", child.Name(), line)
			}
			return err
		})
		if err := child.AwaitReady(ctx); err != nil {
			return err
		}
		d.say("%s %s after %s (pid %d)", p.args[0], p.done, time.Since(begin).Round(time.Millisecond), child.PID())
	}
	return nil
}

// path names a file of this run.
func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

// show prints the vWire as an operator sees it.
func (d *demo) show(ctx context.Context) error {
	v, err := d.vwire(ctx)
	if err != nil {
		return err
	}
	for _, args := range [][]string{{"get", "vwires"}, {"describe", "vwire", v.GetId()}} {
		if err := d.print(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// dataplane prints VPP's own view of it.
func (d *demo) dataplane(ctx context.Context) error {
	lines := []string{"show version", "show interface", "show mode"}
	if d.Mechanism == memif {
		lines = append(lines, "show memif")
	}
	for _, line := range lines {
		if err := d.print(ctx, "vppctl", "--", line); err != nil {
			return err
		}
	}
	return nil
}

// print runs a highwire command against the agent and shows it with its output.
func (d *demo) print(ctx context.Context, args ...string) error {
	out, err := d.ask(ctx, args...)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.Out, "\n$ highwire %s\n%s\n", strings.Join(args, " "), strings.TrimRight(string(out), "\n"))
	return nil
}

// ask runs a highwire command against the agent.
func (d *demo) ask(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, d.Exe, args...)
	cmd.Env = append(os.Environ(), "HIGHWIRE_ADMIN="+d.path("admin.sock"))
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return nil, fmt.Errorf("highwire %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// measure sends packets through the vWire: without an answer the demo has failed.
func (d *demo) measure(ctx context.Context) error {
	v, err := d.vwire(ctx)
	if err != nil {
		return err
	}
	addresses, err := parse(v.GetEndpoint().GetAddresses())
	if err != nil {
		return err
	}
	fmt.Fprintln(d.Out)
	if d.Mechanism == memif {
		return d.report(addresses)
	}
	for _, addr := range addresses {
		echoes, err := d.client.Ping(ctx, addr, pings)
		if err != nil {
			return err
		}
		d.say("ping %s: %s", addr, echoes)
		if echoes.Received == 0 {
			return fmt.Errorf("no packet came through the vWire: %d echo requests to %s, no answer", echoes.Sent, addr)
		}
	}
	if d.Stream == 0 {
		return nil
	}
	flow, err := lab.Stream(ctx, d.client, d.endpoint, addresses[0], d.Stream)
	if err != nil {
		return err
	}
	d.say("TCP stream to %s: %s", addresses[0], flow)
	return nil
}

// report shows what the client has found on its memif. It was ready only after that.
func (d *demo) report(addresses []netip.Addr) error {
	client := d.children[len(d.children)-1]
	for _, addr := range addresses {
		lines := client.Said("ping " + addr.String() + ":")
		if len(lines) == 0 {
			return fmt.Errorf("the client has not pinged %s", addr)
		}
		d.say("%s", lines[0])
		if strings.Contains(lines[0], "failed") || strings.Contains(lines[0], " 0 received") {
			return fmt.Errorf("no packet came through the vWire: %s", lines[0])
		}
	}
	for _, line := range client.Said("generate") {
		d.say("%s", line)
	}
	return nil
}

// vwire asks the agent for the only one that it has.
func (d *demo) vwire(ctx context.Context) (*highwirev1.VWire, error) {
	text, err := d.ask(ctx, "get", "vwires", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list []json.RawMessage
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("highwire get vwires: %w", err)
	}
	if len(list) != 1 {
		return nil, fmt.Errorf("the agent has %d vWires; want the one of the demo", len(list))
	}
	v := &highwirev1.VWire{}
	return v, protojson.Unmarshal(list[0], v)
}

// parse takes the addresses out of CIDRs; none is an error.
func parse(cidrs []string) ([]netip.Addr, error) {
	var addresses []netip.Addr
	for _, cidr := range cidrs {
		p, err := netip.ParsePrefix(cidr)
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, p.Addr())
	}
	if len(addresses) == 0 {
		return nil, errors.New("the endpoint's end of the vWire has no address")
	}
	return addresses, nil
}
