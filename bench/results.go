package bench

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"highwire/bench/search"
	"highwire/vppapi/fault"
)

// Results are all that a run of Paths has measured. Rates are packets a second, loads too.
type Results struct {
	Machine   Machine    `json:"machine"`
	Figures   []Figure   `json:"figures"`
	Searches  []Searched `json:"searches,omitempty"`
	Latencies []Latency  `json:"latencies,omitempty"`
}

// Searched is what the search has found of one path with frames of one profile.
type Searched struct {
	Path    string `json:"path"`
	Profile string `json:"profile"`
	// Bytes is the mean size of a frame.
	Bytes float64 `json:"bytes"`
	// Ceiling is what the generator makes with nobody in between.
	Ceiling float64 `json:"ceiling"`
	// Limited: the generator, and not what was measured, was the limit of MRR or of a bound.
	Limited bool `json:"limited"`
	VWire   Side `json:"vwire"`
	ByHand  Side `json:"byHand"`
}

// Side is one of two that are measured beside each other.
type Side struct {
	// MRR is what comes through at the maximal load.
	MRR float64 `json:"mrr"`
	// NDR and PDR are the search's results for no loss and for half a percent.
	NDR search.Result `json:"ndr"`
	PDR search.Result `json:"pdr"`
	// Trials are the loss curve.
	Trials []search.Trial `json:"trials"`
	// Nodes are what VPP spends on a packet, by graph node, at the maximal load.
	Nodes []NodeClocks `json:"nodes,omitempty"`
}

// NodeClocks is a node's share of the clocks for a packet.
type NodeClocks struct {
	Node   string  `json:"node"`
	Clocks float64 `json:"clocks"`
}

// Latency is how long echoes take on a path without other load.
type Latency struct {
	Path string `json:"path"`
	// Of is "vWire" or "by hand".
	Of          string       `json:"of"`
	Sent        int          `json:"sent"`
	Received    int          `json:"received"`
	Loss        float64      `json:"loss"`
	Percentiles []Percentile `json:"percentiles"`
}

// Percentile of round trips.
type Percentile struct {
	Percent float64       `json:"percent"`
	Time    time.Duration `json:"time"`
}

// byPacket shares a VPP's clocks among the packets that came by the named node, most expensive node first.
func (n nodes) byPacket(through string) []NodeClocks {
	packets := n.list[through].packets
	var list []NodeClocks
	for name, o := range n.list {
		if packets > 0 {
			list = append(list, NodeClocks{name, o.packets * o.clocks / packets})
		}
	}
	slices.SortFunc(list, func(a, b NodeClocks) int { return cmp.Or(cmp.Compare(b.Clocks, a.Clocks), cmp.Compare(a.Node, b.Node)) })
	return list
}

// Write stores the results as JSON at path, in a folder it makes.
func (r *Results) Write(path string) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return errors.Join(e.Encode(r), writeFile(path, b.Bytes()))
}

// Table is the figures for people.
func (r *Results) Table() string {
	report := Report{Machine: r.Machine.String(), Figures: r.Figures}
	return report.Table()
}

// ReadFigures reads the figures of a file that Results.Write or Report.Write has written.
func ReadFigures(path string) ([]Figure, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r struct{ Figures []Figure }
	if b = bytes.TrimSpace(b); bytes.HasPrefix(b, []byte("[")) {
		err = json.Unmarshal(b, &r.Figures)
	} else {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s has no figures: %w; want a report of 'highwire bench' or of make bench-…", path, err)
	}
	if len(r.Figures) == 0 {
		return nil, fault.New(fault.Invalid, "%s has no figures; want a report of 'highwire bench' or of make bench-…", path)
	}
	return r.Figures, nil
}

func writeFile(path string, b []byte) error {
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write the report: %w; name another file with --out", err)
	}
	return nil
}
