package packets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	highwirev1 "highwire/controlplane/api/highwire/v1"
	"highwire/controlplane/packets/filter"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// source is a point where packets are seen, open and with packets waiting already.
type source interface {
	// run hands over packets in order until ctx ends, and then those that came before; lost counts those that nobody read in
	// time. An error of emit ends it.
	run(ctx context.Context, emit func(vppapi.Packet) error) (lost uint64, err error)
	// close gives up what run needs; it is called in any case.
	close()
}

// Capture sends the packets at one or both ends of the vWire until the client half-closes the stream, there are as many as asked
// for, or time is up.
func (s *Service) Capture(stream grpc.BidiStreamingServer[highwirev1.CaptureRequest, highwirev1.CaptureEvent]) error {
	r, err := stream.Recv()
	if err != nil {
		return err
	}
	wanted, err := filter.Parse(r.Filter)
	if err != nil {
		return err
	}
	v, err := s.find(r.Id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	points, sources, err := s.open(ctx, v, r)
	if err != nil {
		return err
	}
	defer func() {
		for _, source := range sources {
			source.close()
		}
	}()
	out := &captured{stream: stream, left: r.Count, snaplen: int(r.Snaplen), filter: wanted, full: cancel}
	for _, p := range points {
		if err := stream.Send(&highwirev1.CaptureEvent{Event: &highwirev1.CaptureEvent_Point{Point: p}}); err != nil {
			return err
		}
	}
	if d := r.Duration.AsDuration(); d > 0 {
		timer := time.AfterFunc(d, cancel)
		defer timer.Stop()
	}
	// Recv returns with the stream at the latest, which ends after this function.
	go func() {
		defer cancel()
		for {
			if _, err := stream.Recv(); err != nil {
				return
			}
		}
	}()
	var running sync.WaitGroup
	errs := make([]error, len(sources))
	lost := make([]uint64, len(sources))
	for i, source := range sources {
		running.Go(func() {
			defer cancel()
			lost[i], errs[i] = source.run(ctx, func(p vppapi.Packet) error { return out.send(i, points[i].LinkType, p) })
		})
	}
	running.Wait()
	if err := errors.Join(append(errs, stream.Context().Err())...); err != nil {
		return err
	}
	for i := range points {
		statistics := &highwirev1.CaptureStatistics{Point: uint32(i), Captured: out.count[i], Lost: lost[i]}
		if err := stream.Send(&highwirev1.CaptureEvent{Event: &highwirev1.CaptureEvent_Statistics{Statistics: statistics}}); err != nil {
			return err
		}
	}
	return nil
}

// captured is the stream that several sources send to, with what is common to them.
type captured struct {
	snaplen int
	filter  filter.Filter
	full    func() // ends all sources

	mu     sync.Mutex
	stream grpc.BidiStreamingServer[highwirev1.CaptureRequest, highwirev1.CaptureEvent]
	left   uint64 // 0 without a limit
	count  [2]uint64
}

// send returns io.EOF once there are enough packets.
func (c *captured) send(point int, linkType uint32, p vppapi.Packet) error {
	if !c.filter.Match(int(linkType), p.Data, p.Length) {
		return nil
	}
	if c.snaplen > 0 && len(p.Data) > c.snaplen {
		p.Data = p.Data[:c.snaplen]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == ^uint64(0) {
		return io.EOF
	}
	err := c.stream.Send(&highwirev1.CaptureEvent{Event: &highwirev1.CaptureEvent_Packet{Packet: &highwirev1.CapturedPacket{
		Point: uint32(point), Time: timestamppb.New(p.Time), Length: uint32(p.Length), Data: p.Data,
	}}})
	if err != nil {
		return err
	}
	c.count[point]++
	if c.left == 1 {
		c.left = ^uint64(0)
		c.full()
		return io.EOF
	}
	if c.left > 0 {
		c.left--
	}
	return nil
}

// open opens the points that the request asks for.
func (s *Service) open(ctx context.Context, v forwarder.Status, r *highwirev1.CaptureRequest) (points []*highwirev1.CapturePoint, sources []source, err error) {
	at := sides
	switch r.End {
	case string(mechanisms.Client), string(mechanisms.Endpoint):
		at = []mechanisms.Side{mechanisms.Side(r.End)}
	case "", "both":
	default:
		return nil, nil, fault.New(fault.Invalid, "end %q: want client, endpoint or both", r.End)
	}
	var errs []error
	for _, side := range at {
		point, source, err := s.openAt(ctx, v, side)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		points, sources = append(points, point), append(sources, source)
		if r.End == "" {
			return points, sources, nil
		}
	}
	if len(errs) > 0 {
		for _, source := range sources {
			source.close()
		}
		return nil, nil, fault.New(fault.KindOf(errs[0]), "%w", errors.Join(errs...))
	}
	return points, sources, nil
}

// openAt opens the point at one end.
func (s *Service) openAt(ctx context.Context, v forwarder.Status, side mechanisms.Side) (*highwirev1.CapturePoint, source, error) {
	e := endOf(v.VWire, side)
	point := &highwirev1.CapturePoint{End: string(side), Interface: e.Params[mechanisms.ParamName]}
	if e.Type == mechanisms.Kernel {
		socket, err := s.openSocket(ctx, e)
		if err != nil {
			return nil, nil, fault.New(fault.KindOf(err), "%s's interface %s: %w", side, point.Interface, err)
		}
		point.Source, point.LinkType = "af_packet", socket.linkType
		return point, socket, nil
	}
	if v.Direct() {
		return nil, nil, fault.New(fault.Invalid, "vWire %s is direct: its packets pass in memory of the peers, which nobody else sees; "+
			"an agent with --memif-direct never joins them through VPP", v.VWire.ID)
	}
	index, ok := indexOf(v, side)
	if !ok {
		return nil, nil, fault.New(fault.Unavailable, "VPP has no interface of the %s of vWire %s now", side, v.VWire.ID)
	}
	recorder, name, err := s.openRecorder(ctx, index)
	if err != nil {
		return nil, nil, err
	}
	point.Interface, point.Source, point.LinkType = name, "vpp", filter.Ethernet
	point.Limits = fmt.Sprintf("VPP records %d packets a second at most, which are read once a second, and those that come in that moment are not seen", roundPackets)
	if e.Payload == mechanisms.IP {
		point.LinkType = filter.RawIP
		point.Limits = "VPP shows only what it sends to the " + string(side) + " where an interface carries bare IP; " + point.Limits
	}
	return point, recorder, nil
}
