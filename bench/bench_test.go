package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "write golden files anew")

// TestMain runs the tests in a network namespace of their own.
func TestMain(m *testing.M) {
	code, inside, err := Inside()
	switch {
	case inside:
		goleak.VerifyTestMain(m)
		return
	case err != nil:
		fmt.Println("these tests need network namespaces, which this machine does not allow:", err)
	}
	os.Exit(code)
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sample Sample
		p      float64
		want   float64
	}{
		"none":         {nil, 0.5, 0},
		"one":          {Sample{7}, 0.95, 7},
		"odd":          {Sample{9, 1, 5}, 0.5, 5},
		"even":         {Sample{4, 1, 3, 2}, 0.5, 2.5},
		"lowest":       {Sample{4, 1, 3, 2}, 0, 1},
		"highest":      {Sample{4, 1, 3, 2}, 1, 4},
		"between":      {Sample{10, 20}, 0.95, 19.5},
		"quarter":      {Sample{1, 2, 3, 4, 5}, 0.25, 2},
		"with outlier": {Sample{1, 1, 1, 1, 1000}, 0.5, 1},
	} {
		before := fmt.Sprint(c.sample)
		if got := c.sample.Quantile(c.p); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if after := fmt.Sprint(c.sample); after != before {
			t.Errorf("%s: the order of measurement is lost: %s", name, after)
		}
	}
}

func TestCertainty(t *testing.T) {
	t.Parallel()
	var hundred Sample
	for i := range 101 {
		hundred = append(hundred, float64(i))
	}
	for name, c := range map[string]struct {
		sample    Sample
		low, high float64
	}{"none": {nil, 0, 0}, "one": {Sample{3}, 3, 3}, "three": {Sample{3, 1, 2}, 1, 3}, "many": {hundred, 40.2487, 59.7513}} {
		if low, high := c.sample.Certainty(); math.Abs(low-c.low) > 1e-3 || math.Abs(high-c.high) > 1e-3 {
			t.Errorf("%s: %v to %v", name, low, high)
		}
	}
}

// TestCompare: rounds alternate who is first, the first one does not count, and an error names its round.
func TestCompare(t *testing.T) {
	t.Parallel()
	var order strings.Builder
	n := 0.0
	side := func(name string, factor float64) Trial {
		return func(context.Context) ([]float64, error) {
			order.WriteString(name)
			n++
			return []float64{n * factor, 1}, nil
		}
	}
	both, err := Compare(t.Context(), 3, side("a", 2), side("b", 1))
	if err != nil || len(both) != 2 || order.String() != "abbaabba" {
		t.Fatalf("%s, %v, %v", order.String(), both, err)
	}
	c := both[0]
	if fmt.Sprint(c.Value, c.Baseline) != "[8 10 16] [3 6 7]" || fmt.Sprint(both[1].Value) != "[1 1 1]" {
		t.Errorf("%v", both)
	}
	if f := c.Figure("f", "u", "", "more"); f.Value != 10 || f.Baseline != 6 || math.Abs(f.Ratio-16.0/7) > 1e-9 || !strings.Contains(f.Conditions, "3 rounds") {
		t.Errorf("%+v", f)
	}
	alone, err := Compare(t.Context(), 2, side("a", 1), nil)
	if err != nil || len(alone) != 2 {
		t.Fatal(alone, err)
	}
	if f := alone[0].Figure("f", "u", "", "more"); len(alone[0].Value) != 2 || f.Baseline != 0 || f.Ratio != 0 {
		t.Errorf("without a baseline: %+v, %v", f, err)
	}
	broken := errors.New("broken")
	if _, err := Compare(t.Context(), 2, side("a", 1), func(context.Context) ([]float64, error) { return nil, broken }); !errors.Is(err, broken) || !strings.Contains(err.Error(), "round 0") {
		t.Error(err)
	}
}

// TestDisturbed: disturbed rounds are repeated as long as patience lasts, and then counted and told of.
func TestDisturbed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ disturbed, runs, counted int }{
		"never": {0, 5, 0}, "at first": {7, 12, 0}, "always": {1000, 5 + 4*patience, 4},
	} {
		runs := 0
		trial := func(context.Context) ([]float64, error) {
			if runs++; runs <= c.disturbed {
				return []float64{1}, errDisturbed
			}
			return []float64{2}, nil
		}
		got, err := Compare(t.Context(), 4, trial, func(context.Context) ([]float64, error) { return []float64{1}, nil })
		if err != nil || runs != c.runs || got[0].Disturbed != c.counted || len(got[0].Value) != 4 {
			t.Errorf("%s: %d runs, %+v, %v", name, runs, got, err)
		}
		if told := strings.Contains(got[0].Figure("f", "u", "", "").Conditions, "4 disturbed"); told != (c.counted == 4) {
			t.Errorf("%s: told %v", name, told)
		}
	}
}

// TestReport holds both forms of a report to golden files; run with -update to write them.
func TestReport(t *testing.T) {
	t.Parallel()
	r := Report{Machine: "2 cores, Linux 6.1, VPP 25.10"}
	r.Add(
		Comparison{Value: Sample{9.1, 8.9, 9.0}, Baseline: Sample{9.0, 9.0, 9.2}}.Figure("TCP", "Gb/s", "ratio >= 0.98", "MTU 1500"),
		Comparison{Value: Sample{5, 6}}.Figure("Set", "ms", "<= 10 ms", "no baseline"),
		Figure{Name: "memif", Value: 31.25, Unit: "Mpps", Baseline: 31.5, Ratio: 0.992, Conditions: "64-byte frames"})
	path := filepath.Join(t.TempDir(), "out", "x.json")
	if err := r.Write(path); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]string{"report.json": string(written), "report.txt": r.Table()} {
		file := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
	}
	if err := r.Write(filepath.Join(path, "below a file")); err == nil || !strings.Contains(err.Error(), "--out") {
		t.Error(err)
	}
}

// runtimeText is what VPP 25.10 prints, shortened.
const runtimeText = `Time 1.5, 10 sec internal node vector rate 256.00 loops/sec 4191431.80
  vector rates in 3.3050e7, out 3.3028e7, drop 0.0000e0, punt 0.0000e0
             Name                 State         Calls          Vectors        Suspends         Clocks       Vectors/Call  
ethernet-input                   active                 4             1000               0          5.00e0          250.00
acl-plugin-fa-worker-cleaner-pinterrupt wa               4               0               0          5.72e4            0.00
fib-walk                       "any wait"                0               0               1          2.00e4            0.00
memif-input                      polling               10             1000               0          1.50e1          100.00
memif2/0-tx                      active                 4              500               0          4.00e1          125.00
unix-cli-process-0              "running"                2               0               4          5.45e5            0.00
`

func TestRuntime(t *testing.T) {
	t.Parallel()
	n, err := parseRuntime(runtimeText)
	if err != nil {
		t.Fatal(err)
	}
	if n.took != 1500*time.Millisecond || len(n.list) != 3 || math.Abs(n.rate("memif-input")-1000/1.5) > 1e-9 || n.rate("none") != 0 {
		t.Errorf("%+v", n)
	}
	if c := n.clocksPerPacket("memif-input"); math.Abs(c-40) > 1e-9 { // 5 + 15 + half of 40
		t.Error(c)
	}
	if c := n.clocksPerPacket("fib-walk"); c != 0 {
		t.Error("clocks of packets that were not there:", c)
	}
	for name, text := range map[string]string{
		"empty": "", "no time": "Time x, 10 sec", "with workers": runtimeText + "---\n" + runtimeText,
	} {
		if _, err := parseRuntime(text); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestThroughput: a short run on pocketvpp has every figure that needs no VPP, and leaves nothing in the namespace.
func TestThroughput(t *testing.T) {
	exe := binary(t)
	t.Setenv("PATH", t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r, err := Throughput(ctx, Config{Highwire: exe, Rounds: 1, Requests: 2, Length: 50 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Figures) != 15 {
		t.Errorf("%d figures, want 15", len(r.Figures))
	}
	for _, f := range r.Figures {
		if f.Value <= 0 {
			t.Errorf("%s: nothing measured", f.Name)
		}
		if direct := strings.Contains(f.Name, "direct"); direct != (f.Baseline > 0) {
			t.Errorf("%s: baseline %v", f.Name, f.Baseline)
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Attrs().Name != "lo" {
			t.Errorf("left behind: %s", l.Attrs().Name)
		}
	}
}
