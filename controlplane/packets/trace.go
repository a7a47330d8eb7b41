package packets

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	highwirev1 "highwire/controlplane/api/highwire/v1"
	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

const (
	defaultTraces    = 10
	defaultTraceTime = 10 * time.Second
	// readEvery is how often VPP's buffer is read; VPP tells nobody that a packet is in it.
	readEvery = 100 * time.Millisecond
	// endWithin bounds what has to be put back in VPP after a call.
	endWithin = 5 * time.Second
)

// Trace sends the ways of packets that go by an interface of the vWire until there are as many as asked for, or time is up. A
// direct path is fault.Invalid: its packets do not come to VPP.
func (s *Service) Trace(r *highwirev1.TraceRequest, stream grpc.ServerStreamingServer[highwirev1.TracedPacket]) (err error) {
	v, err := s.find(r.Id)
	if err != nil {
		return err
	}
	if v.Direct() {
		see := "nobody but the peers sees its packets; an agent with --memif-direct never joins them through VPP"
		if v.VWire.Client.Type == mechanisms.Kernel {
			see = "see its packets by 'highwire pcap vwire " + v.VWire.ID + "'"
		}
		return fault.New(fault.Invalid, "vWire %s is direct, so there is no way through VPP to trace: %s", v.VWire.ID, see)
	}
	vpp, err := s.cfg.VPP()
	if err != nil {
		return err
	}
	release, err := alone(s.tracing, "VPP's tracer")
	if err != nil {
		return err
	}
	defer release()

	ctx, cancel := context.WithTimeout(stream.Context(), within(r.Timeout, defaultTraceTime))
	defer cancel()
	t, err := vpp.StartTrace(ctx)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endWithin)
		defer cancel()
		err = errors.Join(err, t.Stop(ctx))
	}()
	ends := make(map[string]mechanisms.Side)
	for _, side := range sides {
		if index, ok := indexOf(v, side); ok {
			ends[t.Interface(index)] = side
		}
	}
	// The timeout of the reads is their own: one that ran into the end of the call would count as VPP's silence.
	reads := context.WithoutCancel(ctx)
	again := time.NewTicker(readEvery)
	defer again.Stop()
	left := r.Count
	if left == 0 {
		left = defaultTraces
	}
	for {
		traces, err := t.Read(reads)
		if err != nil {
			return err
		}
		for _, trace := range traces {
			p := traced(trace, ends)
			if p == nil {
				continue
			}
			if err := stream.Send(p); err != nil {
				return err
			}
			if left--; left == 0 {
				return nil
			}
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return stream.Context().Err() // nil when only time is up
		}
	}
}

// within is a duration of a request, or the default for none.
func within(d *durationpb.Duration, otherwise time.Duration) time.Duration {
	if d.AsDuration() > 0 {
		return d.AsDuration()
	}
	return otherwise
}

// traced tells a trace by the ends; nil if it goes by neither.
func traced(t vppapi.Trace, ends map[string]mechanisms.Side) *highwirev1.TracedPacket {
	p := &highwirev1.TracedPacket{At: durationpb.New(t[0].At), Dropped: t.Dropped()}
	ours := false
	for _, h := range t {
		end, ok := ends[h.Interface]
		ours = ours || ok
		p.Hops = append(p.Hops, &highwirev1.Hop{Node: h.Node, Interface: h.Interface, After: durationpb.New(h.At - t[0].At), Detail: h.Detail, End: string(end)})
		switch leaves := strings.HasSuffix(h.Node, "-output") || strings.HasSuffix(h.Node, "-tx"); {
		case !ok:
		case leaves && p.Dropped == "":
			p.To = string(end)
		case !leaves && p.From == "" && p.To == "":
			p.From = string(end)
		}
	}
	if !ours {
		return nil
	}
	return p
}
