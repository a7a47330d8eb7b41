package bench

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"highwire/vppapi/fault"
)

// Profile is the frames of a load. Sizes are bytes from the destination address on, without the checksum that a wire would add.
type Profile struct {
	Name   string
	Frames []FrameShare
}

// FrameShare is a size and how many frames of a round have it.
type FrameShare struct{ Bytes, Share int }

// Profiles are those that can be measured. IMIX is a mix of 28, 16 and 4 frames of three sizes, as is usual in benchmarks of VPP.
var Profiles = []Profile{
	{"64", []FrameShare{{64, 1}}}, {"512", []FrameShare{{512, 1}}}, {"1500", []FrameShare{{1500, 1}}},
	{"IMIX", []FrameShare{{64, 28}, {570, 16}, {1518, 4}}}, {"9000", []FrameShare{{9000, 1}}},
}

// FindProfile is the one with that name, in upper or lower case. fault.Invalid lists those there are.
func FindProfile(name string) (Profile, error) {
	var names []string
	for _, p := range Profiles {
		if strings.EqualFold(p.Name, name) {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return Profile{}, fault.New(fault.Invalid, "frame size %q: want one of %s", name, strings.Join(names, ", "))
}

// Bytes is the mean size of a frame.
func (p Profile) Bytes() float64 {
	bytes, frames := 0, 0
	for _, f := range p.Frames {
		bytes, frames = bytes+f.Bytes*f.Share, frames+f.Share
	}
	return float64(bytes) / float64(frames)
}

// offered is what became of a load.
type offered struct {
	// sent by the generator while the time ran, and received until its last packet had passed.
	sent, received uint64
	took           time.Duration
	// nodes is VPP's account of that time, where the load was as high as it can be.
	nodes nodes
}

// loss is the part of the intended load that did not arrive in time; what was not sent is lost, too, but for what a timer is off.
func (o offered) loss(load float64, d time.Duration) float64 {
	if o.sent == 0 {
		return 1
	}
	lost := 1 - min(1, float64(o.received)/float64(o.sent))
	if intended := load * d.Seconds(); float64(o.sent) < 0.97*intended {
		lost = max(lost, 1-float64(o.received)/intended)
	}
	return lost
}

// passesWithin bounds the wait for packets that are on their way when the generator stops.
const passesWithin = 300 * time.Millisecond

// offer sends frames of the profile on the path for the duration, at a load in packets a second, or as many as the generator makes if
// it is 0.
func (m *memifLoad) offer(ctx context.Context, p path, profile Profile, load float64, d time.Duration) (o offered, err error) {
	var streams []string
	shares := 0
	for _, f := range profile.Frames {
		shares += f.Share
	}
	defer func() {
		for _, name := range streams {
			err = errors.Join(err, m.generator.cli(context.WithoutCancel(ctx), "packet-generator delete "+name))
		}
	}()
	for i, f := range profile.Frames {
		name, rate := fmt.Sprintf("offer-%d-%d", p, i), ""
		if load > 0 {
			rate = fmt.Sprintf("rate %.3f ", load*float64(f.Share)/float64(shares))
		}
		if err := m.generator.cli(ctx, fmt.Sprintf("packet-generator new { name %s limit -1 %ssize %d-%d node %s-output tx-interface %s data { hex %s } }",
			name, rate, f.Bytes, f.Bytes, p.in(), p.in(), frame)); err != nil {
			return o, err
		}
		streams = append(streams, name)
	}
	err = errors.Join(m.generator.cli(ctx, "clear interfaces"), m.vpp.cli(ctx, "clear runtime"))
	begun := time.Now()
	for _, name := range streams {
		if err == nil {
			err = m.generator.cli(ctx, "packet-generator enable-stream "+name)
		}
	}
	if err == nil {
		err = pause(ctx, d)
	}
	for _, name := range streams {
		err = errors.Join(err, m.generator.cli(context.WithoutCancel(ctx), "packet-generator disable-stream "+name))
	}
	o.took = time.Since(begun)
	if err != nil {
		return o, err
	}
	if load == 0 {
		if o.nodes, err = m.vpp.runtime(ctx); err != nil {
			return o, err
		}
	}
	// The last packets have passed when no more arrive.
	for late := time.Now().Add(passesWithin); ; {
		before := o.received
		if o.sent, err = m.generator.count(ctx, p.in(), "tx packets"); err == nil {
			o.received, err = m.generator.count(ctx, p.out(), "rx packets")
		}
		if err != nil || o.received >= o.sent || o.received == before && o.received > 0 || time.Now().After(late) {
			return o, err
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return o, err
		}
	}
}

var counterLine = regexp.MustCompile(`(?m)^.*?\b([rt]x packets) +(\d+) *\r?$`)

// count is one of the packet counters of VPP's "show interface"; one that is not shown is 0.
func (d *dataplane) count(ctx context.Context, name, counter string) (uint64, error) {
	out, err := d.hand.CLI(ctx, "show interface "+name)
	if err != nil {
		return 0, err
	}
	for _, m := range counterLine.FindAllStringSubmatch(out, -1) {
		if m[1] == counter {
			return strconv.ParseUint(m[2], 10, 64)
		}
	}
	return 0, nil
}
