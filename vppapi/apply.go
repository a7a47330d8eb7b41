package vppapi

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"go.fd.io/govpp/binapi/interface_types"
	"golang.org/x/sync/errgroup"
)

// localsAtOnce bounds how many kernel objects are worked on side by side; the kernel serializes most of it anyway.
const localsAtOnce = 8

// Errors tells for each object of a plan that failed why.
type Errors map[Key]error

// Apply carries out the plan and keeps have true: what was made is added, what was removed is taken out, also when parts
// fail. The order:
//
//	kernel links
//	first flush:  removals, then sockets and interfaces (what has to be removed before it is made comes in the next plan)
//	second flush: tags, settings, neighbours, cross-connects, admin up  | at the same time, kernel: addresses; links released
//	kernel links brought up
//
// A failure is told under the key of its object and of all that use it; the rest of the plan goes on. When the session
// breaks, what was not answered counts as failed and a dump in the next session tells the truth.
func (c *Conn) Apply(ctx context.Context, p Plan, have Realized) Errors {
	a := &application{conn: c, have: have, errs: Errors{}}
	links, p1, netns, p2, carriers := partition(p.Create)
	a.realize(ctx, links)

	c.routing(ctx, p1)

	var first, second batch
	locals := a.removals(&first, p.Remove)
	a.creations(&first, p1)
	first.run(ctx, a)
	released := a.removed(p, locals)

	var side sync.WaitGroup
	side.Go(func() {
		a.release(ctx, released)
		a.realize(ctx, netns)
	})
	a.creations(&second, p2)
	second.run(ctx, a)
	side.Wait()

	a.realize(ctx, carriers)
	return a.errs
}

// partition cuts creates, which are in order, by where they run.
func partition(create []Object) (links []Local, p1 []held, netns []Local, p2 []held, carriers []Local) {
	for _, o := range create {
		k := o.Key().Kind
		switch o := o.(type) {
		case Local:
			switch {
			case k < KindInterface:
				links = append(links, o)
			case k < KindCarrier:
				netns = append(netns, o)
			default:
				carriers = append(carriers, o)
			}
		case held:
			if k <= KindInterface {
				p1 = append(p1, o)
			} else {
				p2 = append(p2, o)
			}
		}
	}
	return
}

// application is one Apply under way.
type application struct {
	conn *Conn

	mu   sync.Mutex // the kernel's part runs beside the second flush
	have Realized
	errs Errors
}

func (a *application) at(k Key) (interface_types.InterfaceIndex, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.have.at(k)
}

func (a *application) add(o Object, index uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.have[o.Key()] = Entry{o, index}
}

func (a *application) drop(k Key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.have, k)
}

func (a *application) failed(o Object, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.errs[o.Key()] = fmt.Errorf("%s: %w", o.Key(), err)
}

// unmade is failed for a creation. Of what it was to replace in place nobody knows how much is left, so that counts as
// absent: the way back to it is to make it again.
func (a *application) unmade(o Object, err error) {
	a.failed(o, err)
	a.drop(o.Key())
}

// blocked tells whether something that o uses has failed, and passes the reason on.
func (a *application) blocked(o Object) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range o.Uses() {
		if err, ok := a.errs[k]; ok {
			a.errs[o.Key()] = err
			return true
		}
	}
	return false
}

// realize makes locals, in two waves where some of them use others.
func (a *application) realize(ctx context.Context, locals []Local) {
	keys := make(map[Key]bool)
	for _, l := range locals {
		keys[l.Key()] = true
	}
	var first, then []Local
	for _, l := range locals {
		if usesAny(l, keys) {
			then = append(then, l)
		} else {
			first = append(first, l)
		}
	}
	for _, wave := range [][]Local{first, then} {
		a.wave(ctx, wave)
	}
}

func (a *application) wave(ctx context.Context, locals []Local) {
	var g errgroup.Group
	g.SetLimit(localsAtOnce)
	for _, l := range locals {
		if a.blocked(l) {
			continue
		}
		g.Go(func() error {
			if _, err := l.Realize(ctx); err != nil {
				a.unmade(l, err)
			} else {
				a.add(l, 0)
			}
			return nil
		})
	}
	_ = g.Wait() // errors are kept by key
}

func (a *application) release(ctx context.Context, locals []Local) {
	var g errgroup.Group
	g.SetLimit(localsAtOnce)
	for _, l := range locals {
		if a.blocked(l) {
			continue
		}
		g.Go(func() error {
			if err := l.Release(ctx); err != nil {
				a.failed(l, err)
			} else {
				a.drop(l.Key())
			}
			return nil
		})
	}
	_ = g.Wait() // errors are kept by key
}

// removals puts what VPP is to let go into the batch, and returns the kernel objects to release once it has.
func (a *application) removals(b *batch, objects []Object) (locals []Local) {
	for _, o := range objects {
		switch o := o.(type) {
		case Local:
			locals = append(locals, o)
		case held:
			calls, err := o.remove(a.at)
			if err != nil {
				a.failed(o, err)
				continue
			}
			b.add(step{o, false}, calls)
		}
	}
	return locals
}

// removed draws the consequences of removals, and returns the kernel objects that may be released: a link must not go
// before the VPP interface on it.
func (a *application) removed(p Plan, locals []Local) []Local {
	for _, o := range p.Vanish {
		if !a.blocked(o) {
			a.drop(o.Key())
		}
	}
	for _, o := range slices.Concat(p.Vanish, p.Remove) {
		// What has lost one of its interfaces works no more, removed or not, and has to be made again. Those in the kernel
		// have their turn later.
		if _, inVPP := o.(held); inVPP && o.Key().Kind > KindInterface && a.bereft(o) {
			a.drop(o.Key())
		}
	}
	return a.withoutUsers(locals)
}

// bereft tells whether something that o uses is gone.
func (a *application) bereft(o Object) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(o.Uses(), func(k Key) bool { _, ok := a.have[k]; return !ok })
}

// withoutUsers leaves out links whose VPP interface could not be removed.
func (a *application) withoutUsers(locals []Local) []Local {
	a.mu.Lock()
	defer a.mu.Unlock()
	used := make(map[Key]bool)
	for k := range maps.Keys(a.errs) {
		if e, ok := a.have[k]; ok {
			for _, u := range e.Object.Uses() {
				used[u] = true
			}
		}
	}
	kept := locals[:0]
	for _, l := range locals {
		if !used[l.Key()] {
			kept = append(kept, l)
		}
	}
	return kept
}

// creations puts what VPP is to make into the batch.
func (a *application) creations(b *batch, objects []held) {
	for _, o := range objects {
		if a.blocked(o) {
			continue
		}
		made := o
		if f, ok := o.(fitted); ok {
			made = f.fit(a.conn)
		}
		calls, err := made.create(a.at)
		if err != nil {
			a.failed(o, err)
			continue
		}
		b.add(step{o, true}, calls)
	}
}

// done takes the outcome of a step. An interface can be there although something about its step failed: then it has to go
// again.
func (a *application) done(s step, made bool, index uint32, err error) {
	switch {
	case err != nil && s.create && made:
		a.failed(s.object, err)
		a.add(s.object, index)
	case err != nil && s.create:
		a.unmade(s.object, err)
	case err != nil:
		a.failed(s.object, err)
	case s.create:
		a.add(s.object, index)
	default:
		a.drop(s.object.Key())
	}
}

// step is an object on its way into VPP or out of it.
type step struct {
	object Object
	create bool
}

// batch is one flush: calls, and the step that each belongs to.
type batch struct {
	calls []call
	steps []step
	empty []step
}

func (b *batch) add(s step, calls []call) {
	if len(calls) == 0 {
		b.empty = append(b.empty, s)
	}
	for _, c := range calls {
		b.calls = append(b.calls, c)
		b.steps = append(b.steps, s)
	}
}

// run flushes and tells once for each step how it went; of a step with several calls the first error counts.
func (b *batch) run(ctx context.Context, a *application) {
	for _, s := range b.empty {
		a.done(s, false, 0, nil)
	}
	answers, _ := a.conn.flush(ctx, b.calls) // a broken session shows in the answers
	for i := 0; i < len(answers); {
		s, made, index := b.steps[i], false, uint32(0)
		var err error
		for ; i < len(answers) && b.steps[i] == s; i++ {
			if err == nil {
				err = answers[i].err
			}
			if n, ok := answers[i].index(); ok {
				made, index = answers[i].err == nil, n
			}
		}
		a.done(s, made, index, err)
	}
}
