package forwarder_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/vppapi/fault"
)

// TestManyKernel: fifty kernel vWires with traffic on all of them, more than af_packet stands in interrupt mode, and VPP
// answers all the time; it answers again, with all of them, after its death.
func TestManyKernel(t *testing.T) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		count := 50
		if testing.Short() {
			count = 10
		}
		ctx := within(t, 3*time.Minute)
		kill := d.start(t)
		a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
		pairs := make([]*pair, count)
		begun := time.Now()
		var all sync.WaitGroup
		for i := range pairs {
			pairs[i] = newPair(t)
			all.Go(func() {
				defer a.hold(t, pairs[i])()
				payload := []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP}[i%2]
				if err := a.Set(ctx, kernelVWire(t, fmt.Sprintf("many-%d", i), pairs[i], payload, families["ip4"])); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		t.Logf("%d vWires at once after %v", count, time.Since(begun))
		if t.Failed() {
			return
		}
		ping := func() {
			for i := range pairs {
				all.Go(func() { pairs[i].reaches(ctx, t, families["ip4"][1]) })
			}
			slowest := time.Duration(0)
			done := make(chan struct{})
			go func() { all.Wait(); close(done) }()
			for busy := true; busy; {
				c, err := a.VPP()
				if err != nil {
					t.Fatal(err)
				}
				begun := time.Now()
				if _, err := c.CLI(ctx, "show version"); err != nil {
					t.Fatal(err)
				}
				slowest = max(slowest, time.Since(begun))
				select {
				case <-done:
					busy = false
				default:
				}
			}
			t.Log("slowest answer under traffic:", slowest)
		}
		ping()
		old, err := a.VPP()
		if err != nil {
			t.Fatal(err)
		}
		if d.name == "VPP" {
			if err := syscall.Kill(old.PID(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		} else {
			kill()
			d.start(t)
		}
		<-old.Done()
		begun = time.Now()
		a.awaitAfter(t, old, count, forwarder.Up)
		t.Logf("%d vWires up again after %v", count, time.Since(begun))
		ping()
		begun = time.Now()
		for i := range pairs {
			all.Go(func() {
				if err := a.Delete(ctx, fmt.Sprintf("many-%d", i)); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		t.Logf("%d vWires removed after %v", count, time.Since(begun))
		a.nothingLeft(ctx, t)
	})
}

// TestAFPacketLimit: one interface more than the limit is refused with the way out.
func TestAFPacketLimit(t *testing.T) {
	d := pocket(t, kernel.Veth, nil)
	d.limit = 3
	d.start(t)
	a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
	a.set(t, "limit-1", mechanisms.IP)
	p := newPair(t)
	defer a.hold(t, p)()
	err := a.Set(within(t, time.Minute), kernelVWire(t, "limit-2", p, mechanisms.IP, families["ip4"]))
	if !fault.Is(err, fault.Exhausted) || !strings.Contains(err.Error(), "/dev/vhost-net is missing") {
		t.Errorf("got %v, want it exhausted and to name what is missing", err)
	}
	if err := a.Delete(within(t, time.Minute), "limit-1"); err != nil {
		t.Error(err)
	}
	if err := a.Set(within(t, time.Minute), kernelVWire(t, "limit-2", p, mechanisms.IP, families["ip4"])); err != nil {
		t.Error("after room was made:", err)
	}
	if err := a.Delete(within(t, time.Minute), "limit-2"); err != nil {
		t.Error(err)
	}
}
