package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
)

// Figure is one measured result.
type Figure struct {
	// Name says what was measured.
	Name string `json:"name"`
	// Value and Baseline are medians in Unit. Without a baseline both it and Ratio are absent.
	Value    float64 `json:"value"`
	Unit     string  `json:"unit"`
	Baseline float64 `json:"baseline,omitzero"`
	// Ratio of value to baseline: the median over the rounds, so not exactly the ratio of the medians.
	Ratio float64 `json:"ratio,omitzero"`
	// Low and High are between what the value lies with 95 % certainty; both absent where that is not known.
	Low  float64 `json:"low,omitzero"`
	High float64 `json:"high,omitzero"`
	// Wanted is the bar, empty for none. In JSON it is one of the conditions.
	Wanted string `json:"-"`
	// Conditions say how it was measured and how far the rounds lie apart; in JSON also what was wanted, and on which machine.
	Conditions string `json:"conditions"`
}

// Report is the figures of one run.
type Report struct {
	// Machine is what all of them were measured on.
	Machine string
	Figures []Figure
}

// Add appends figures.
func (r *Report) Add(f ...Figure) { r.Figures = append(r.Figures, f...) }

// JSON is the list of figures, each complete with the machine it was measured on.
func (r *Report) JSON() ([]byte, error) {
	list := make([]Figure, len(r.Figures))
	for i, f := range r.Figures {
		if f.Wanted != "" {
			f.Conditions += "; wanted: " + f.Wanted
		}
		f.Conditions = strings.TrimPrefix(f.Conditions+"; "+r.Machine, "; ")
		list[i] = f
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // ">=" is for people too
	e.SetIndent("", "  ")
	err := e.Encode(list)
	return b.Bytes(), err
}

// Table is the same for people, conditions below.
func (r *Report) Table() string {
	var b strings.Builder
	fmt.Fprintln(&b, r.Machine)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FIGURE\tVALUE\tBASELINE\tUNIT\tRATIO\tWANTED")
	for _, f := range r.Figures {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", f.Name, value(f.Value), number(f.Baseline, 4), f.Unit, number(f.Ratio, 3), f.Wanted)
	}
	_ = w.Flush() // a strings.Builder takes everything
	for _, f := range r.Figures {
		if f.Conditions != "" {
			fmt.Fprintf(&b, "%s: %s\n", f.Name, f.Conditions)
		}
	}
	return b.String()
}

// value is a measured one: nothing is something too.
func value(v float64) string {
	if v == 0 {
		return "0"
	}
	return number(v, 4)
}

// number has the given significant digits, and "-" for what was not measured.
func number(v float64, digits int) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%#.*g", digits, v)
}

// Write stores the JSON at path, in a folder it makes.
func (r *Report) Write(path string) error {
	b, err := r.JSON()
	if err != nil {
		return err
	}
	return writeFile(path, b)
}
