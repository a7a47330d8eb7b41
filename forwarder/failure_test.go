package forwarder_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
)

// changing tells messages that change something in VPP.
func changing(message string) bool {
	for _, s := range []string{"dump", "ping", "show"} {
		if strings.Contains(message, s) {
			return false
		}
	}
	return !strings.HasPrefix(message, "want") && !strings.HasPrefix(message, "cli") && !strings.HasPrefix(message, "sockclnt")
}

// failureKinds are the ways to join two ends through VPP.
func failureKinds() map[string][2]string {
	kinds := map[string][2]string{"kernel-kernel": {mechanisms.Kernel, mechanisms.Kernel}}
	for name, k := range memifKinds {
		kinds[name] = k
	}
	return kinds
}

// TestFailures: every message that a Set sends fails once; each time the caller is told and nothing is left.
func TestFailures(t *testing.T) {
	for _, b := range []kernel.Backing{kernel.Veth, kernel.Tap} {
		for name, kinds := range failureKinds() {
			for _, payload := range []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP} {
				if b == kernel.Tap && name == "memif-memif" {
					continue // no kernel interface in it
				}
				t.Run(fmt.Sprintf("%s-%s-%s", b, name, payload), func(t *testing.T) {
					if _, err := os.Stat("/dev/net/tun"); err != nil && b == kernel.Tap {
						t.Skip("no /dev/net/tun on this machine:", err)
					}
					failures(t, b, kinds, payload)
				})
			}
		}
	}
}

func failures(t *testing.T, b kernel.Backing, kinds [2]string, payload mechanisms.Payload) {
	ctx := within(t, time.Minute)
	var failing, seen atomic.Int64 // the how manieth changing message fails, 0 none
	d := pocket(t, b, func(name string) (int32, bool) {
		if changing(name) && seen.Add(1) == failing.Load() {
			return -1, false
		}
		return 0, false
	})
	d.start(t)
	a := d.agent(t, filepath.Join(t.TempDir(), "journal"), time.Nanosecond)
	p := newPair(t)
	v := memifVWire(t, "failing", p, kinds, payload, families["dual"])
	far, _ := occupy(t, v.Endpoint, p.endpoint)
	near, probe := occupy(t, v.Client, p.client)
	release := a.hold(t, p)
	var last error
	for n := int64(1); ; n++ {
		if n > 100 {
			t.Fatalf("a vWire takes over 100 messages: %v", last)
		}
		seen.Store(0)
		failing.Store(n)
		err := a.Set(ctx, v)
		last = err
		failing.Store(0)
		if err == nil {
			if n < 6 {
				t.Errorf("only %d messages were made to fail", n-1)
			}
			break
		}
		if !strings.Contains(err.Error(), "VPP refused") {
			t.Errorf("message %d: %v", n, err)
		}
		if list := a.List(); len(list) != 0 {
			t.Errorf("message %d failed and the vWire is %s", n, list[0].State)
		}
	}
	awaitLink(t, near, far)
	reachable(ctx, t, probe, families["dual"][1])
	if err := a.Delete(ctx, v.ID); err != nil {
		t.Error(err)
	}
	release()
	a.nothingLeft(ctx, t)
}

// TestTimeouts: every message that a Set sends stays unanswered once. Nobody knows then what VPP has done, so the session ends, and
// the next one finds out: the Set succeeds in the end, and a Delete leaves nothing.
func TestTimeouts(t *testing.T) {
	if testing.Short() {
		t.Skip("each message takes some seconds to time out")
	}
	t.Parallel()
	for name, kinds := range map[string][2]string{"kernel": {mechanisms.Kernel, mechanisms.Kernel}, "memif": {mechanisms.Memif, mechanisms.Memif}} {
		for n := int64(1); n <= 12; n++ {
			t.Run(fmt.Sprintf("%s-%d", name, n), func(t *testing.T) {
				t.Parallel()
				ctx := within(t, 2*time.Minute)
				var seen atomic.Int64
				d := pocket(t, kernel.Veth, func(name string) (int32, bool) { return 0, changing(name) && seen.Add(1) == n })
				d.start(t)
				a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
				p := newPair(t)
				v := memifVWire(t, fmt.Sprintf("silent-%s-%d", name, n), p, kinds, mechanisms.Ethernet, families["ip4"])
				far, _ := occupy(t, v.Endpoint, p.endpoint)
				near, probe := occupy(t, v.Client, p.client)
				release := a.hold(t, p)
				if err := a.Set(ctx, v); err != nil {
					t.Fatal(err)
				}
				seen.Store(100) // no more
				if s := a.List(); len(s) != 1 || s[0].State != forwarder.Up {
					t.Errorf("%+v", s)
				}
				awaitLink(t, near, far)
				reachable(ctx, t, probe, families["ip4"][1])
				if err := a.Delete(ctx, v.ID); err != nil {
					t.Error(err)
				}
				release()
				a.nothingLeftOf(ctx, t, v.ID+":")
			})
		}
	}
}

// TestDirectFailures: a direct path takes no message to VPP, so none can fail; when the kernel refuses one of its ends, nothing is
// left of the other.
func TestDirectFailures(t *testing.T) {
	ctx := within(t, time.Minute)
	d := pocket(t, kernel.Veth, func(name string) (int32, bool) {
		if changing(name) {
			return -1, false
		}
		return 0, false
	})
	d.direct, d.memifDirect = true, true
	d.start(t)
	a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
	for name, c := range map[string]struct {
		kind string
		// obstruct stands in the way of one end until it is called back.
		obstruct func(t *testing.T, v forwarder.VWire, p *pair) (clear func())
	}{
		"kernel": {mechanisms.Kernel, func(t *testing.T, v forwarder.VWire, p *pair) func() {
			obstacle := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: v.Endpoint.Params[mechanisms.ParamName]}, PeerName: "its-peer"}
			if err := p.endpoint.Do(func() error { return netlink.LinkAdd(obstacle) }); err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := p.endpoint.Do(func() error { return netlink.LinkDel(obstacle) }); err != nil {
					t.Fatal(err)
				}
			}
		}},
		"memif": {mechanisms.Memif, func(t *testing.T, v forwarder.VWire, p *pair) func() {
			var l net.Listener
			if err := p.client.Do(func() (err error) {
				l, err = net.ListenUnix("unixpacket", &net.UnixAddr{Name: v.Client.Params[mechanisms.ParamSocket], Net: "unixpacket"})
				return err
			}); err != nil {
				t.Fatal(err)
			}
			return func() { _ = l.Close() }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			v := memifVWire(t, "direct-"+name, p, [2]string{c.kind, c.kind}, mechanisms.Ethernet, families["ip4"])
			clear := c.obstruct(t, v, p)
			release := a.hold(t, p)
			defer release()
			if err := a.Set(ctx, v); err == nil {
				t.Error("made in spite of what stands in the way")
			}
			if list := a.List(); len(list) != 0 {
				t.Errorf("it is %s still", list[0].State)
			}
			clear()
			p.gone(t)
			far, _ := occupy(t, v.Endpoint, p.endpoint)
			if err := a.Set(ctx, v); err != nil {
				t.Fatal(err)
			}
			near, probe := occupy(t, v.Client, p.client)
			awaitLink(t, near, far)
			reachable(ctx, t, probe, families["ip4"][1])
			if err := a.Delete(ctx, v.ID); err != nil {
				t.Error(err)
			}
			p.gone(t)
		})
	}
	a.nothingLeft(ctx, t)
}
