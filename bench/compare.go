package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Verdict on a figure that two reports have.
type Verdict string

const (
	// Same: the spreads of both overlap, or they differ by less than Tolerance.
	Same Verdict = "same"
	// Better is beyond both spreads.
	Better Verdict = "better"
	// Worse is, too.
	Worse Verdict = "worse"
	// Gone is only in the report before.
	Gone Verdict = "gone"
	// New is only in the report after.
	New Verdict = "new"
)

// Tolerance is by how much figures may differ that tell nothing of their spread.
const Tolerance = 0.05

// Change is one figure in two reports.
type Change struct {
	Name     string
	Unit     string
	Old, New Figure
	Verdict  Verdict
}

// CompareReports tells for each figure of both reports, in the order of the first, whether it changed by more than its
// measurements vary: beyond the spreads that both reports give, or beyond Tolerance where one gives none.
func CompareReports(before, after []Figure) []Change {
	var list []Change
	for _, o := range before {
		i := slices.IndexFunc(after, func(n Figure) bool { return n.Name == o.Name && n.Unit == o.Unit })
		if i < 0 {
			list = append(list, Change{o.Name, o.Unit, o, Figure{}, Gone})
			continue
		}
		list = append(list, Change{o.Name, o.Unit, o, after[i], judge(o, after[i])})
	}
	for _, n := range after {
		if !slices.ContainsFunc(before, func(o Figure) bool { return n.Name == o.Name && n.Unit == o.Unit }) {
			list = append(list, Change{n.Name, n.Unit, Figure{}, n, New})
		}
	}
	return list
}

func judge(o, n Figure) Verdict {
	olow, ohigh := o.spread()
	nlow, nhigh := n.spread()
	verdict := Same
	switch {
	case nlow > ohigh:
		verdict = Better
	case nhigh < olow:
		verdict = Worse
	}
	if verdict != Same && lessIsBetter(n.Unit) {
		verdict = map[Verdict]Verdict{Better: Worse, Worse: Better}[verdict]
	}
	return verdict
}

// spread is where the value lies for certain; a figure that does not tell gets half the tolerance to either side.
func (f Figure) spread() (low, high float64) {
	if f.Low == 0 && f.High == 0 {
		return f.Value * (1 - Tolerance/2), f.Value * (1 + Tolerance/2)
	}
	return f.Low, f.High
}

// lessIsBetter of times and costs.
func lessIsBetter(unit string) bool {
	switch unit {
	case "s", "ms", "µs", "ns", "clocks/packet", "bytes", "kB", "KiB", "MB", "MiB", "%", "% of a core", "messages":
		return true
	}
	return strings.HasPrefix(unit, "ms ") || strings.HasPrefix(unit, "KiB ") || strings.HasPrefix(unit, "MiB ")
}

// WriteChanges writes the comparison as a table and tells whether anything is worse.
func WriteChanges(w io.Writer, changes []Change) (worse int, err error) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FIGURE\tUNIT\tBEFORE\tAFTER\tCHANGE\tSPREAD BEFORE\tSPREAD AFTER\tVERDICT")
	for _, c := range changes {
		change := "-"
		if c.Old.Value != 0 && c.New.Value != 0 {
			change = fmt.Sprintf("%+.1f %%", 100*(c.New.Value/c.Old.Value-1))
		}
		if c.Verdict == Worse {
			worse++
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.Name, c.Unit, number(c.Old.Value, 4), number(c.New.Value, 4), change, spreadCell(c.Old), spreadCell(c.New), c.Verdict)
	}
	return worse, t.Flush()
}

func spreadCell(f Figure) string {
	if f.Low == 0 && f.High == 0 {
		return "-"
	}
	return fmt.Sprintf("%.4g to %.4g", f.Low, f.High)
}
