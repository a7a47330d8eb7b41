package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	highwirev1 "highwire/controlplane/api/highwire/v1"
	"highwire/controlplane/packets"
)

// captureEnds bounds what may still come once a capture was told to end.
const captureEnds = 15 * time.Second

func newPcap() *cobra.Command {
	var admin adminFlag
	var file string
	var duration time.Duration
	r := &highwirev1.CaptureRequest{}
	cmd := &cobra.Command{
		Use:   "vwire ID",
		Short: "Write a vWire's packets to a file for Wireshark",
		Long: `Writes the packets at an end of the vWire to a pcapng file, or to standard output with '-w -', until Ctrl-C, --count or --duration
ends it. A kernel interface is captured in its owner's network namespace as packets come, also where the path is direct; a memif as
VPP records it, once a second. A direct path between two memifs cannot be seen.

--filter is a part of tcpdump's language:
  ip, ip6, arp, icmp, icmp6, tcp, udp, sctp, vlan [ID], proto NUMBER, less LENGTH, greater LENGTH
  [src|dst] host ADDRESS, [src|dst] net PREFIX, [tcp|udp|sctp] [src|dst] port NUMBER, portrange FROM-TO, ether [src|dst] host MAC
  not, and, or, ( )
ID may be cut short where only one vWire begins so.`,
		Example: "  highwire pcap vwire client-0 -w out.pcapng --duration 10s\n" +
			"  highwire pcap vwire client-0 -w - --filter 'tcp port 80 and not host 10.0.0.1' | wireshark -k -i -\n" +
			"  highwire pcap vwire client-0 --end both --count 1000 --snaplen 128 -w heads.pcapng",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case file == "":
				return usagef("-w is needed: the file to write, or - for standard output")
			case !slices.Contains([]string{"", "client", "endpoint", "both"}, r.End):
				return usagef("--end %q: want client, endpoint or both", r.End)
			case duration < 0:
				return usagef("--duration must not be negative")
			}
			r.Id, r.Duration = args[0], durationpb.New(duration)
			w := cmd.OutOrStdout()
			if file == "-" {
				if f, ok := w.(*os.File); ok && isTerminal(f) {
					return usagef("-w -: standard output is a terminal; redirect it or name a file")
				}
				return capture(cmd, &admin, r, w)
			}
			f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
			if err != nil {
				return fmt.Errorf("-w: %w", err)
			}
			err = capture(cmd, &admin, r, f)
			return errors.Join(err, f.Close())
		},
		ValidArgsFunction: admin.completeVWires,
	}
	flags := cmd.Flags()
	admin.add(flags)
	flags.StringVarP(&file, "write", "w", "", "file to write, - for standard output")
	flags.StringVar(&r.End, "end", "", "whose end: client, endpoint or both (default: the client's, or the endpoint's if that one cannot be seen)")
	flags.Uint64Var(&r.Count, "count", 0, "packets to capture at most (default: no limit)")
	flags.DurationVar(&duration, "duration", 0, "how long to capture (default: until Ctrl-C)")
	flags.Uint32Var(&r.Snaplen, "snaplen", 0, "bytes to keep of each packet (default: all)")
	flags.StringVar(&r.Filter, "filter", "", "which packets, in tcpdump's language as far as it is known here (default: all)")
	return group("pcap", "Capture packets", cmd)
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// capture writes what the agent captures. Ctrl-C ends the capture, not the writing of what was captured by then.
func capture(cmd *cobra.Command, admin *adminFlag, r *highwirev1.CaptureRequest, w io.Writer) error {
	ending := cmd.Context()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ending))
	defer cancel()
	defer context.AfterFunc(ending, func() { time.AfterFunc(captureEnds, cancel) })()
	cmd.SetContext(ctx)
	return admin.onVWire(cmd, r.Id, func(ctx context.Context, c highwirev1.PacketsClient) error {
		stream, err := c.Capture(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(r); err != nil && !errors.Is(err, io.EOF) { // Recv tells why
			return err
		}
		defer context.AfterFunc(ending, func() { _ = stream.CloseSend() })()
		out := packets.File{W: w, Application: "highwire " + version, VWire: r.Id, Filter: r.Filter}
		for {
			e, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err == nil {
				err = out.Add(e)
			}
			if err != nil {
				return err
			}
			tellCapture(cmd.ErrOrStderr(), &out, e)
		}
	})
}

// tellCapture tells where packets are captured and how many there were.
func tellCapture(w io.Writer, f *packets.File, e *highwirev1.CaptureEvent) {
	switch {
	case e.GetPoint() != nil:
		fmt.Fprintf(w, "capturing at %s\n", where(e.GetPoint()))
		if limits := e.GetPoint().GetLimits(); limits != "" {
			fmt.Fprintf(w, "note: %s\n", limits)
		}
	case e.GetStatistics() != nil:
		s := e.GetStatistics()
		fmt.Fprintf(w, "%d packets at %s, %d lost\n", s.GetCaptured(), where(f.Point(s.GetPoint())), s.GetLost())
	}
}

func where(p *highwirev1.CapturePoint) string {
	return fmt.Sprintf("the %s's %s (%s)", p.GetEnd(), p.GetInterface(), p.GetSource())
}
