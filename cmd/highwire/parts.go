package main

import (
	"context"
	"errors"
	"fmt"
)

// parts are the running parts of a process, each leaning on those before it. They are stopped in reverse order, each once
// the one after it has ended; the first that fails ends all.
type parts struct {
	ctx    context.Context
	fail   context.CancelCauseFunc
	served []func() // stop and wait, oldest first
}

// newParts makes an empty set that ends when ctx does.
func newParts(ctx context.Context) *parts {
	p := &parts{}
	p.ctx, p.fail = context.WithCancelCause(ctx)
	return p
}

// errDone is what a part returns that has done all that the process is there for: the others stop, and nothing has failed.
var errDone = errors.New("done")

// run starts a part. fn returns when its context ends; earlier, or with another error than that context's, it has failed.
func (p *parts) run(name string, fn func(context.Context) error) {
	ctx, stop := context.WithCancel(context.WithoutCancel(p.ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := fn(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("it ended by itself")
		}
		p.fail(fmt.Errorf("%s: %w", name, err))
	}()
	p.served = append(p.served, func() { stop(); <-done })
}

// onStop adds what is to be done once all later parts have ended.
func (p *parts) onStop(fn func()) { p.served = append(p.served, fn) }

// wait returns when the context ends or a part fails, after all parts have stopped; the error is the part's.
func (p *parts) wait() error {
	<-p.ctx.Done()
	return p.abort(nil)
}

// abort stops what has been started, because of err. A part that has failed meanwhile is the better reason, and being told to
// stop is none.
func (p *parts) abort(err error) error {
	if cause := context.Cause(p.ctx); cause != nil {
		err = cause
	}
	p.stop()
	if errors.Is(err, context.Canceled) || errors.Is(err, errDone) {
		return nil
	}
	return err
}

// stop ends all parts; it may be called again.
func (p *parts) stop() {
	for i := len(p.served) - 1; i >= 0; i-- {
		p.served[i]()
	}
	p.served = nil
	p.fail(nil)
}
