package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	highwirev1 "highwire/controlplane/api/highwire/v1"
)

// newEvents follows what happens.
func newEvents() *cobra.Command {
	var admin adminFlag
	var output outputFlag
	var all, once bool
	cmd := &cobra.Command{
		Use:   "events [ID]",
		Short: "Tell what happens, as it happens: to all vWires, or to one",
		Long: `Tells what happens at the agent until it is stopped: Requests and their results, what is changed in the dataplane,
states that vWires enter, resyncs, and the coming and going of VPP. With ID, only what concerns that vWire.`,
		Example:           "  highwire events\n  highwire events client-0 --all\n  highwire events -o json",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: admin.completeVWires,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := output.check(); err != nil {
				return err
			}
			err := admin.events(cmd.Context(), args, !once, all || once, func(e *highwirev1.Event) error {
				return writeEvent(cmd.OutOrStdout(), e, output)
			})
			if err != nil && cmd.Context().Err() == nil {
				return err
			}
			return nil // it was stopped
		},
	}
	admin.add(cmd.Flags())
	output.add(cmd.Flags())
	cmd.Flags().BoolVar(&all, "all", false, "begin with what is remembered")
	cmd.Flags().BoolVar(&once, "no-follow", false, "show what is remembered and end")
	return cmd
}

// newHistory shows what has happened to one vWire.
func newHistory() *cobra.Command {
	var admin adminFlag
	var output outputFlag
	cmd := &cobra.Command{
		Use:   "history ID",
		Short: "Show what has happened to a vWire, with each step taken in the dataplane",
		Long: `Shows what has happened to a vWire, with each step that was taken in the dataplane for it. The agent remembers its last
4096 events; a vWire that is gone needs its full id.`,
		Example:           "  highwire history client-0\n  highwire history client-0 -o yaml",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: admin.completeVWires,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := output.check(); err != nil {
				return err
			}
			var list []*highwirev1.Event
			err := admin.events(cmd.Context(), args, false, true, func(e *highwirev1.Event) error {
				list = append(list, e)
				return nil
			})
			if err != nil {
				return err
			}
			if !output.table() {
				return encode(cmd.OutOrStdout(), output.format, list)
			}
			for _, e := range list {
				if err := writeEvent(cmd.OutOrStdout(), e, outputFlag{"wide"}); err != nil {
					return err
				}
			}
			return nil
		},
	}
	admin.add(cmd.Flags())
	output.add(cmd.Flags())
	return cmd
}

// events calls fn for each event of the vWire named by args, or of all: the remembered ones first if wanted, then, with follow,
// those to come.
func (a *adminFlag) events(ctx context.Context, args []string, follow, remembered bool, fn func(*highwirev1.Event) error) error {
	r := &highwirev1.WatchEventsRequest{Follow: follow, New: !remembered}
	if len(args) > 0 {
		r.Vwire = args[0]
	}
	return a.connect(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		c := highwirev1.NewInspectClient(conn)
		stream, err := c.WatchEvents(ctx, r)
		if err != nil {
			return err
		}
		for {
			e, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF):
				return nil
			case status.Code(err) == codes.NotFound:
				return withNearest(ctx, c, r.GetVwire(), err)
			case err != nil:
				return err
			}
			if err := fn(e); err != nil {
				return err
			}
		}
	})
}

func writeEvent(w io.Writer, e *highwirev1.Event, output outputFlag) error {
	if !output.table() {
		// One document after the other: a stream has no end.
		if output.format == "yaml" {
			fmt.Fprintln(w, "---")
		}
		return encodeOne(w, output.format, e)
	}
	id := e.GetVwire()
	if id == "" {
		id = "-"
	}
	_, err := fmt.Fprintf(w, "%s  %s  %s\n", e.GetTime().AsTime().Local().Format("2006-01-02 15:04:05.000"), id, eventText(e))
	if output.wide() {
		for _, step := range e.GetSteps() {
			if _, err := fmt.Fprintf(w, "    %s\n", step); err != nil {
				return err
			}
		}
	}
	return err
}

// eventText is what happened, without when and to whom.
func eventText(e *highwirev1.Event) string {
	words := []string{e.GetKind()}
	switch {
	case len(e.GetSteps()) > 0:
		words = append(words, fmt.Sprintf("%d objects in the dataplane", len(e.GetSteps())))
	case e.GetText() != "":
		words = append(words, e.GetText())
	}
	if e.GetTook() != nil {
		words = append(words, "("+e.GetTook().AsDuration().Round(100*time.Microsecond).String()+")")
	}
	if e.GetError() != "" {
		words = append(words, "ERROR "+e.GetError())
	}
	return strings.Join(words, " ")
}
