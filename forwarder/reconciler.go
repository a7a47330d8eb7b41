package forwarder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// Config of a Reconciler.
type Config struct {
	Dialer     vppapi.Dialer
	Mechanisms mechanisms.Set
	// Journal is the path of the journal file.
	Journal string
	// ResyncEvery is the slow check of everything; 0 for two minutes.
	ResyncEvery time.Duration
	// Grace is how long after the start leftovers of an earlier life stay; 0 for two minutes.
	Grace time.Duration
	// MaxAFPacket bounds kernel interfaces over af_packet; 0 for DefaultMaxAFPacket.
	MaxAFPacket int
	// Node has objects of the node itself, beside those of vWires; nil for none.
	Node Node
	// Namespaces tells where interfaces of ends may have changed; nil for nobody: then the slow check finds it.
	Namespaces Watcher
	// Events is told what happens; nil for nobody.
	Events *Events
	Log    *slog.Logger
}

// Node is what the dataplane holds for the node itself, such as the uplink of tunnels.
type Node interface {
	// Objects are wanted as long as the agent runs. Those of VPP belong to interfaces whose names end in vppapi.NodeSide.
	Objects() []vppapi.Object
	// Changed signals that Objects has other ones.
	Changed() <-chan struct{}
}

// Watcher hears of changes in network namespaces.
type Watcher interface {
	// Changed signals that Touched has some.
	Changed() <-chan struct{}
	// Touched are the namespaces in which something has changed since the last call.
	Touched() map[mechanisms.Inode]bool
}

// holder is a mechanism whose ends need something kept open while they are wanted, such as a namespace.
type holder interface {
	Hold(mechanisms.End) error
	Drop(mechanisms.End)
}

// lister is a mechanism that can list what it has left in the kernel, wanted or not.
type lister interface {
	List(context.Context) ([]vppapi.Object, error)
}

// wire is one desired vWire.
type wire struct {
	v       VWire
	objects map[vppapi.Key]vppapi.Object
	state   State
	err     error
	since   time.Time
	drift   Drift
	spare   string // the device, of a wire that is none: see pool.go
	node    bool   // it is none either: see node.go
}

func (w *wire) keys() map[vppapi.Key]bool {
	keys := make(map[vppapi.Key]bool, len(w.objects))
	for k := range w.objects {
		keys[k] = true
	}
	return keys
}

func (w *wire) add(o vppapi.Object) { w.objects[o.Key()] = o }

func (w *wire) enter(s State, err error) {
	if w.state != s {
		w.since = time.Now()
	}
	w.state, w.err = s, err
}

// Reconciler owns desired and realized state. All its methods are safe for concurrent use.
type Reconciler struct {
	cfg     Config
	journal *journal
	wake    chan struct{}
	ready   chan struct{} // closed after the first resync
	looks   chan func(context.Context, *vppapi.Conn)

	mu       sync.Mutex // of what callers and the owner goroutine share
	queue    []*request
	statuses map[string]Status
	conn     *vppapi.Conn
	stopped  bool

	// The rest belongs to the goroutine of Run.
	desired map[string]*wire
	owners  map[vppapi.Key]map[string]bool
	have    vppapi.Realized
	packets map[string]packetEnd // af_packet interfaces by end
	workers int                  // of VPP
	// remnants of deleted vWires, oldest first, and the keys of what must not be removed yet: see remnant.go.
	remnants  []remnant
	lingering map[vppapi.Key]bool
	// doubtful tunnels may have been made, by the untagged name, when VPP went away under a request.
	doubtful map[vppapi.Key]bool
	// unsettled: something could not be made or removed, and is tried again soon.
	unsettled bool
	begun     sync.Once
	buffers   int // of VPP, 0 for unknown
	started   time.Time
}

// New reads the journal. fault.Conflict when another agent holds it.
func New(cfg Config) (*Reconciler, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.ResyncEvery == 0 {
		cfg.ResyncEvery = 2 * time.Minute
	}
	if cfg.Grace == 0 {
		cfg.Grace = 2 * time.Minute
	}
	if cfg.MaxAFPacket == 0 {
		cfg.MaxAFPacket = DefaultMaxAFPacket
	}
	j, list, err := openJournal(cfg.Journal, cfg.Log)
	if err != nil {
		return nil, err
	}
	r := &Reconciler{
		cfg: cfg, journal: j, wake: make(chan struct{}, 1), ready: make(chan struct{}), statuses: make(map[string]Status),
		desired: make(map[string]*wire), owners: make(map[vppapi.Key]map[string]bool), have: make(vppapi.Realized), packets: make(map[string]packetEnd), lingering: make(map[vppapi.Key]bool), doubtful: make(map[vppapi.Key]bool),
		looks: make(chan func(context.Context, *vppapi.Conn)),
	}
	lost := make(map[string]*VWire)
	for _, v := range list {
		w, err := r.prepare(v)
		if err != nil {
			// Its client will ask again; until then there is nothing to build it from. Kept, it could come back to life in a
			// namespace that has got the same inode number.
			cfg.Log.Warn("a vWire of the journal cannot be restored", "vwire", v.ID, "reason", err)
			lost[v.ID] = nil
			continue
		}
		w.enter(Pending, nil)
		r.install(w)
		r.publish(w)
	}
	if err := j.write(lost); err != nil {
		return nil, errors.Join(err, j.close())
	}
	return r, nil
}

// Run reconciles until ctx ends. It returns ctx's error, or the reason why no VPP can be used.
func (r *Reconciler) Run(ctx context.Context) error {
	r.started = time.Now()
	err := r.cfg.Dialer.Run(ctx, r.lifetime)
	r.refuse()
	for _, w := range r.desired {
		if w.isVWire() {
			r.drop(w)
		}
	}
	for _, m := range r.remnants {
		r.dropEnd(m.end)
	}
	return errors.Join(err, r.journal.close())
}

const (
	// settle is for how long no interface event must come before one look at VPP answers them all; our own changes cause
	// events too. While they keep coming, settleMost is how long the look waits.
	settle     = 200 * time.Millisecond
	settleMost = 2 * time.Second
)

// watchAfter is the least time between two looks at namespaces that have changed.
const watchAfter = time.Second

// retryAfter is when what has failed in a resync is tried again.
const retryAfter = 2 * time.Second

// lifetime is one VPP from its greeting to its end.
func (r *Reconciler) lifetime(ctx context.Context, c *vppapi.Conn) {
	r.setConn(c)
	defer r.setConn(nil)
	r.replace(c.Workers())
	if r.buffers, _, _ = c.BufferPool(ctx); c.Err() != nil { // what is not known is not bounded
		return
	}
	r.cfg.Events.Add(Event{Kind: Connected, Text: c.Version()})
	defer func() {
		r.cfg.Events.Add(Event{Kind: Disconnected, Text: c.Version(), Err: c.Err()})
		for _, w := range r.desired {
			w.enter(Pending, nil)
			r.publish(w)
		}
	}()
	idle := time.NewTimer(refillAfter)
	defer idle.Stop()
	slow := time.NewTicker(r.cfg.ResyncEvery)
	defer slow.Stop()
	soon := time.NewTimer(0)
	soon.Stop()
	defer soon.Stop()
	prune := time.NewTimer(r.cfg.Grace - time.Since(r.started)) // of its own: events set soon again and again
	defer prune.Stop()
	look := time.NewTimer(watchAfter)
	defer look.Stop()
	looked := time.Now()
	full := true
	var settling time.Time // since when events have come without a look
	r.installNode()
	r.resync(ctx, c, true)
	r.begun.Do(func() { close(r.ready) })
	for {
		select {
		case <-ctx.Done():
			r.cleanUpAll(context.WithoutCancel(ctx), c)
			r.drain(context.WithoutCancel(ctx), c)
			return
		case <-c.Done():
			return
		case <-r.nodeChanged():
			r.convergeNode(ctx, c)
			if r.unsettled {
				r.unsettled, full = false, true
				soon.Reset(retryAfter)
			}
		case <-r.wake:
			// What a vWire needs of the node comes before it.
			select {
			case <-r.nodeChanged():
				r.convergeNode(ctx, c)
			default:
			}
			r.carryOut(ctx, c, r.take())
			idle.Reset(refillAfter)
		case fn := <-r.looks:
			fn(ctx, c)
		case <-idle.C:
			if r.cleanUp(ctx, c) || r.refill(ctx, c) {
				idle.Reset(refillAfter / 10)
			}
		case <-c.Events():
			if full = false; settling.IsZero() {
				settling = time.Now()
			}
			soon.Reset(min(settle, time.Until(settling.Add(settleMost))))
		case <-r.namespacesChanged():
			// One look answers all that gathers. Somebody who changes things without end does not keep us from our work.
			look.Reset(max(settle, watchAfter-time.Since(looked)))
		case <-look.C:
			r.mend(ctx, c)
			looked = time.Now()
		case <-slow.C:
			r.resync(ctx, c, true)
		case <-prune.C:
			full = true
			soon.Reset(0)
		case <-soon.C:
			settling = time.Time{}
			if !r.resync(ctx, c, full) {
				full = true
				soon.Reset(retryAfter)
			}
		}
		if r.unsettled {
			r.unsettled, full = false, true
			soon.Reset(retryAfter)
		}
	}
}

// prepare makes a wire of v and holds what its ends need.
func (r *Reconciler) prepare(v VWire) (*wire, error) {
	w := &wire{v: v, since: time.Now()}
	if err := v.Check(); err != nil {
		return nil, err
	}
	if err := r.hold(w); err != nil {
		return nil, err
	}
	var err error
	if w.objects, err = expand(r.cfg.Mechanisms, v); err == nil {
		err = r.conflict(w)
	}
	if err == nil {
		err = r.room(w)
	}
	if err != nil {
		r.drop(w)
		return nil, err
	}
	r.place(w)
	return w, nil
}

// conflict finds an object that another vWire wants otherwise.
func (r *Reconciler) conflict(w *wire) error {
	for k, o := range w.objects {
		for id := range r.owners[k] {
			if id != w.v.ID && !sameObject(r.desired[id].objects[k], o) {
				return fault.New(fault.Conflict, "%s is used by vWire %s with other settings", k, id)
			}
		}
	}
	return nil
}

func sameObject(a, b vppapi.Object) bool {
	if e, ok := a.(interface{ Equal(vppapi.Object) bool }); ok {
		return e.Equal(b)
	}
	return a == b
}

func (r *Reconciler) hold(w *wire) error {
	var held []func()
	for _, e := range w.v.ends() {
		m, err := r.cfg.Mechanisms.Get(e.Type)
		if err == nil {
			if h, ok := m.(holder); ok {
				if err = h.Hold(e); err == nil {
					held = append(held, func() { h.Drop(e) })
				}
			}
		}
		if err != nil {
			for _, undo := range held {
				undo()
			}
			return fmt.Errorf("%s: %w", e.Name(), err)
		}
	}
	return nil
}

func (r *Reconciler) drop(w *wire) {
	for _, e := range w.v.ends() {
		r.dropEnd(e)
	}
}

func (r *Reconciler) dropEnd(e mechanisms.End) {
	if m, err := r.cfg.Mechanisms.Get(e.Type); err == nil {
		if h, ok := m.(holder); ok {
			h.Drop(e)
		}
	}
}

// install makes w the desired version of its vWire. The former one is returned and still held.
func (r *Reconciler) install(w *wire) (former *wire) {
	former = r.uninstall(w.v.ID)
	r.desired[w.v.ID] = w
	r.count(w, true)
	for k := range w.objects {
		if r.owners[k] == nil {
			r.owners[k] = make(map[string]bool)
		}
		r.owners[k][w.v.ID] = true
	}
	return former
}

func (r *Reconciler) uninstall(id string) (former *wire) {
	former, ok := r.desired[id]
	if !ok {
		return nil
	}
	delete(r.desired, id)
	r.count(former, false)
	for k := range former.objects {
		delete(r.owners[k], id)
		if len(r.owners[k]) == 0 {
			delete(r.owners, k)
		}
	}
	return former
}

// wanted is the object that any owner wants under the key; all want the same.
func (r *Reconciler) wanted(k vppapi.Key) (vppapi.Object, bool) {
	for id := range r.owners[k] {
		return r.desired[id].objects[k], true
	}
	return nil, false
}

// converge applies what differs among the keys, and keeps have true. At most three rounds: something to be removed, then
// made anew, also where something else has failed that belongs to another vWire.
func (r *Reconciler) converge(ctx context.Context, c *vppapi.Conn, keys map[vppapi.Key]bool) outcome {
	want, part := make(map[vppapi.Key]vppapi.Object), make(vppapi.Realized)
	for k := range keys {
		e, exists := r.have[k]
		if exists {
			part[k] = e
		}
		if o, ok := r.wanted(k); ok {
			want[k] = o
		} else if exists && r.lingering[k] {
			want[k] = e.Object
		}
	}
	done := outcome{errs: vppapi.Errors{}}
	for range 3 {
		plan := vppapi.Diff(want, part)
		if plan.Empty() {
			break
		}
		r.repoll(&plan, part)
		r.cfg.Log.Debug("plan", "steps", plan)
		done.removed += len(plan.Remove)
		done.created += len(plan.Create)
		errs := c.Apply(ctx, plan, part)
		r.tellPlan(plan, errs)
		maps.Copy(done.errs, errs)
		maps.DeleteFunc(part, func(k vppapi.Key, _ vppapi.Entry) bool { return !keys[k] }) // repoll's guest
		if !plan.Again || c.Err() != nil {
			break
		}
	}
	for k := range keys {
		if e, ok := part[k]; ok {
			r.have[k] = e
		} else {
			delete(r.have, k)
		}
	}
	return done
}

// Ready is closed once a VPP was found and has been compared with the journal for the first time.
func (r *Reconciler) Ready() <-chan struct{} { return r.ready }

func (r *Reconciler) setConn(c *vppapi.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn = c
}

// VPP is the session with the VPP that runs now; fault.Unavailable while there is none.
func (r *Reconciler) VPP() (*vppapi.Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil {
		return nil, fault.New(fault.Unavailable, "VPP is not there now: look at the agent's log and 'highwire doctor'; vWires come back with it")
	}
	return r.conn, nil
}
