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
//
// Over two nodes (Config.Remote) there are two agents, each in a namespace of its own with a wire between them, and a vWire of
// each payload leads through a tunnel.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"highwire/cmd/lab"
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
	// Payload is ETHERNET or IP; over two nodes it may be empty for both, one after the other.
	Payload string
	// Remote puts client and endpoint on two nodes.
	Remote bool
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
	agent, far       node // of the client, and of the endpoint where that is another
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
	steps := []func(context.Context) error{d.namespaces, d.processes, d.show, d.measure, d.dataplane}
	if cfg.Remote {
		steps = []func(context.Context) error{d.namespaces, d.nodes, d.overNodes}
	}
	for _, step := range steps {
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

// takeBack takes all but the first of what was made back in reverse order.
func (d *demo) takeBack(ctx context.Context, but int) error {
	var errs []error
	for i := len(d.undo) - 1; i >= but; i-- {
		errs = append(errs, d.undo[i](ctx))
	}
	d.undo = d.undo[:but]
	return errors.Join(errs...)
}

// remove takes everything back.
func (d *demo) remove(ctx context.Context) error {
	err := d.takeBack(ctx, 0)
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
	d.agent = node{demo: d, dir: d.dir}
	if !d.HostNamespace {
		ns, err := lab.New()
		if err != nil {
			return err
		}
		d.later(func(context.Context) error { return ns.Close() })
		d.agent.space = ns
	}
	if err := d.agent.serve(ctx, d.AgentFlags...); err != nil {
		return err
	}
	if _, err := d.agent.launch(ctx, d.dir, "is registered", d.endpointArgs(service, d.Payload)...); err != nil {
		return err
	}
	_, err := d.agent.launch(ctx, d.dir, "is connected", d.clientArgs(service)...)
	return err
}

func (d *demo) endpointArgs(service, payload string) []string {
	args := []string{"endpoint", "--name", "demo-endpoint", "--service", service, "--payload", payload, "--mechanism", d.Mechanism, "--netns", d.endpoint.Path()}
	for _, cidr := range d.CIDRs {
		args = append(args, "--cidr", cidr)
	}
	return args
}

func (d *demo) clientArgs(service string) []string {
	args := []string{"client", "--name", "demo-client", "--netns", d.client.Path(), d.Mechanism + "://" + service + "/nsm-1"}
	if d.Mechanism == memif {
		args = append(args, "--ping", strconv.Itoa(pings), "--generate", d.Stream.String())
	}
	return args
}

// show prints the vWire as an operator sees it.
func (d *demo) show(ctx context.Context) error { return d.agent.show(ctx) }

// dataplane prints VPP's own view of it.
func (d *demo) dataplane(ctx context.Context) error {
	lines := []string{"show version", "show interface", "show mode"}
	if d.Mechanism == memif {
		lines = append(lines, "show memif")
	}
	for _, line := range lines {
		if err := d.agent.print(ctx, "vppctl", "--", line); err != nil {
			return err
		}
	}
	return nil
}

// measure sends packets through the vWire: without an answer the demo has failed.
func (d *demo) measure(ctx context.Context) error {
	v, err := d.agent.vwire(ctx)
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
