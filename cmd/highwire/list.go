package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	highwirev1 "highwire/controlplane/api/highwire/v1"
)

// column of a table of things of type T.
type column[T any] struct {
	title string
	// wide: shown by -o wide only.
	wide bool
	cell func(T) string
}

// listing is one "get NAME".
type listing[T proto.Message] struct {
	name, what string
	columns    []column[T]
	list       func(context.Context, highwirev1.InspectClient) ([]T, error)
	// from is list, of another service of the admin socket.
	from func(context.Context, grpc.ClientConnInterface) ([]T, error)
}

func (l listing[T]) command() *cobra.Command {
	var admin adminFlag
	var output outputFlag
	var watch watchFlag
	cmd := &cobra.Command{
		Use:     l.name,
		Short:   "List " + l.what,
		Example: fmt.Sprintf("  highwire get %s\n  highwire get %s -o wide --watch\n  highwire get %s -o json", l.name, l.name, l.name),
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := output.check(); err != nil {
				return err
			}
			return watch.run(cmd, func(ctx context.Context, w io.Writer) error {
				ctx, cancel := context.WithTimeout(ctx, inspectWithin)
				defer cancel()
				return admin.connect(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
					items, err := l.items(ctx, conn)
					if err != nil {
						return err
					}
					if !output.table() {
						return encode(w, output.format, items)
					}
					return table(w, l.columns, items, output.wide())
				})
			})
		},
	}
	admin.add(cmd.Flags())
	output.add(cmd.Flags())
	watch.add(cmd)
	return cmd
}

func (l listing[T]) items(ctx context.Context, conn grpc.ClientConnInterface) ([]T, error) {
	if l.from != nil {
		return l.from(ctx, conn)
	}
	return l.list(ctx, highwirev1.NewInspectClient(conn))
}

// table writes items in columns.
func table[T any](w io.Writer, columns []column[T], items []T, wide bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(cell func(column[T]) string) {
		var cells []string
		for _, c := range columns {
			if wide || !c.wide {
				cells = append(cells, cell(c))
			}
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	row(func(c column[T]) string { return c.title })
	for _, item := range items {
		row(func(c column[T]) string { return c.cell(item) })
	}
	return t.Flush()
}

// watchFlag shows something again and again.
type watchFlag struct {
	on    bool
	every time.Duration
}

func (f *watchFlag) add(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&f.on, "watch", "w", false, "stay, and show it again when it has changed")
	cmd.Flags().DurationVar(&f.every, "every", 2*time.Second, "how often --watch looks")
}

// run calls show once, or until the command is stopped. What is the same as before is not written again.
func (f *watchFlag) run(cmd *cobra.Command, show func(context.Context, io.Writer) error) error {
	if !f.on {
		return show(cmd.Context(), cmd.OutOrStdout())
	}
	if f.every <= 0 {
		return usagef("--every %v: want more than 0", f.every)
	}
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	var last []byte
	for {
		var b bytes.Buffer
		err := show(cmd.Context(), &b)
		switch {
		case cmd.Context().Err() != nil:
			return nil
		case errors.Is(err, errNoAgent) && last != nil:
			b.Reset()
			fmt.Fprintln(&b, "the agent does not answer now")
		case err != nil:
			return err
		}
		if !bytes.Equal(b.Bytes(), last) {
			if last != nil {
				fmt.Fprintln(cmd.OutOrStdout())
			}
			last = bytes.Clone(b.Bytes())
			if _, err := cmd.OutOrStdout().Write(last); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-cmd.Context().Done():
			return nil
		}
	}
}
