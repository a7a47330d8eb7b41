package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	highwirev1 "highwire/controlplane/api/highwire/v1"
)

func newPing() *cobra.Command {
	var admin adminFlag
	var interval, timeout time.Duration
	var output string
	r := &highwirev1.PingRequest{}
	cmd := &cobra.Command{
		Use:   "vwire ID",
		Short: "Probe a vWire from one end's interface to the other end",
		Long: `Sends ICMP echo requests from the client's own interface, inside its network namespace, to every address of the endpoint, and tells
loss and round-trip times. A client that is no kernel interface is probed by the endpoint. Where neither end is one there is no
interface to ping from. ID may be cut short where only one vWire begins so.

The exit code is 1 if a target has answered no probe.`,
		Example: "  highwire ping vwire client-0\n  highwire ping vwire client-0 --count 1000 --interval 10ms -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case !slices.Contains(packetOutputs, output):
				return usagef("-o %q: want %s", output, strings.Join(packetOutputs, ", "))
			case r.Count == 0 || interval <= 0 || timeout <= 0:
				return usagef("--count, --interval and --timeout must be more than 0")
			}
			r.Id, r.Interval, r.Timeout = args[0], durationpb.New(interval), durationpb.New(timeout)
			return admin.onVWire(cmd, r.Id, func(ctx context.Context, c highwirev1.PacketsClient) error {
				stream, err := c.Ping(ctx, r)
				if err != nil {
					return err
				}
				var targets pinged
				for {
					e, err := stream.Recv()
					if errors.Is(err, io.EOF) {
						break
					}
					if err != nil {
						return err
					}
					targets.add(e)
					if output == "table" {
						fmt.Fprintln(cmd.OutOrStdout(), probeLine(e))
					}
				}
				return targets.report(cmd.OutOrStdout(), output)
			})
		},
		ValidArgsFunction: admin.completeVWires,
	}
	flags := cmd.Flags()
	admin.add(flags)
	flags.Uint32Var(&r.Count, "count", 5, "probes to send to each address")
	flags.DurationVar(&interval, "interval", time.Second, "between two probes")
	flags.DurationVar(&timeout, "timeout", time.Second, "how long to wait for each answer")
	flags.Uint32Var(&r.Size, "size", 56, "bytes of payload")
	flags.StringVarP(&output, "output", "o", "table", strings.Join(packetOutputs, ", "))
	return group("ping", "Probe whether packets pass", cmd)
}

func probeLine(e *highwirev1.PingEvent) string {
	what := "no answer"
	if e.GetRoundTrip() != nil {
		what = "answer in " + e.GetRoundTrip().AsDuration().Round(time.Microsecond).String()
	}
	return fmt.Sprintf("%s %s > %s: probe %d, %s", e.GetFrom(), e.GetSource(), e.GetTarget(), e.GetSequence(), what)
}

// pinged is what became of the probes to each target, in the order they were probed.
type pinged []*pingedTarget

// pingedTarget in JSON has times in seconds.
type pingedTarget struct {
	From     string  `json:"from"`
	Source   string  `json:"source"`
	Target   string  `json:"target"`
	Sent     int     `json:"sent"`
	Received int     `json:"received"`
	Loss     float64 `json:"loss"`
	// Round trips of answered probes; absent without any.
	Min times `json:"min,omitzero"`
	P50 times `json:"p50,omitzero"`
	P95 times `json:"p95,omitzero"`
	P99 times `json:"p99,omitzero"`
	Max times `json:"max,omitzero"`

	trips []time.Duration
}

// times is a duration that JSON has in seconds.
type times time.Duration

// MarshalJSON is the number of seconds.
func (t times) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(t).Seconds()) }

func (t times) String() string { return time.Duration(t).Round(time.Microsecond).String() }

func (p *pinged) add(e *highwirev1.PingEvent) {
	if len(*p) == 0 || (*p)[len(*p)-1].Target != e.GetTarget() {
		*p = append(*p, &pingedTarget{From: e.GetFrom(), Source: e.GetSource(), Target: e.GetTarget()})
	}
	t := (*p)[len(*p)-1]
	t.Sent++
	if e.GetRoundTrip() != nil {
		t.trips = append(t.trips, e.GetRoundTrip().AsDuration())
	}
}

// report writes what it comes to; it is an error if a target has not answered at all.
func (p pinged) report(w io.Writer, output string) error {
	var silent []string
	for _, t := range p {
		t.Received, t.Loss = len(t.trips), 1-float64(len(t.trips))/float64(t.Sent)
		if t.Received == 0 {
			silent = append(silent, t.Target)
			continue
		}
		slices.Sort(t.trips)
		at := func(q float64) times { return times(t.trips[max(0, int(math.Ceil(q*float64(len(t.trips))))-1)]) }
		t.Min, t.P50, t.P95, t.P99, t.Max = at(0), at(0.5), at(0.95), at(0.99), at(1)
	}
	if output == "table" {
		for _, t := range p {
			fmt.Fprintf(w, "%s > %s: %d sent, %d received, %.4g %% lost", t.Source, t.Target, t.Sent, t.Received, 100*t.Loss)
			if t.Received > 0 {
				fmt.Fprintf(w, ", round trip min/p50/p95/p99/max %s/%s/%s/%s/%s", t.Min, t.P50, t.P95, t.P99, t.Max)
			}
			fmt.Fprintln(w)
		}
	} else {
		text, err := json.Marshal(p)
		if err != nil {
			return err
		}
		if err := write(w, output, text); err != nil {
			return err
		}
	}
	if len(silent) > 0 {
		return fmt.Errorf("no answer from %s", strings.Join(silent, ", "))
	}
	return nil
}
