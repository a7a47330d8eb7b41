// Package page draws the results of a benchmark as one HTML file that needs no other: plots are inline SVG, and there is no script.
package page

import (
	"embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"highwire/bench"
	"highwire/bench/search"
)

//go:embed page.html.tmpl
var files embed.FS

var page = template.Must(template.New("page.html.tmpl").Funcs(template.FuncMap{
	"number": short,
	"mpps":   func(v float64) string { return short(v / 1e6) },
	"add":    func(a, b float64) float64 { return a + b },
}).ParseFS(files, "page.html.tmpl"))

// Write renders the results. Title says what was measured, made when.
func Write(w io.Writer, title string, made time.Time, r *bench.Results) error {
	return page.Execute(w, struct {
		Title, Made string
		*bench.Results
		Plots []plot
	}{title, made.UTC().Format("2006-01-02 15:04 UTC"), r, plots(r)})
}

// plots are those for which there is something to show.
func plots(r *bench.Results) []plot {
	var list []plot
	for _, path := range pathsOf(r) {
		list = append(list, throughput(path, r), bits(path, r))
	}
	for _, s := range r.Searches {
		list = append(list, lossCurve(s))
	}
	list = append(list, bars("TCP goodput", "Gb/s", tcp(r)), latency(r))
	return slices.DeleteFunc(list, func(p plot) bool { return len(p.Lines) == 0 && len(p.Bars) == 0 })
}

func pathsOf(r *bench.Results) []string {
	var list []string
	for _, s := range r.Searches {
		if !slices.Contains(list, s.Path) {
			list = append(list, s.Path)
		}
	}
	return list
}

// sides are both sides of a search with their names.
func sides(s bench.Searched) []struct {
	name string
	bench.Side
} {
	return []struct {
		name string
		bench.Side
	}{{"vWire", s.VWire}, {"by hand", s.ByHand}}
}

// throughput is rates by frame size.
func throughput(path string, r *bench.Results) plot {
	var groups []group
	for _, s := range r.Searches {
		if s.Path != path {
			continue
		}
		g := group{label: s.Profile}
		for _, side := range sides(s) {
			g.add(side.name+", no loss (NDR)", side.NDR.Throughput/1e6)
			g.add(side.name+", 0.5 % loss (PDR)", side.PDR.Throughput/1e6)
			g.add(side.name+", maximal load (MRR)", side.MRR/1e6)
		}
		g.add("generator's ceiling", s.Ceiling/1e6)
		groups = append(groups, g)
	}
	return bars("Throughput by frame size, "+path, "Mpps", groups)
}

// bits is the same for those who count bits.
func bits(path string, r *bench.Results) plot {
	var groups []group
	for _, s := range r.Searches {
		if s.Path != path {
			continue
		}
		g := group{label: s.Profile}
		for _, side := range sides(s) {
			g.add(side.name+", no loss (NDR)", side.NDR.Throughput*s.Bytes*8/1e9)
			g.add(side.name+", 0.5 % loss (PDR)", side.PDR.Throughput*s.Bytes*8/1e9)
			g.add(side.name+", maximal load (MRR)", side.MRR*s.Bytes*8/1e9)
		}
		groups = append(groups, g)
	}
	return bars("The same in bits, "+path, "Gb/s", groups)
}

// lossCurve is the trials of a search: what was lost of each load.
func lossCurve(s bench.Searched) plot {
	var lines []line
	for _, side := range sides(s) {
		l := line{name: side.name, dots: true}
		trials := slices.Clone(side.Trials)
		slices.SortStableFunc(trials, func(a, b search.Trial) int { return int(math.Copysign(1, a.Load-b.Load)) })
		for _, t := range trials {
			l.points = append(l.points, point{t.Load / 1e6, max(100*t.LossRatio, lossFloor)})
		}
		if len(l.points) > 0 {
			lines = append(lines, l)
		}
	}
	return chart("Loss by load, "+s.Path+" "+s.Profile, "Mpps offered", "% lost", lines, scale{}, scale{log: true, low: lossFloor, high: 100, names: map[float64]string{lossFloor: "0"}})
}

// lossFloor is where no loss is drawn on the logarithmic axis, in percent.
const lossFloor = 1e-4

func tcp(r *bench.Results) []group {
	var groups []group
	for _, f := range r.Figures {
		if name, ok := strings.CutSuffix(f.Name, " TCP"); ok {
			g := group{label: name}
			g.add("vWire", f.Value)
			g.add("by hand", f.Baseline)
			groups = append(groups, g)
		}
	}
	return groups
}

// latency is round trips by percentile. The axis stretches towards 100 %: what is rare is what hurts.
func latency(r *bench.Results) plot {
	var lines []line
	ticks := scale{names: map[float64]string{}}
	for _, l := range r.Latencies {
		of := line{name: l.Path + ", " + l.Of, dots: true}
		for _, p := range l.Percentiles {
			x := stretched(p.Percent)
			ticks.names[x] = fmt.Sprintf("%g", p.Percent)
			of.points = append(of.points, point{x, float64(p.Time.Nanoseconds()) / 1e3})
		}
		if len(of.points) > 0 {
			lines = append(lines, of)
		}
	}
	return chart("Round trips", "percentile", "µs", lines, ticks, scale{log: true})
}

// stretched is -log10 of the part that is slower; the slowest of all is drawn at 99.99 %.
func stretched(percent float64) float64 { return -math.Log10(max(1-percent/100, 1e-4)) }

// short has three significant digits and no exponent.
func short(v float64) string {
	switch {
	case v == 0:
		return "0"
	case math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	case math.Abs(v) >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
