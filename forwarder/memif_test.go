package forwarder_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"highwire/cmd/lab"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/mechanisms/memif/peer"
	"highwire/vppapi"
	"highwire/vppapi/fault"
	"highwire/vppapi/memif"
)

// memifEnd turns an end into a memif on an abstract socket in the namespace.
func memifEnd(t *testing.T, e mechanisms.End) mechanisms.End {
	t.Helper()
	e.Type, e.Routes = mechanisms.Memif, nil
	e.Params = map[string]string{mechanisms.ParamInode: e.Params[mechanisms.ParamInode], mechanisms.ParamSocket: fmt.Sprintf("@%s/%s.sock", e.VWire, e.Side)}
	return e
}

// memifVWire joins the pair by the mechanisms of the client's and of the endpoint's side.
func memifVWire(t *testing.T, id string, p *pair, kinds [2]string, payload mechanisms.Payload, addresses [2][]netip.Prefix) forwarder.VWire {
	v := kernelVWire(t, id, p, payload, addresses)
	if kinds[0] == mechanisms.Memif {
		v.Client = memifEnd(t, v.Client)
	}
	if kinds[1] == mechanisms.Memif {
		v.Endpoint = memifEnd(t, v.Endpoint)
	}
	return v
}

// application is the settings of a memif end's application, which takes the role that VPP has not.
func application(e mechanisms.End, n *lab.Namespace) peer.Config {
	return peer.Config{
		Address: memif.Address{Name: e.Params[mechanisms.ParamSocket], Netns: n.Path()}, Master: e.Side == mechanisms.Endpoint,
		L3: e.Payload == mechanisms.IP, Addresses: e.Addresses,
	}
}

// prober is what sends echo requests from one end.
type prober func(ctx context.Context, dst netip.Addr, count int) (received int, err error)

// occupy starts an application at an end that is a memif, until the test ends; a kernel end has one already.
func occupy(t *testing.T, e mechanisms.End, n *lab.Namespace) (*peer.Peer, prober) {
	t.Helper()
	if e.Type == mechanisms.Kernel {
		return nil, func(ctx context.Context, dst netip.Addr, count int) (int, error) {
			echoes, err := n.Ping(ctx, dst, count)
			return echoes.Received, err
		}
	}
	cfg := application(e, n)
	cfg.Log = testLog(t)
	p, err := peer.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	running(t, p.Run)
	return p, func(ctx context.Context, dst netip.Addr, count int) (int, error) {
		echoes, err := p.Ping(ctx, dst, count, 0)
		if fault.Is(err, fault.Unavailable) {
			err = nil // nobody has answered
		}
		return echoes.Received, err
	}
}

// awaitLink waits until VPP is at the other end of the socket.
func awaitLink(t *testing.T, peers ...*peer.Peer) {
	t.Helper()
	for _, p := range peers {
		if p == nil {
			continue
		}
		if err := p.Await(within(t, 20*time.Second), true); err != nil {
			t.Fatal("VPP has not connected:", err)
		}
	}
}

// reachable probes each address until three of three are answered, or too often.
func reachable(ctx context.Context, t *testing.T, from prober, to []netip.Prefix) {
	t.Helper()
	for _, dst := range to {
		received, err := 0, error(nil)
		for range 5 {
			if received, err = from(ctx, dst.Addr(), 3); err != nil || received == 3 {
				break
			}
		}
		if err != nil || received != 3 {
			t.Errorf("ping %s: %d of 3, %v", dst.Addr(), received, err)
		}
	}
}

var memifKinds = map[string][2]string{
	"memif-memif":  {mechanisms.Memif, mechanisms.Memif},
	"kernel-memif": {mechanisms.Kernel, mechanisms.Memif},
	"memif-kernel": {mechanisms.Memif, mechanisms.Kernel},
}

// TestMemifContract: vWires with memif at one end or both carry packets both ways and go without leaving anything.
func TestMemifContract(t *testing.T) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		ctx := within(t, 3*time.Minute)
		d.start(t)
		a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
		for kind, kinds := range memifKinds {
			for _, payload := range []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP} {
				for family, addresses := range families {
					t.Run(fmt.Sprintf("%s-%s-%s", kind, payload, family), func(t *testing.T) {
						p := newPair(t)
						v := memifVWire(t, fmt.Sprintf("%s-%s", payload, family), p, kinds, payload, addresses)
						far, fromEndpoint := occupy(t, v.Endpoint, p.endpoint)
						begun := time.Now()
						release := a.hold(t, p)
						err := a.Set(ctx, v)
						release()
						if err != nil {
							t.Fatal(err)
						}
						t.Log("set took", time.Since(begun))
						near, fromClient := occupy(t, v.Client, p.client)
						awaitLink(t, near, far)
						reachable(ctx, t, fromClient, addresses[1])
						reachable(ctx, t, fromEndpoint, addresses[0])
						a.explain(ctx, t)
						if err := a.Delete(ctx, v.ID); err != nil {
							t.Error(err)
						}
						for _, app := range []*peer.Peer{near, far} {
							if app == nil {
								continue
							}
							if err := app.Await(within(t, 10*time.Second), false); err != nil {
								t.Error("VPP has not let go:", err)
							}
						}
						p.gone(t)
						a.nothingLeft(ctx, t)
					})
				}
			}
		}
	})
}

func (a *agent) setHeld(t *testing.T, p *pair, v forwarder.VWire) {
	t.Helper()
	defer a.hold(t, p)()
	if err := a.Set(within(t, time.Minute), v); err != nil {
		t.Fatal(err)
	}
}

// awaitMode waits until VPP itself says that it has queues of the end and waits for packets on them in that mode.
func (a *agent) awaitMode(t *testing.T, end string, want vppapi.Mode) {
	t.Helper()
	ctx := within(t, 10*time.Second)
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	key := vppapi.RxMode{Name: end}.Key()
	for {
		c, err := a.VPP()
		if err != nil {
			t.Fatal(err)
		}
		have, err := c.Dump(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if have[key].Object == (vppapi.RxMode{Name: end, Mode: want}) {
			return
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatalf("%s: %v, want %s", end, have[key].Object, want)
		}
	}
}

// peerSettings is the variable of the environment that makes the test binary an application on a memif.
const peerSettings = "HIGHWIRE_TEST_PEER"

func runPeer() {
	var cfg peer.Config
	if err := json.Unmarshal([]byte(os.Getenv(peerSettings)), &cfg); err != nil {
		panic(err)
	}
	p, err := peer.New(cfg)
	if err == nil {
		err = p.Run(context.Background())
	}
	panic(err)
}

// spawn starts an application as a process of its own.
func spawn(t *testing.T, e mechanisms.End, n *lab.Namespace) (kill func()) {
	t.Helper()
	settings, err := json.Marshal(application(e, n))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), peerSettings+"="+string(settings))
	cmd.Stderr = t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	kill = func() {
		if !killed {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			killed = true
		}
	}
	t.Cleanup(kill)
	return kill
}

// TestMemifPeerKilled: an application is killed and started again; traffic is back without a Set, VPP waits for it as it
// did before, and there is nothing more in VPP than there was.
func TestMemifPeerKilled(t *testing.T) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		ctx := within(t, 2*time.Minute)
		d.start(t)
		a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
		for _, side := range []mechanisms.Side{mechanisms.Client, mechanisms.Endpoint} {
			p := newPair(t)
			v := memifVWire(t, "killed-"+string(side), p, memifKinds["memif-memif"], mechanisms.Ethernet, families["ip4"])
			mortal, other, its, others := v.Client, v.Endpoint, p.client, p.endpoint
			if side == mechanisms.Endpoint {
				mortal, other, its, others = other, mortal, others, its
			}
			kill := spawn(t, mortal, its)
			app, probe := occupy(t, other, others)
			a.setHeld(t, p, v)
			awaitLink(t, app)
			a.awaitMode(t, mortal.Name(), vppapi.Adaptive)
			a.awaitMode(t, other.Name(), vppapi.Adaptive)
			reachable(ctx, t, probe, mortal.Addresses)
			c, err := a.VPP()
			if err != nil {
				t.Fatal(err)
			}
			before, err := c.Dump(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				kill()
				a.awaitMode(t, mortal.Name(), 0)
				begun := time.Now()
				kill = spawn(t, mortal, its)
				a.awaitMode(t, mortal.Name(), vppapi.Adaptive)
				reachable(ctx, t, probe, mortal.Addresses)
				t.Logf("%s back after %v", side, time.Since(begun))
			}
			after, err := c.Dump(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for k, e := range after {
				if before[k] != e {
					t.Errorf("%s: %v, was %v", k, e, before[k])
				}
			}
			if len(after) != len(before) {
				t.Errorf("%d objects, were %d", len(after), len(before))
			}
			kill()
			if err := a.Delete(ctx, v.ID); err != nil {
				t.Error(err)
			}
		}
		a.nothingLeft(ctx, t)
	})
}

// TestMemifAgentAndVPPRestart: a new agent adopts memifs as they are, packets never stop; a new VPP gets them anew.
func TestMemifAgentAndVPPRestart(t *testing.T) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		ctx := within(t, 2*time.Minute)
		kill := d.start(t)
		journal, pins := filepath.Join(t.TempDir(), "journal"), filepath.Join(t.TempDir(), "netns")
		agentWithPins := func() *agent {
			n, err := kernel.NewPinnedNamespaces(pins, "")
			if err != nil {
				t.Fatal(err)
			}
			return d.agentWith(t, journal, 0, n)
		}
		first := agentWithPins()
		p := newPair(t)
		v := memifVWire(t, "restart", p, memifKinds["memif-memif"], mechanisms.IP, families["dual"])
		near, fromClient := occupy(t, v.Client, p.client)
		far, _ := occupy(t, v.Endpoint, p.endpoint)
		releaseFirst := first.hold(t, p)
		if err := first.Set(ctx, v); err != nil {
			t.Fatal(err)
		}
		awaitLink(t, near, far)
		first.awaitMode(t, v.Client.Name(), vppapi.Adaptive)
		reachable(ctx, t, fromClient, families["dual"][1])
		lost, cancel := context.WithCancel(ctx)
		defer cancel()
		parted := make(chan error, 1)
		go func() { parted <- near.Await(lost, false) }()
		first.stop()

		second := agentWithPins()
		release := second.hold(t, p)
		second.await(t, 1, forwarder.Up)
		reachable(ctx, t, fromClient, families["dual"][1])
		c, err := second.VPP()
		if err != nil {
			t.Fatal(err)
		}
		// Greeting: version, events, workers, buffers. Dump: fourteen requests. Probes: one a second. Anything that changes VPP
		// would come on top.
		if n := c.Sent(); n > 20 {
			t.Errorf("adopting sent %d messages", n)
		}
		cancel()
		if err := <-parted; !errors.Is(err, context.Canceled) {
			t.Error("the agent's restart has interrupted the memif")
		}

		if d.name == "VPP" {
			if err := syscall.Kill(c.PID(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		} else {
			kill()
			d.start(t)
		}
		<-c.Done()
		begun := time.Now()
		second.awaitAfter(t, c, 1, forwarder.Up)
		awaitLink(t, near, far)
		second.awaitMode(t, v.Client.Name(), vppapi.Adaptive)
		second.awaitMode(t, v.Endpoint.Name(), vppapi.Adaptive)
		reachable(ctx, t, fromClient, families["dual"][1])
		t.Log("VPP's successor forwards after", time.Since(begun))
		if err := second.Delete(ctx, v.ID); err != nil {
			t.Error(err)
		}
		release()
		second.nothingLeft(ctx, t)
		releaseFirst()
	})
}

// TestMemifFaults: what cannot be built is refused with its reason, and the vWire beside it goes on.
func TestMemifFaults(t *testing.T) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		if d.backing != kernel.Veth {
			t.Skip("no kernel interfaces here")
		}
		ctx := within(t, time.Minute)
		d.start(t)
		a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
		p := newPair(t)
		good := memifVWire(t, "good", p, memifKinds["memif-memif"], mechanisms.Ethernet, families["ip4"])
		far, _ := occupy(t, good.Endpoint, p.endpoint)
		near, probe := occupy(t, good.Client, p.client)
		a.setHeld(t, p, good)
		awaitLink(t, near, far)

		taken, err := memif.Listen(memif.Address{Name: "@taken", Netns: p.client.Path()})
		if err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			socket, inode string
			kind          fault.Kind
			says          string
		}{
			"dots":      {"@../x", "", fault.Invalid, `".."`},
			"long":      {"@" + strings.Repeat("x", 107), "", fault.Invalid, "at most 107"},
			"comma":     {"@x,netns_name=/proc/1/ns/net", "", fault.Invalid, "comma"},
			"colon":     {"@a:b", "", fault.Invalid, "VPP reads letters"},
			"file":      {"/tmp/memif.sock", "", fault.Invalid, "abstract"},
			"namespace": {"@x", "inode://4/1", fault.NotFound, "is gone"},
			"taken":     {"@taken", "", fault.Conflict, "VPP cannot listen"},
		} {
			t.Run(name, func(t *testing.T) {
				v := memifVWire(t, "bad", p, memifKinds["memif-memif"], mechanisms.Ethernet, families["ip4"])
				v.Client.Params[mechanisms.ParamSocket] = c.socket
				if c.inode != "" {
					v.Client.Params[mechanisms.ParamInode] = c.inode
				}
				defer a.hold(t, p)()
				for range 3 { // the same again: VPP must not have been led astray
					err := a.Set(ctx, v)
					if fault.KindOf(err) != c.kind || err == nil || !strings.Contains(err.Error(), c.says) {
						t.Errorf("got %v (%v), want %v with %q", err, fault.KindOf(err), c.kind, c.says)
					}
				}
			})
		}
		// The name is free again, and VPP really listens there.
		taken.Close()
		q := newPair(t)
		v := memifVWire(t, "bad", p, memifKinds["memif-memif"], mechanisms.Ethernet, families["ip4"])
		v.Client.Params[mechanisms.ParamSocket] = "@taken"
		v.Endpoint.Params[mechanisms.ParamInode] = inode(t, q.endpoint)
		again, probeAgain := occupy(t, v.Client, p.client)
		other, _ := occupy(t, v.Endpoint, q.endpoint)
		release := a.hold(t, q)
		a.setHeld(t, p, v)
		release()
		awaitLink(t, again, other)
		reachable(ctx, t, probeAgain, families["ip4"][1])
		reachable(ctx, t, probe, families["ip4"][1])
		for _, id := range []string{"good", "bad"} {
			if err := a.Delete(ctx, id); err != nil {
				t.Error(err)
			}
		}
		a.nothingLeft(ctx, t)
	})
}
