package forwarder

import (
	"fmt"
	"strings"
	"testing"

	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// TestBuffersFor: a wire whose rings would take the buffers of packets under way is refused with numbers, and others are not.
func TestBuffersFor(t *testing.T) {
	t.Parallel()
	wireOf := func(id string, objects ...vppapi.Object) *wire {
		w := &wire{v: VWire{ID: id}, objects: make(map[vppapi.Key]vppapi.Object)}
		for _, o := range objects {
			w.objects[o.Key()] = o
		}
		return w
	}
	tap := func(id string) *wire {
		return wireOf(id, vppapi.Tap{Name: id + ":client"}, vppapi.Tap{Name: id + ":endpoint"})
	}
	r := &Reconciler{buffers: 8192, desired: make(map[string]*wire)} // of which rings may hold 6144: three pairs of taps
	for i := range 3 {
		w := tap(fmt.Sprint("t", i))
		if err := r.buffersFor(w); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		r.desired[w.v.ID] = w
	}
	err := r.buffersFor(tap("t3"))
	if !fault.Is(err, fault.Exhausted) || !strings.Contains(err.Error(), "8192") || !strings.Contains(err.Error(), "6144") || !strings.Contains(err.Error(), "2048") {
		t.Errorf("one too many: %v", err)
	}
	if err := r.buffersFor(tap("t2")); err != nil {
		t.Errorf("a new version of one that is there: %v", err)
	}
	if err := r.buffersFor(wireOf("m", vppapi.Memif{Name: "m:client", Master: true, RingSize: 1024, Queues: 1})); err != nil {
		t.Errorf("one that takes none: %v", err)
	}
	r.buffers = 0
	if err := r.buffersFor(tap("t3")); err != nil {
		t.Errorf("a VPP that does not tell: %v", err)
	}
}
