package forwarder_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"highwire/cmd/lab"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
)

// pair is two namespaces that a vWire is to join.
type pair struct {
	client, endpoint *lab.Namespace
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{}
	for _, n := range []**lab.Namespace{&p.client, &p.endpoint} {
		ns, err := lab.New()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ns.Close() })
		*n = ns
	}
	return p
}

func inode(t *testing.T, n *lab.Namespace) string {
	t.Helper()
	st, err := os.Stat(n.Path())
	if err != nil {
		t.Fatal(err)
	}
	s := st.Sys().(*syscall.Stat_t)
	return mechanisms.Inode{Dev: s.Dev, Ino: s.Ino}.String()
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// families of the contract: addresses of the client and of the endpoint.
var families = map[string][2][]netip.Prefix{
	"ip4":  {prefixes("172.16.1.3/32"), prefixes("172.16.1.2/32")},
	"ip6":  {prefixes("2001:db8::3/128"), prefixes("2001:db8::2/128")},
	"dual": {prefixes("172.16.1.3/32", "2001:db8::3/128"), prefixes("172.16.1.2/32", "2001:db8::2/128")},
}

// kernelVWire joins the pair by kernel interfaces.
func kernelVWire(t *testing.T, id string, p *pair, payload mechanisms.Payload, addresses [2][]netip.Prefix) forwarder.VWire {
	end := func(side mechanisms.Side, n *lab.Namespace, own, remote []netip.Prefix) mechanisms.End {
		e := mechanisms.End{
			VWire: id, Side: side, Type: mechanisms.Kernel, Payload: payload, Addresses: own, Remote: remote,
			Params: map[string]string{mechanisms.ParamInode: inode(t, n), mechanisms.ParamName: "nsm-1"},
		}
		for _, r := range remote {
			e.Routes = append(e.Routes, mechanisms.Route{Prefix: r})
		}
		return e
	}
	return forwarder.VWire{
		ID: id, Client: end(mechanisms.Client, p.client, addresses[0], addresses[1]),
		Endpoint: end(mechanisms.Endpoint, p.endpoint, addresses[1], addresses[0]),
	}
}

// reaches pings every address of the endpoint until each has answered; a wire may be busy learning its neighbours at first.
func (p *pair) reaches(ctx context.Context, t *testing.T, to []netip.Prefix) {
	t.Helper()
	for _, dst := range to {
		var echoes lab.Echoes
		var err error
		for range 5 {
			if echoes, err = p.client.Ping(ctx, dst.Addr(), 3); err != nil || echoes.Received == 3 {
				break
			}
		}
		if err != nil || echoes.Received == 0 {
			t.Errorf("ping %s: %v, %v", dst.Addr(), echoes, err)
		}
	}
}

// TestContract is the contract of a dataplane: a vWire of each payload and family is made, carries packets, and goes
// without leaving anything.
func TestContract(t *testing.T) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		ctx := within(t, 2*time.Minute)
		d.start(t)
		a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
		for _, payload := range []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP} {
			for family, addresses := range families {
				t.Run(fmt.Sprintf("kernel-kernel-%s-%s", payload, family), func(t *testing.T) {
					p := newPair(t)
					v := kernelVWire(t, fmt.Sprintf("%s-%s", payload, family), p, payload, addresses)
					begun := time.Now()
					release := a.hold(t, p)
					err := a.Set(ctx, v)
					release()
					if err != nil {
						t.Fatal(err)
					}
					t.Log("set took", time.Since(begun))
					p.reaches(ctx, t, addresses[1])
					if flow, err := lab.Stream(ctx, p.client, p.endpoint, addresses[1][0].Addr(), 300*time.Millisecond); err != nil || flow.Bytes == 0 {
						t.Errorf("stream: %v, %v", flow, err)
					} else {
						t.Log("stream", flow)
					}
					a.explain(ctx, t)
					if err := a.Delete(ctx, v.ID); err != nil {
						t.Error(err)
					}
					p.gone(t)
					a.nothingLeft(ctx, t)
				})
			}
		}
	})
}

// TestDirectKernel: two kernel ends joined by one veth pair carry packets though VPP holds nothing of them and dies.
func TestDirectKernel(t *testing.T) {
	ctx := within(t, time.Minute)
	d := pocket(t, kernel.Veth, nil)
	d.direct = true
	kill := d.start(t)
	journal := filepath.Join(t.TempDir(), "journal")
	a := d.agent(t, journal, 0)
	for _, payload := range []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP} {
		id := "direct-" + string(payload)
		p, v := a.set(t, id, payload)
		p.reaches(ctx, t, families["dual"][1])
		c, err := a.VPP()
		if err != nil {
			t.Fatal(err)
		}
		if have, err := c.Dump(ctx); err != nil || len(have) != 0 {
			t.Errorf("VPP holds %v, %v", have.Keys(), err)
		}
		kill()
		p.reaches(ctx, t, families["dual"][1])
		kill = d.start(t)
		a.awaitAfter(t, c, 1, forwarder.Up)
		if err := a.Delete(ctx, v.ID); err != nil {
			t.Error(err)
		}
		p.gone(t)
		a.nothingLeft(ctx, t)
	}
}

// gone waits until the pair's namespaces have their loopback only.
func (p *pair) gone(t *testing.T) {
	t.Helper()
	emptied(t, func() (left []string, err error) {
		for _, n := range []*lab.Namespace{p.client, p.endpoint} {
			err = errors.Join(err, n.Do(func() error {
				links, err := netlink.LinkList()
				for _, l := range links {
					if l.Attrs().Name != "lo" {
						left = append(left, "in a peer's namespace: "+l.Attrs().Name)
					}
				}
				return err
			}))
		}
		return left, err
	})
}
