package vppapi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"highwire/vppapi/fault"
)

// hosted is an end of a test's wires on the kernel interface h<i>.
func hosted(end string, i int) []Object {
	return []Object{
		AFPacket{Name: end, Host: fmt.Sprint("h", i), MAC: HardwareAddr{2, 0, 0, 0, 0, byte(i)}},
		Tag{end}, MTU{end, 1400}, RxMode{end, Polling}, Up{end},
	}
}

// l2Wire and l3Wire are all that VPP holds of a wire; l3Wire's settings differ in nothing but hop.
func l2Wire() map[Key]Object {
	return objects(slices.Concat(hosted("w:client", 0), hosted("w:endpoint", 1),
		[]Object{L2XConnect{"w:client", "w:endpoint"}, L2XConnect{"w:endpoint", "w:client"}})...)
}

func l3Wire(hop string) map[Key]Object {
	return objects(slices.Concat(hosted("w:client", 0), hosted("w:endpoint", 1), []Object{
		L3XConnect{"w:client", "w:endpoint", addr(hop)}, L3XConnect{"w:endpoint", "w:client", addr("10.0.0.1")},
		L3XConnect{"w:client", "w:endpoint", addr("fd00::2")}, Neighbor{"w:endpoint", addr(hop), HardwareAddr{2, 2}},
	})...)
}

// converge is what the forwarder does with plans.
func converge(ctx context.Context, c *Conn, want map[Key]Object, have Realized) Errors {
	errs := Errors{}
	for range 3 {
		p := Diff(want, have)
		maps.Copy(errs, c.Apply(ctx, p, have))
		if !p.Again || len(errs) > 0 {
			break
		}
	}
	return errs
}

// changing are messages that change something in VPP.
func changing(name string) bool {
	for _, p := range []string{"sockclnt", "show", "want", "control_ping", "cli"} {
		if strings.HasPrefix(name, p) {
			return false
		}
	}
	return !strings.HasSuffix(name, "dump")
}

// recorder notes changing messages in order and drops one of them.
type recorder struct {
	mu    sync.Mutex
	names []string
	drop  string // the first message of that name is never answered
}

func (r *recorder) see(name string) (int32, bool) {
	if !changing(name) {
		return 0, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names = append(r.names, name)
	drop := name == r.drop
	if drop {
		r.drop = ""
	}
	return 0, drop
}

func (r *recorder) seen() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.names)
}

// TestApply makes a wire, finds it again by a dump, and takes it away.
func TestApply(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]map[Key]Object{"l2": l2Wire(), "l3": l3Wire("10.0.0.2")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := within(t, 20*time.Second)
			var r recorder
			p := newPocket(t, 2, r.see)
			c := p.dial(t)
			have := make(Realized)
			if errs := converge(ctx, c, want, have); len(errs) > 0 {
				t.Fatal(errs)
			}
			found, err := c.Dump(ctx)
			if err != nil {
				t.Fatal(err)
			}
			found.Adopt(want, nil)
			if !maps.Equal(found, have) {
				t.Errorf("dump\n%v\nrealized\n%v", found, have)
			}
			n := len(r.seen())
			if p := Diff(want, found); !p.Empty() {
				t.Errorf("still to do:\n%s", p)
			}
			if errs := converge(ctx, c, want, have); len(errs) > 0 || len(r.seen()) != n {
				t.Errorf("nothing to do took %d messages, %v", len(r.seen())-n, errs)
			}
			if errs := converge(ctx, c, nil, have); len(errs) > 0 || len(have) > 0 {
				t.Errorf("after removal: %v, %v", errs, have)
			}
			empty(ctx, t, c)
		})
	}
}

func empty(ctx context.Context, t *testing.T, c *Conn) {
	t.Helper()
	out, err := c.CLI(ctx, "show interface")
	if err != nil || strings.Contains(out, "host-") {
		t.Errorf("left in VPP: %v\n%s", err, out)
	}
	if out, err = c.CLI(ctx, "show l3xc"); err != nil || strings.Contains(out, "via") {
		t.Errorf("left in VPP: %v\n%s", err, out)
	}
}

// TestTwoFlushes: interfaces go out in one flush and everything on them in a second. Where the first answer of a flush
// never comes, the messages of that flush were sent all the same, and none of the next.
func TestTwoFlushes(t *testing.T) {
	t.Parallel()
	const creates = 2
	settings := len(l2Wire()) - creates + 2 // polling is set by way of interrupt mode
	for name, c := range map[string]struct {
		drop string
		sent int
	}{
		"first flush":  {"af_packet_create_v3", 1}, // the other one waits for its answer
		"second flush": {"sw_interface_tag_add_del", creates + settings},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := recorder{drop: c.drop}
			p := newPocket(t, 2, r.see)
			conn := p.dial(t)
			begun, have := time.Now(), make(Realized)
			errs := converge(within(t, 20*time.Second), conn, l2Wire(), have)
			if took := time.Since(begun); took > 8*time.Second {
				t.Errorf("took %v", took)
			}
			if got := r.seen(); len(got) != c.sent {
				t.Errorf("VPP received %q, want %d", got, c.sent)
			}
			// A lost answer is the end of the session: which of those that came belongs to which message is not known.
			if !fault.Is(conn.Err(), fault.Unavailable) || len(errs) == 0 {
				t.Errorf("session %v, errors %v", conn.Err(), errs)
			}
			<-conn.Done()
			// The next session finds what is there and completes it.
			ctx, next := within(t, 20*time.Second), p.dial(t)
			have, err := next.Dump(ctx)
			if err != nil {
				t.Fatal(err)
			}
			have.Adopt(l2Wire(), nil)
			if errs := converge(ctx, next, l2Wire(), have); len(errs) > 0 {
				t.Error(errs)
			}
			compare(ctx, t, next, have, nil)
		})
	}
}

// TestRealizedIsTrue: whichever message fails, what Apply then says of VPP is so, and both the way back and the next try succeed.
func TestRealizedIsTrue(t *testing.T) {
	t.Parallel()
	for name, stage := range map[string]struct {
		from, to map[Key]Object
		spare    string
	}{
		"create l2":    {nil, l2Wire(), ""},
		"create l3":    {nil, l3Wire("10.0.0.2"), ""},
		"remove l2":    {l2Wire(), nil, ""},
		"remove l3":    {l3Wire("10.0.0.2"), nil, ""},
		"change hop":   {l3Wire("10.0.0.2"), l3Wire("10.0.0.9"), ""},
		"l2 to l3":     {l2Wire(), l3Wire("10.0.0.2"), "l3xc_del"}, // that there is none yet is no failure
		"remove a leg": {l3Wire("10.0.0.2"), objects(hosted("w:client", 0)...), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := within(t, 30*time.Second)
			var failing, seen atomic.Int64
			p := newPocket(t, 2, func(name string) (int32, bool) {
				if changing(name) && name != stage.spare && seen.Add(1) == failing.Load() {
					return -1, false
				}
				return 0, false
			})
			c := p.dial(t)
			for n := int64(1); ; n++ {
				have := make(Realized)
				if errs := converge(ctx, c, stage.from, have); len(errs) > 0 {
					t.Fatal(errs)
				}
				seen.Store(0)
				failing.Store(n)
				errs := converge(ctx, c, stage.to, have)
				failing.Store(0)
				compare(ctx, t, c, have, errs)
				if len(errs) > 0 {
					if undo := converge(ctx, c, stage.from, have); len(undo) > 0 {
						t.Errorf("message %d: the way back: %v", n, undo)
					}
					compare(ctx, t, c, have, nil)
				}
				if again := converge(ctx, c, stage.to, have); len(again) > 0 {
					t.Errorf("message %d: not even the second time: %v", n, again)
				}
				compare(ctx, t, c, have, nil)
				if again := converge(ctx, c, nil, have); len(again) > 0 {
					t.Errorf("message %d: removal: %v", n, again)
				}
				empty(ctx, t, c)
				if t.Failed() {
					t.Fatalf("message %d failed with %v", n, errs)
				}
				if len(errs) == 0 {
					if seen := seen.Load(); n <= 1 || n <= seen-100 {
						t.Errorf("%d messages failed of %d", n-1, seen)
					}
					return
				}
				for k, err := range errs {
					if !strings.Contains(err.Error(), "VPP refused") {
						t.Errorf("message %d: %s: %v", n, k, err)
					}
				}
			}
		})
	}
}

// compare holds have to what VPP shows. Of objects in errs VPP may know more than have does.
func compare(ctx context.Context, t *testing.T, c *Conn, have Realized, errs Errors) {
	t.Helper()
	// A dump shows what carries our tag.
	var untagged Plan
	for _, k := range have.Keys() {
		if _, tagged := have[Key{KindTag, k.Name}]; k.Kind == KindInterface && !tagged {
			untagged.Create = append(untagged.Create, Tag{k.Name})
		}
	}
	if errs := c.Apply(ctx, untagged, have); len(errs) > 0 {
		t.Fatal(errs)
	}
	found, err := c.Dump(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range have.Keys() {
		h, f := have[k], found[k]
		if h != f {
			t.Errorf("%s: have %v, VPP has %v", k, h, f)
		}
	}
	for _, k := range found.Keys() {
		_, known := have[k]
		if _, failed := errs[k]; !known && !failed && k.Kind != KindSetting {
			t.Errorf("%s: VPP has %v, have nothing", k, found[k])
		}
	}
}

// kernel is an object of the kernel whose work fails as told.
type kernel struct {
	local
	err  error
	made *atomic.Int64
}

func (k kernel) Realize(context.Context) (bool, error) { k.made.Add(1); return k.err == nil, k.err }
func (k kernel) Release(context.Context) error         { return k.err }

// TestLocals: an error of a kernel object is told for it and for all that stand on it, and its fate is known.
func TestLocals(t *testing.T) {
	t.Parallel()
	ctx := within(t, 20*time.Second)
	c := newPocket(t, 1, nil).dial(t)
	broken := errors.New("no such luck")
	var made atomic.Int64
	good := func(key Key, uses, text string) Object { return kernel{local{key, uses, text}, nil, &made} }
	bad := func(key Key, uses, text string) Object { return kernel{local{key, uses, text}, broken, &made} }
	const end = "w:client"
	l, n := Key{KindLink, end}, Key{KindNetns, end}

	have := make(Realized)
	errs := c.Apply(ctx, Diff(objects(append(hosted(end, 0), bad(l, "", "a"), good(n, "link", "a"))...), have), have)
	if len(have) != 0 || made.Load() != 1 {
		t.Errorf("on a link that could not be made stand %v", have)
	}
	for _, k := range []Key{l, n, Interface(end), {KindUp, end}} {
		if !errors.Is(errs[k], broken) {
			t.Errorf("%s: %v", k, errs[k])
		}
	}

	want := objects(append(hosted(end, 0), good(l, "", "a"), good(n, "link", "a"))...)
	if errs := c.Apply(ctx, Diff(want, have), have); len(errs) > 0 || len(have) != len(want) {
		t.Fatal(errs, have)
	}
	// A change that fails half-way leaves something of which only one thing is sure: it has to be made again.
	worse := maps.Clone(want)
	worse[n] = bad(n, "link", "b")
	if errs := c.Apply(ctx, Diff(worse, have), have); !errors.Is(errs[n], broken) {
		t.Error(errs)
	}
	before := made.Load()
	if errs := c.Apply(ctx, Diff(want, have), have); len(errs) > 0 || made.Load() != before+1 {
		t.Errorf("back to the former state: %v, %d realized", errs, made.Load()-before)
	}
}

// TestLinkStays: the link under a VPP interface that could not be removed is left alone.
func TestLinkStays(t *testing.T) {
	t.Parallel()
	ctx := within(t, 20*time.Second)
	var refuse atomic.Bool
	c := newPocket(t, 1, func(name string) (int32, bool) {
		if refuse.Load() && name == "af_packet_delete" {
			return -1, false
		}
		return 0, false
	}).dial(t)
	const end = "w:client"
	have := make(Realized)
	want := objects(append(hosted(end, 0), link(end, "veth"))...)
	if errs := converge(ctx, c, want, have); len(errs) > 0 {
		t.Fatal(errs)
	}
	refuse.Store(true)
	if errs := converge(ctx, c, nil, have); len(errs) == 0 {
		t.Error("no error")
	}
	if _, ok := have[Key{KindLink, end}]; !ok {
		t.Error("the link is gone under a living af_packet interface")
	}
	refuse.Store(false)
	if errs := converge(ctx, c, nil, have); len(errs) > 0 || len(have) > 0 {
		t.Errorf("left: %v, %v", have, errs)
	}
}

// TestIdempotent: to make what is there and to remove what is gone, behind the back of this session, are no errors.
func TestIdempotent(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]map[Key]Object{"l2": l2Wire(), "l3": l3Wire("10.0.0.2")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := within(t, 20*time.Second)
			p := newPocket(t, 2, nil)
			var have [2]Realized
			for i, c := range []*Conn{p.dial(t), p.dial(t)} {
				have[i] = make(Realized)
				if errs := converge(ctx, c, want, have[i]); len(errs) > 0 {
					t.Errorf("made by session %d: %v", i, errs)
				}
			}
			if !maps.Equal(have[0], have[1]) {
				t.Errorf("%v and %v", have[0], have[1])
			}
			for i := range have {
				c := p.dial(t)
				if errs := converge(ctx, c, nil, have[i]); len(errs) > 0 || len(have[i]) > 0 {
					t.Errorf("removed by session %d: %v; left %v", i, errs, have[i])
				}
				empty(ctx, t, c)
			}
		})
	}
}
