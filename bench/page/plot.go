package page

import (
	"maps"
	"math"
	"slices"
)

// plot is a drawing in SVG's coordinates, ready for the template.
type plot struct {
	Title, XLabel, YLabel string
	Width, Height         float64
	// The area between the axes.
	Left, Top, Right, Bottom float64
	XTicks, YTicks           []tick
	Bars                     []bar
	Lines                    []polyline
	Legend                   []legend
}

type tick struct {
	At   float64
	Text string
}

type bar struct {
	X, Y, Width, Height float64
	Color, Text         string
}

type polyline struct {
	Points string
	Color  string
	Dots   []dot
}

type dot struct {
	X, Y float64
	Text string
}

type legend struct {
	Y           float64
	Color, Text string
}

// colors that people with any sight tell apart (Okabe and Ito).
var colors = []string{"#0072b2", "#56b4e9", "#009e73", "#d55e00", "#e69f00", "#cc79a7", "#999999"}

func paint(i int) string { return colors[i%len(colors)] }

// Sizes in pixels.
const (
	width, height            = 900, 360
	left, top, right, bottom = 70, 20, 250, 60
	legendStep               = 20
)

func newPlot(title, x, y string) plot {
	return plot{Title: title, XLabel: x, YLabel: y, Width: width, Height: height, Left: left, Top: top, Right: width - right, Bottom: height - bottom}
}

func (p *plot) addLegend(i int, text string) {
	p.Legend = append(p.Legend, legend{Y: top + 10 + legendStep*float64(i), Color: paint(i), Text: text})
}

// group of bars that stand together.
type group struct {
	label string
	names []string
	bars  []float64
}

func (g *group) add(name string, value float64) {
	g.names, g.bars = append(g.names, name), append(g.bars, value)
}

// bars draws groups, of which all have bars of the same names.
func bars(title, unit string, groups []group) plot {
	p := newPlot(title, "", unit)
	highest := 0.0
	for _, g := range groups {
		highest = max(highest, slices.Max(append([]float64{0}, g.bars...)))
	}
	if highest == 0 {
		return p
	}
	y := scale{low: 0, high: highest}
	y.nice()
	for _, v := range y.ticks() {
		p.YTicks = append(p.YTicks, tick{y.at(v, p.Bottom, p.Top), y.text(v)})
	}
	slot := (p.Right - p.Left) / float64(len(groups))
	for i, g := range groups {
		start := p.Left + slot*float64(i)
		p.XTicks = append(p.XTicks, tick{start + slot/2, g.label})
		wide := slot * 0.8 / float64(len(g.bars))
		for k, v := range g.bars {
			at := y.at(v, p.Bottom, p.Top)
			p.Bars = append(p.Bars, bar{start + slot*0.1 + wide*float64(k), at, wide * 0.92, p.Bottom - at, paint(k), g.label + ", " + g.names[k] + ": " + short(v) + " " + unit})
		}
	}
	for k, name := range groups[0].names {
		p.addLegend(k, name)
	}
	return p
}

type point struct{ x, y float64 }

type line struct {
	name   string
	points []point
	dots   bool
}

// scale of an axis. Without names it has round numbers as ticks; low and high are found from the points where both are 0.
type scale struct {
	log       bool
	low, high float64
	names     map[float64]string
}

// chart draws lines.
func chart(title, xLabel, yLabel string, lines []line, x, y scale) plot {
	p := newPlot(title, xLabel, yLabel)
	if len(lines) == 0 {
		return p
	}
	var xs, ys []float64
	for _, l := range lines {
		for _, pt := range l.points {
			xs, ys = append(xs, pt.x), append(ys, pt.y)
		}
	}
	x.fit(xs)
	y.fit(ys)
	for _, v := range x.ticks() {
		p.XTicks = append(p.XTicks, tick{x.at(v, p.Left, p.Right), x.text(v)})
	}
	for _, v := range y.ticks() {
		p.YTicks = append(p.YTicks, tick{y.at(v, p.Bottom, p.Top), y.text(v)})
	}
	for i, l := range lines {
		drawn := polyline{Color: paint(i)}
		for _, pt := range l.points {
			d := dot{x.at(pt.x, p.Left, p.Right), y.at(pt.y, p.Bottom, p.Top), l.name + ": " + x.text(pt.x) + ", " + y.text(pt.y)}
			drawn.Points += coordinate(d.X) + "," + coordinate(d.Y) + " "
			drawn.Dots = append(drawn.Dots, d)
		}
		p.Lines = append(p.Lines, drawn)
		p.addLegend(i, l.name)
	}
	return p
}

func coordinate(v float64) string { return short(math.Round(v*10) / 10) }

// fit sets the ends where they are not given.
func (s *scale) fit(values []float64) {
	if s.low != 0 || s.high != 0 {
		return
	}
	s.low, s.high = slices.Min(values), slices.Max(values)
	switch {
	case s.log:
		s.low, s.high = max(s.low, 1e-9)/1.2, max(s.high, 1e-9)*1.2
	case len(s.names) > 0:
		if s.low == s.high {
			s.high++
		}
	default:
		s.low = min(s.low, 0)
		s.nice()
	}
}

// nice makes the upper end round.
func (s *scale) nice() {
	step := s.step()
	s.high = max(step, math.Ceil(s.high/step-1e-9)*step)
}

// step between ticks: 1, 2 or 5 by a power of ten, for about six of them.
func (s *scale) step() float64 {
	span := s.high - s.low
	if span <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(span/5)))
	for _, m := range []float64{1, 2, 5} {
		if span/(power*m) <= 6 {
			return power * m
		}
	}
	return power * 10
}

func (s *scale) ticks() []float64 {
	var list []float64
	switch {
	case len(s.names) > 0 && !s.log:
		return slices.Sorted(maps.Keys(s.names))
	case s.log:
		for v := math.Pow(10, math.Ceil(math.Log10(s.low)-1e-9)); v <= s.high*(1+1e-9); v *= 10 {
			list = append(list, v, 2*v, 5*v)
		}
		list = slices.DeleteFunc(list, func(v float64) bool { return v > s.high*(1+1e-9) })
		if math.Log10(s.high/s.low) > 2 { // powers of ten are enough
			list = slices.DeleteFunc(list, func(v float64) bool { l := math.Log10(v); return math.Abs(l-math.Round(l)) > 1e-6 })
		}
		return list
	}
	for v := s.low; v <= s.high*(1+1e-9); v += s.step() {
		list = append(list, v)
	}
	return list
}

// at is where a value lies between two coordinates.
func (s *scale) at(v, from, to float64) float64 {
	low, high := s.low, s.high
	if s.log {
		v, low, high = math.Log10(max(v, 1e-12)), math.Log10(low), math.Log10(high)
	}
	if high == low {
		return from
	}
	return from + (min(max(v, low), high)-low)/(high-low)*(to-from)
}

func (s *scale) text(v float64) string {
	for at, name := range s.names {
		if math.Abs(at-v) <= 1e-9*math.Abs(at) {
			return name
		}
	}
	return short(v)
}
