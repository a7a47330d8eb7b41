package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/spf13/cobra"

	highwirev1 "highwire/controlplane/api/highwire/v1"
	"highwire/controlplane/server"
)

func newTop() *cobra.Command {
	var admin adminFlag
	var output outputFlag
	var every time.Duration
	var once bool
	var sortBy string
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch rates and drops of all vWires in the terminal",
		Long: `Shows the vWires of the node with the rates at which packets and bits pass and packets are lost, the busiest first, and
measures anew all the time. Keys: r sorts by rate, d by drops, n by service; up and down scroll; q ends. --once measures once and
prints a table, for scripts and pipes.`,
		Example: "  highwire top\n  highwire top --sort drops\n  highwire top --once -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := output.check(); err != nil {
				return err
			}
			if every < 100*time.Millisecond {
				return usagef("--every %v: want 100ms or more", every)
			}
			if _, ok := orders[sortBy]; !ok {
				return usagef("--sort %q: want rate, drops or service", sortBy)
			}
			m := meter{admin: admin, every: every}
			if once {
				rows, err := m.once(cmd.Context())
				if err != nil {
					return err
				}
				slices.SortStableFunc(rows, orders[sortBy])
				if !output.table() {
					return encodeAny(cmd.OutOrStdout(), output.format, rows)
				}
				return writeRates(cmd.OutOrStdout(), rows)
			}
			if _, err := m.measure(cmd.Context()); err != nil {
				return err
			}
			screen := &screen{ctx: cmd.Context(), meter: m, sortBy: sortBy, height: 24}
			_, err := tea.NewProgram(screen, tea.WithContext(cmd.Context()), tea.WithOutput(cmd.OutOrStdout()), tea.WithAltScreen()).Run()
			if err != nil && cmd.Context().Err() == nil {
				return err
			}
			return nil // it was stopped
		},
	}
	admin.add(cmd.Flags())
	output.add(cmd.Flags())
	cmd.Flags().DurationVar(&every, "every", time.Second, "how long to measure")
	cmd.Flags().BoolVar(&once, "once", false, "measure once, print and end")
	cmd.Flags().StringVar(&sortBy, "sort", "rate", "rate, drops or service")
	return cmd
}

// rates are those of one vWire, a second.
type rates struct {
	VWire   string `json:"vwire"`
	Service string `json:"service"`
	State   string `json:"state"`
	// CountedBy is "vpp", "kernel" or empty: then all rates are 0 because nobody knows them.
	CountedBy string `json:"countedBy"`
	// Forth is from the client to the endpoint, Back the other way; in packets and bits.
	ForthPackets float64 `json:"forthPackets"`
	ForthBits    float64 `json:"forthBits"`
	BackPackets  float64 `json:"backPackets"`
	BackBits     float64 `json:"backBits"`
	Drops        float64 `json:"drops"`
}

var orders = map[string]func(a, b rates) int{
	"rate":    func(a, b rates) int { return cmp.Compare(b.ForthBits+b.BackBits, a.ForthBits+a.BackBits) },
	"drops":   func(a, b rates) int { return cmp.Compare(b.Drops, a.Drops) },
	"service": func(a, b rates) int { return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.VWire, b.VWire)) },
}

// meter measures by looking twice.
type meter struct {
	admin  adminFlag
	every  time.Duration
	last   map[string]*highwirev1.VWire
	looked time.Time
}

// measure gives the rates since the last look; at first all are 0.
func (m *meter) measure(ctx context.Context) (rows []rates, err error) {
	err = m.admin.ask(ctx, func(ctx context.Context, c highwirev1.InspectClient) error {
		r, err := c.ListVWires(ctx, &highwirev1.ListVWiresRequest{})
		if err != nil {
			return err
		}
		now := time.Now()
		took := now.Sub(m.looked)
		seen := map[string]*highwirev1.VWire{}
		for _, v := range r.GetVwires() {
			seen[v.GetId()] = v
			row := rates{VWire: v.GetId(), Service: v.GetService(), State: stateCell(v), CountedBy: v.GetCountedBy()}
			if before := m.last[v.GetId()]; before != nil && v.GetCountedBy() != "" {
				client := server.RateOf(before.GetClient().GetCounters(), v.GetClient().GetCounters(), took)
				endpoint := server.RateOf(before.GetEndpoint().GetCounters(), v.GetEndpoint().GetCounters(), took)
				row.ForthPackets, row.ForthBits = client.GetRxPackets(), 8*client.GetRxBytes()
				row.BackPackets, row.BackBits = endpoint.GetRxPackets(), 8*endpoint.GetRxBytes()
				row.Drops = client.GetDrops() + endpoint.GetDrops()
			}
			rows = append(rows, row)
		}
		m.last, m.looked = seen, now
		return nil
	})
	return rows, err
}

// once looks twice.
func (m *meter) once(ctx context.Context) ([]rates, error) {
	if _, err := m.measure(ctx); err != nil {
		return nil, err
	}
	select {
	case <-time.After(m.every):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return m.measure(ctx)
}

var rateColumns = []column[rates]{
	{title: "VWIRE", cell: func(r rates) string { return r.VWire }},
	{title: "SERVICE", cell: func(r rates) string { return r.Service }},
	{title: "STATE", cell: func(r rates) string { return r.State }},
	{title: "CLIENT →", cell: func(r rates) string { return r.flow(r.ForthPackets, r.ForthBits) }},
	{title: "← ENDPOINT", cell: func(r rates) string { return r.flow(r.BackPackets, r.BackBits) }},
	{title: "DROPS/S", cell: func(r rates) string {
		if r.CountedBy == "" {
			return "-"
		}
		return fmt.Sprintf("%.0f", r.Drops)
	}},
}

func (r rates) flow(packets, bits float64) string {
	if r.CountedBy == "" {
		return "not counted"
	}
	return fmt.Sprintf("%.0f p/s  %s", packets, bitsText(bits))
}

func writeRates(w io.Writer, rows []rates) error { return table(w, rateColumns, rows, false) }

// screen is the live view.
type screen struct {
	ctx    context.Context
	meter  meter
	sortBy string
	rows   []rates
	// trouble is why there are no newer rates; the view stays and tries again.
	trouble     error
	top, height int
}

type tick struct{}

type measured struct {
	rows []rates
	err  error
}

// Init begins to measure.
func (s *screen) Init() tea.Cmd { return s.wait() }

func (s *screen) wait() tea.Cmd {
	return tea.Tick(s.meter.every, func(time.Time) tea.Msg { return tick{} })
}

// Update takes keys and measurements.
func (s *screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		s.height = msg.Height
	case tea.KeyMsg:
		switch msg.String() {
		case "q", "ctrl+c", "esc":
			return s, tea.Quit
		case "r":
			s.sortBy = "rate"
		case "d":
			s.sortBy = "drops"
		case "n":
			s.sortBy = "service"
		case "up", "k":
			s.top--
		case "down", "j":
			s.top++
		case "pgup":
			s.top -= s.room()
		case "pgdown":
			s.top += s.room()
		}
	case tick:
		return s, func() tea.Msg {
			rows, err := s.meter.measure(s.ctx)
			return measured{rows, err}
		}
	case measured:
		if s.trouble = msg.err; msg.err == nil {
			s.rows = msg.rows
		}
		return s, s.wait()
	}
	s.top = max(0, min(s.top, len(s.rows)-s.room()))
	return s, nil
}

// room is how many vWires fit.
func (s *screen) room() int { return max(1, s.height-4) }

// View draws it.
func (s *screen) View() string {
	rows := slices.Clone(s.rows)
	slices.SortStableFunc(rows, orders[s.sortBy])
	var forth, back, drops float64
	for _, r := range rows {
		forth, back, drops = forth+r.ForthBits, back+r.BackBits, drops+r.Drops
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d vWires  → %s  ← %s  drops %.0f/s  by %s (r, d, n; q ends)\n", len(rows), bitsText(forth), bitsText(back), drops, s.sortBy)
	if s.trouble != nil {
		fmt.Fprintf(&b, "%v\n", s.trouble)
	} else {
		b.WriteString("\n")
	}
	first := max(0, min(s.top, len(rows)-1))
	_ = writeRates(&b, rows[first:min(len(rows), first+s.room())]) // a Builder takes all
	return b.String()
}
