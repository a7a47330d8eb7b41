package server

import (
	"context"
	"time"

	highwirev1 "highwire/controlplane/api/highwire/v1"
)

const (
	// lastEvents is how many of a vWire's events its description shows.
	lastEvents = 10
	// maxRateTime bounds how long a description takes for its rates.
	maxRateTime = 10 * time.Second
)

// DescribeVWire tells all that is known of a vWire, found as by GetVWire: how it is, what is not as wanted, what happened last,
// and how fast its counters grow.
func (i *Inspect) DescribeVWire(ctx context.Context, r *highwirev1.DescribeVWireRequest) (*highwirev1.Description, error) {
	v, err := i.GetVWire(ctx, &highwirev1.GetVWireRequest{Id: r.Id})
	if err != nil {
		return nil, err
	}
	d := &highwirev1.Description{Vwire: v}
	if over := min(r.RateOver.AsDuration(), maxRateTime); over > 0 && v.CountedBy != "" {
		begun := time.Now()
		select {
		case <-time.After(over):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		counters, _, err := i.counters(ctx)
		if now, ok := counters[v.Id]; ok && err == nil {
			took := time.Since(begun)
			d.ClientRate = RateOf(v.Client.Counters, describeCounters(now.Client), took)
			d.EndpointRate = RateOf(v.Endpoint.Counters, describeCounters(now.Endpoint), took)
			count(v, now)
		}
	}
	if diff, err := i.Diff(ctx, &highwirev1.DiffRequest{Vwire: v.Id}); err != nil {
		d.NotCompared = err.Error()
	} else {
		d.Differences = diff.Differences
	}
	events, _ := i.Events.Since(0, v.Id)
	for _, e := range events[max(0, len(events)-lastEvents):] {
		d.Events = append(d.Events, describeEvent(e))
	}
	return d, nil
}

// RateOf is how fast counters grew over a time. Counters that were set back meanwhile, with a new interface, count as new.
func RateOf(before, after *highwirev1.Counters, took time.Duration) *highwirev1.Rate {
	if after == nil || took <= 0 {
		return nil
	}
	if before.GetRxPackets() > after.GetRxPackets() || before.GetTxPackets() > after.GetTxPackets() {
		before = nil
	}
	per := func(before, after uint64) float64 { return max(0, float64(after)-float64(before)) / took.Seconds() }
	return &highwirev1.Rate{
		RxPackets: per(before.GetRxPackets(), after.RxPackets), RxBytes: per(before.GetRxBytes(), after.RxBytes),
		TxPackets: per(before.GetTxPackets(), after.TxPackets), TxBytes: per(before.GetTxBytes(), after.TxBytes),
		Drops: per(Dropped(before), Dropped(after)),
	}
}

// Dropped is how many packets were lost for all reasons together.
func Dropped(c *highwirev1.Counters) (n uint64) {
	for _, v := range c.GetDrops() {
		n += v
	}
	return n
}
