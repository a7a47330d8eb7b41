package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	highwirev1 "highwire/controlplane/api/highwire/v1"
)

func newGraph() *cobra.Command {
	var admin adminFlag
	var format string
	cmd := &cobra.Command{
		Use:   "graph",
		Short: "Draw who is connected to whom, over what, for Graphviz or Mermaid",
		Long: `Writes a graph of the node's vWires: clients and endpoints, and between them an edge for each vWire with its service, the
mechanisms of both ends and its state. Direct paths are drawn bold, those that are not up dashed. -o json and yaml list the edges.`,
		Example: "  highwire graph | dot -Tsvg > vwires.svg\n  highwire graph --format mermaid",
		Args:    cobra.NoArgs,
	}
	var output outputFlag
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := output.check(); err != nil {
			return err
		}
		draw := map[string]func(io.Writer, []edge) error{"dot": dot, "mermaid": mermaid}[format]
		if draw == nil {
			return usagef("--format %q: want dot or mermaid", format)
		}
		return admin.ask(cmd.Context(), func(ctx context.Context, c highwirev1.InspectClient) error {
			r, err := c.ListVWires(ctx, &highwirev1.ListVWiresRequest{})
			if err != nil {
				return err
			}
			edges := edgesOf(r.GetVwires())
			if !output.table() {
				return encodeAny(cmd.OutOrStdout(), output.format, edges)
			}
			return draw(cmd.OutOrStdout(), edges)
		})
	}
	admin.add(cmd.Flags())
	output.add(cmd.Flags())
	cmd.Flags().StringVar(&format, "format", "dot", "dot (Graphviz) or mermaid")
	return cmd
}

// edge is a vWire in the graph.
type edge struct {
	VWire    string `json:"vwire"`
	Client   string `json:"client"`
	Endpoint string `json:"endpoint"`
	Service  string `json:"service"`
	// Over is the mechanisms, "kernel – vxlan".
	Over   string `json:"over"`
	State  string `json:"state"`
	Direct bool   `json:"direct"`
}

func edgesOf(vwires []*highwirev1.VWire) []edge {
	edges := []edge{}
	for _, v := range vwires {
		e := edge{
			VWire: v.GetId(), Client: v.GetClient().GetName(), Endpoint: v.GetEndpoint().GetName(), Service: v.GetService(), State: v.GetState(),
			Over:   strings.ToLower(v.GetClient().GetMechanism() + " – " + v.GetEndpoint().GetMechanism()),
			Direct: v.GetDatapath() == "direct",
		}
		// A vWire whose manager does not know it any more has no names.
		if e.Client == "" {
			e.Client = "client of " + e.VWire
		}
		if e.Endpoint == "" {
			e.Endpoint = "endpoint of " + e.VWire
		}
		edges = append(edges, e)
	}
	return edges
}

func (e edge) up() bool { return e.State == "up" }

// label is the edge's text in two lines.
func (e edge) label(newline string) string {
	state := e.State
	if e.Direct {
		state += ", direct"
	}
	return e.Service + newline + e.Over + newline + state
}

// nodesOf are all clients and endpoints by name; true for an endpoint.
func nodesOf(edges []edge) (names []string, endpoints map[string]bool) {
	endpoints = map[string]bool{}
	for _, e := range edges {
		endpoints[e.Endpoint] = true
	}
	for _, e := range edges {
		if !endpoints[e.Client] {
			endpoints[e.Client] = false
		}
	}
	return slices.Sorted(maps.Keys(endpoints)), endpoints
}

func dot(w io.Writer, edges []edge) error {
	var b strings.Builder
	b.WriteString("digraph highwire {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n  edge [fontname=\"sans-serif\", fontsize=10, dir=both];\n")
	names, endpoints := nodesOf(edges)
	for _, n := range names {
		shape := ""
		if endpoints[n] {
			shape = " [style=rounded]"
		}
		fmt.Fprintf(&b, "  %q%s;\n", n, shape)
	}
	for _, e := range edges {
		style := "solid"
		switch {
		case !e.up():
			style = "dashed"
		case e.Direct:
			style = "bold"
		}
		fmt.Fprintf(&b, "  %q -> %q [label=%q, style=%s, tooltip=%q];\n", e.Client, e.Endpoint, e.label("\n"), style, e.VWire)
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func mermaid(w io.Writer, edges []edge) error {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	names, endpoints := nodesOf(edges)
	number := map[string]int{}
	quote := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, "#quot;") + `"` }
	for i, n := range names {
		number[n] = i
		left, right := "[", "]"
		if endpoints[n] {
			left, right = "(", ")"
		}
		fmt.Fprintf(&b, "  n%d%s%s%s\n", i, left, quote(n), right)
	}
	for _, e := range edges {
		line := "<-->"
		switch {
		case !e.up():
			line = "<-.->"
		case e.Direct:
			line = "<==>"
		}
		fmt.Fprintf(&b, "  n%d %s|%s| n%d\n", number[e.Client], line, quote(e.label("<br>")), number[e.Endpoint])
	}
	_, err := io.WriteString(w, b.String())
	return err
}
