package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"highwire/cmd/lab"
)

// The addresses of the two nodes on the network between them.
var (
	nearAddr = []netip.Prefix{netip.MustParsePrefix("198.18.0.1/24"), netip.MustParsePrefix("2001:db8:18::1/64")}
	farAddr  = []netip.Prefix{netip.MustParsePrefix("198.18.0.2/24"), netip.MustParsePrefix("2001:db8:18::2/64")}
)

// nodes makes two nodes, each a namespace with an agent and a dataplane of its own, and a wire between them. The second one
// shares the registry of the first, and has its identity from there.
func (d *demo) nodes(ctx context.Context) error {
	d.agent = node{demo: d, name: "node-a", dir: filepath.Join(d.dir, "a")}
	d.far = node{demo: d, name: "node-b", dir: filepath.Join(d.dir, "b"), identities: d.agent.workload()}
	for _, n := range []*node{&d.agent, &d.far} {
		ns, err := lab.New()
		if err != nil {
			return err
		}
		n.space = ns
		d.later(func(context.Context) error { return ns.Close() })
		if err := os.Mkdir(n.dir, 0o700); err != nil {
			return err
		}
	}
	if err := lab.Join(underlay, d.agent.space, d.far.space, nearAddr, farAddr); err != nil {
		return err
	}
	d.say("two nodes, %s and %s, joined by a wire", nearAddr[0].Addr(), farAddr[0].Addr())
	near, far := url(nearAddr), url(farAddr)
	if err := d.agent.serve(ctx, append(d.AgentFlags, "--listen", near, "--uplink", underlay)...); err != nil {
		return err
	}
	return d.far.serve(ctx, append(d.AgentFlags, "--listen", far, "--uplink", underlay, "--registry", near)...)
}

// underlay is the name of the interface that each node reaches the other by.
const underlay = "wire0"

func url(addrs []netip.Prefix) string {
	return "tcp://" + netip.AddrPortFrom(addrs[0].Addr(), 5001).String()
}

// overNodes has a vWire of each payload between the nodes: frames through VXLAN, packets through WireGuard.
func (d *demo) overNodes(ctx context.Context) error {
	payloads := []string{d.Payload}
	if d.Payload == "" {
		payloads = []string{"ETHERNET", "IP"}
	}
	for _, payload := range payloads {
		if err := d.overNodesBy(ctx, payload); err != nil {
			return fmt.Errorf("payload %s: %w", payload, err)
		}
	}
	return nil
}

func (d *demo) overNodesBy(ctx context.Context, payload string) error {
	fmt.Fprintln(d.Out)
	d.say("payload %s", payload)
	dir := filepath.Join(d.dir, strings.ToLower(payload))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	name := service + "-" + strings.ToLower(payload)
	before := len(d.undo)
	if _, err := d.far.launch(ctx, dir, "is registered", d.endpointArgs(name, payload)...); err != nil {
		return err
	}
	if _, err := d.agent.launch(ctx, dir, "is connected", d.clientArgs(name)...); err != nil {
		return err
	}
	if err := d.measure(ctx); err != nil {
		return err
	}
	if err := d.agent.show(ctx); err != nil {
		return err
	}
	for _, args := range [][]string{{"get", "vwires"}, {"vppctl", "--", "show interface"}} {
		if err := d.far.print(ctx, args...); err != nil {
			return err
		}
	}
	fmt.Fprintln(d.Out)
	if err := d.takeBack(ctx, before); err != nil {
		return err
	}
	for _, n := range []node{d.agent, d.far} {
		list, err := n.vwires(ctx)
		if err != nil {
			return err
		}
		if len(list) > 0 {
			return fmt.Errorf("%d vWires are left on %s", len(list), n.name)
		}
	}
	// Close returns once no packet passes; interfaces that are slow to remove go soon after.
	ctx, cancel := context.WithTimeout(ctx, goneWithin)
	defer cancel()
	for {
		err := errors.Join(onlyLoopback("client", d.client), onlyLoopback("endpoint", d.endpoint))
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
	d.say("closed: no vWire is left on either node")
	return nil
}

// goneWithin is how long interfaces may take to go after the vWire.
const goneWithin = 10 * time.Second
