package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"highwire/cmd/lab"
)

// watched is a vWire over two nodes that is pinged all the time while things go wrong.
type watched struct {
	payload  string
	client   *program
	from, to *lab.Namespace

	mu sync.Mutex
	// answered is when the last echo was sent that was answered; gap is the longest time between two such since it was reset.
	answered time.Time
	gap      time.Duration
	news     chan struct{} // closed with every answer
}

// peer is the endpoint's address, as the client was told last: one that has to be made anew may have other addresses.
func (w *watched) peer() netip.Addr {
	text, _ := w.client.text()
	all := connectedTo.FindAllStringSubmatch(text, -1)
	return netip.MustParseAddr(all[len(all)-1][1])
}

var connectedTo = regexp.MustCompile(`connected kernel://.*, peer ([0-9.]+)/`)

// ping pings until ctx ends, about twenty times a second.
func (w *watched) ping(ctx context.Context) {
	for ctx.Err() == nil {
		sent := time.Now()
		once, cancel := context.WithTimeout(ctx, 250*time.Millisecond)
		e, _ := w.from.Ping(once, w.peer(), 1)
		cancel()
		if e.Received > 0 {
			w.mu.Lock()
			w.gap = max(w.gap, sent.Sub(w.answered))
			w.answered = sent
			close(w.news)
			w.news = make(chan struct{})
			w.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// since waits until an echo sent after t is answered, and tells the longest gap so far.
func (w *watched) since(t *testing.T, fault string, after time.Time) time.Duration {
	t.Helper()
	late := time.After(2 * within)
	for {
		w.mu.Lock()
		answered, gap, news := w.answered, w.gap, w.news
		w.mu.Unlock()
		if answered.After(after) {
			return gap
		}
		select {
		case <-news:
		case <-late:
			t.Fatalf("%s, %s: no packet passes after %s", fault, w.payload, time.Since(after).Round(time.Second))
		}
	}
}

// faults is two nodes with a vWire of each payload between them.
type faults struct {
	*twoNodes
	wires []*watched
}

func newFaults(t *testing.T, exe, vpp string) *faults {
	f := &faults{twoNodes: newTwoNodes(t, exe, 0, "--vpp", vpp)}
	for _, payload := range []string{"ETHERNET", "IP"} {
		w := &watched{payload: payload, from: space(t), to: space(t), news: make(chan struct{})}
		f.far.joinIn(w.to, "endpoint", "--name", "nse-"+payload, "--service", "web-"+payload, "--payload", payload, "--cidr", "172.16.1.0/24").
			await("registered ")
		w.client = f.near.joinIn(w.from, "client", "--name", "nsc-"+payload, "kernel://web-"+payload+"/nsm-1")
		w.client.await("connected ")
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); w.ping(ctx) }()
		t.Cleanup(func() { stop(); <-done })
		w.since(t, "start", time.Now())
		f.wires = append(f.wires, w)
	}
	return f
}

// happens lets a fault happen, and logs for how long no packet passed because of it.
func (f *faults) happens(t *testing.T, fault string, do func()) {
	t.Helper()
	for _, w := range f.wires {
		w.mu.Lock()
		w.gap = 0
		w.mu.Unlock()
	}
	do()
	over := time.Now()
	for _, w := range f.wires {
		t.Logf("%s, %s: no packet passed for %s", fault, w.payload, w.since(t, fault, over).Round(10*time.Millisecond))
	}
}

// Whatever happens to the far node or the way to it, vWires come back by themselves.
func TestRemoteFaults(t *testing.T) {
	exe := binary(t)
	onVPPs(t, func(t *testing.T, vpp string) {
		f := newFaults(t, exe, vpp)
		far, near := farAddrs[0].Addr(), nearAddrs[0].Addr()

		f.link.Set(lab.Condition{Loss: 0.05, Delay: 5 * time.Millisecond})
		for _, w := range f.wires {
			flow, err := lab.Stream(t.Context(), w.from, w.to, w.peer(), time.Second)
			if err != nil {
				t.Errorf("5 %% of packets lost, 10 ms round trip, %s: %v", w.payload, err)
			}
			t.Logf("5 %% of packets lost, 10 ms round trip, %s: TCP %s", w.payload, flow)
		}
		f.link.Set(lab.Condition{})

		cut := 2 * time.Second
		if vpp == spawn {
			cut = 30 * time.Second
		}
		f.happens(t, "link cut for "+cut.String(), func() {
			f.link.Set(lab.Condition{Cut: true})
			time.Sleep(cut) // the fault itself
			f.link.Set(lab.Condition{})
		})
		f.happens(t, "far agent killed and started again", func() {
			f.far.agent.end(syscall.SIGKILL)
			f.serveFar(far, near)
		})
		if vpp == spawn {
			f.happens(t, "far VPP killed", func() { kill(t, f.far.path("data")) })
		}
		f.happens(t, "far node has another address", func() {
			f.far.agent.end(syscall.SIGTERM)
			moved := netip.MustParsePrefix("198.18.0.3/24")
			readdress(t, f.far.space, farAddrs[0], moved)
			f.serveFar(moved.Addr(), near)
		})

		for side, node := range map[string]*node{"near": f.near, "far": f.far} {
			up := 0
			for _, v := range node.vwires() {
				if v.State == "up" {
					up++
				}
			}
			if up != len(f.wires) {
				t.Errorf("%s node: %+v; want %d up", side, node.vwires(), len(f.wires))
			}
		}
	})
}

// kill ends the VPP with its files in dir by force and returns when it is gone. It need not be the agent's child: an agent takes
// over the VPP of one that was killed.
func kill(t *testing.T, dir string) {
	t.Helper()
	pid, err := processIn(dir)
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(within); ; {
		if now, err := processIn(dir); err != nil || now != pid {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not end", pid)
		}
		time.Sleep(time.Millisecond)
	}
}

// processIn finds the VPP whose configuration is below dir.
func processIn(dir string) (int, error) {
	list, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, file := range list {
		text, err := os.ReadFile(file)
		args := strings.Split(string(text), "\x00")
		if err != nil || filepath.Base(args[0]) != "vpp" || !strings.Contains(string(text), "\x00"+dir) {
			continue // a process that has ended, or another one
		}
		var pid int
		if _, err := fmt.Sscanf(file, "/proc/%d/", &pid); err == nil {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("there is no VPP with its files in %s", dir)
}

// readdress gives the node another address in place of its old one.
func readdress(t *testing.T, space *lab.Namespace, old, new netip.Prefix) {
	t.Helper()
	err := space.Do(func() error {
		link, err := netlink.LinkByName("wire0")
		if err != nil {
			return err
		}
		for _, change := range []struct {
			addr netip.Prefix
			fn   func(netlink.Link, *netlink.Addr) error
		}{{new, netlink.AddrAdd}, {old, netlink.AddrDel}, {new, netlink.AddrReplace}} {
			a, err := netlink.ParseAddr(change.addr.String())
			if err != nil {
				return err
			}
			if err := change.fn(link, a); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
