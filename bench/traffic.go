package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"highwire/mechanisms"
	"highwire/mechanisms/memif/peer"
	"highwire/vppapi/memif"
)

// traffic is echo requests through many memif vWires at once, whose clients' applications are in this process.
type traffic struct {
	flows []*flow
	rate  int // requests a second over all of them

	stop    context.CancelFunc
	running sync.WaitGroup
}

// flow is the requests of one vWire.
type flow struct {
	*peer.Flow
	peer *peer.Peer

	mu       sync.Mutex
	sent     []time.Time // by number - 1
	answered []time.Time // zero: not
}

// answersWithin is how long an answer may take before the request counts as lost.
const answersWithin = time.Second

// newTraffic connects an application to the vWire of each caller, and begins to send once an echo went through each.
func newTraffic(ctx context.Context, callers []*caller, rate int) (*traffic, error) {
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	t := &traffic{rate: rate, stop: stop, flows: make([]*flow, len(callers))}
	errs := make([]error, len(callers))
	var connecting sync.WaitGroup
	for i, c := range callers {
		connecting.Go(func() { t.flows[i], errs[i] = t.connect(ctx, run, c) })
	}
	connecting.Wait()
	if err := errors.Join(errs...); err != nil {
		t.end()
		return nil, err
	}
	t.running.Go(func() { t.send(run) })
	return t, nil
}

// connect runs an application at the end of the caller's vWire.
func (t *traffic) connect(ctx, run context.Context, c *caller) (*flow, error) {
	ip := c.conn.GetContext().GetIpContext()
	if len(ip.GetSrcIpAddrs()) == 0 || len(ip.GetDstIpAddrs()) == 0 {
		return nil, fmt.Errorf("connection %s has no addresses", c.conn.GetId())
	}
	src, err := netip.ParsePrefix(ip.GetSrcIpAddrs()[0])
	if err != nil {
		return nil, err
	}
	dst, err := netip.ParsePrefix(ip.GetDstIpAddrs()[0])
	if err != nil {
		return nil, err
	}
	p, err := peer.New(peer.Config{
		Address: memif.Address{Name: c.conn.GetMechanism().GetParameters()[mechanisms.ParamSocket], Netns: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), c.namespace.Fd())},
		L3:      c.conn.GetPayload() == string(mechanisms.IP), Addresses: []netip.Prefix{src},
	})
	if err != nil {
		return nil, err
	}
	t.running.Go(func() { _ = p.Run(run) }) // until run ends
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	f := &flow{peer: p}
	for f.Flow == nil {
		if err := p.Await(ctx, true); err != nil {
			return nil, fmt.Errorf("the application of %s is not connected: %w", c.conn.GetId(), err)
		}
		if f.Flow, err = p.NewFlow(ctx, dst.Addr(), 0); err != nil && ctx.Err() != nil {
			return nil, fmt.Errorf("nothing goes through %s: %w", c.conn.GetId(), err)
		}
	}
	t.running.Go(func() { f.receive(run) })
	t.running.Go(func() { f.hurry(run) })
	return f, nil
}

// end stops everything and waits for it.
func (t *traffic) end() {
	t.stop()
	t.running.Wait()
	for _, f := range t.flows {
		if f != nil {
			f.Close()
		}
	}
}

// send keeps to the rate, one flow after the other.
func (t *traffic) send(run context.Context) {
	begun, sent := time.Now(), 0
	turn := time.NewTicker(time.Millisecond)
	defer turn.Stop()
	for {
		select {
		case <-turn.C:
		case <-run.Done():
			return
		}
		for due := int(time.Since(begun).Seconds() * float64(t.rate)); sent < due; sent++ {
			t.flows[sent%len(t.flows)].send()
		}
	}
}

func (f *flow) send() {
	f.mu.Lock()
	defer f.mu.Unlock()
	// The number comes after the time, so that an answer is never before its request.
	f.sent, f.answered = append(f.sent, time.Now()), append(f.answered, time.Time{})
	f.Send()
}

func (f *flow) receive(run context.Context) {
	for {
		seq, at, err := f.Receive(run)
		if err != nil {
			return
		}
		f.mu.Lock()
		if i := int(seq) - 1; i >= 0 && i < len(f.answered) && f.answered[i].IsZero() {
			f.answered[i] = at
		}
		f.mu.Unlock()
	}
}

// hurryEvery is how often a flow that was interrupted is tried, so that the moment of its return is known well.
const hurryEvery = 5 * time.Millisecond

// hurry sends more requests from when the memif is connected again until one is answered.
func (f *flow) hurry(run context.Context) {
	for {
		if f.peer.Await(run, false) != nil || f.peer.Await(run, true) != nil {
			return
		}
		back := time.Now()
		again := time.NewTicker(hurryEvery)
		for f.back(back).IsZero() && f.peer.Connected() {
			f.send()
			select {
			case <-again.C:
			case <-run.Done():
				again.Stop()
				return
			}
		}
		again.Stop()
	}
}

// back is when the first answer to a request sent after the moment came; zero if there was none.
func (f *flow) back(after time.Time) (at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.sent) - 1; i >= 0 && f.sent[i].After(after); i-- {
		if a := f.answered[i]; !a.IsZero() && (at.IsZero() || a.Before(at)) {
			at = a
		}
	}
	return at
}

// lost counts requests sent from begin to end and those of them that were not answered. It waits for late answers.
func (t *traffic) lost(ctx context.Context, begin, end time.Time) (lost, sent int, err error) {
	if err := pause(ctx, time.Until(end.Add(answersWithin))); err != nil {
		return 0, 0, err
	}
	for _, f := range t.flows {
		f.mu.Lock()
		for i, at := range f.sent {
			if at.Before(begin) || at.After(end) {
				continue
			}
			sent++
			if a := f.answered[i]; a.IsZero() || a.Sub(at) > answersWithin {
				lost++
			}
		}
		f.mu.Unlock()
	}
	return lost, sent, nil
}

// gap is a time in which requests were lost.
type gap struct {
	from, to time.Time
	lost     int
}

// gaps lists when requests sent from begin to end were lost, after lost has waited for their answers. Such that lie less than a tenth of a second
// apart are one gap.
func (t *traffic) gaps(begin, end time.Time) (list []gap) {
	var lost []time.Time
	for _, f := range t.flows {
		f.mu.Lock()
		for i, at := range f.sent {
			if a := f.answered[i]; !at.Before(begin) && !at.After(end) && (a.IsZero() || a.Sub(at) > answersWithin) {
				lost = append(lost, at)
			}
		}
		f.mu.Unlock()
	}
	slices.SortFunc(lost, time.Time.Compare)
	for _, at := range lost {
		if n := len(list); n > 0 && at.Sub(list[n-1].to) < 100*time.Millisecond {
			list[n-1].to = at
			list[n-1].lost++
			continue
		}
		list = append(list, gap{at, at, 1})
	}
	return list
}

// forwarding waits until each flow has got an answer to a request sent after the moment, and tells when the last one did.
func (t *traffic) forwarding(ctx context.Context, after time.Time) (last time.Time, err error) {
	look := time.NewTicker(hurryEvery)
	defer look.Stop()
	for {
		last, waiting := time.Time{}, 0
		for _, f := range t.flows {
			at := f.back(after)
			if at.IsZero() {
				waiting++
			} else if at.After(last) {
				last = at
			}
		}
		if waiting == 0 {
			return last, nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return last, fmt.Errorf("%d of %d vWires do not forward: %w", waiting, len(t.flows), ctx.Err())
		}
	}
}
