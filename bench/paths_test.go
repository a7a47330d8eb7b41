package bench

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"highwire/bench/search"
	"highwire/vppapi/fault"
)

// options of a run that is short.
func shortPaths(paths []string, progress func(string, float64)) PathOptions {
	p, _ := FindProfile("64")
	return PathOptions{
		Bin: os.Getenv("HIGHWIRE_VPP_BIN"), Paths: paths, Profiles: []Profile{p}, Runs: 1, Rounds: 1, Trial: 100 * time.Millisecond, Sum: 200 * time.Millisecond,
		Width: 0.3, Echoes: 20, Progress: progress, Log: slog.New(slog.DiscardHandler),
	}
}

// TestKernelPaths: a short run on pocketvpp has figures and latencies, tells how far it is, and its report can be read again.
func TestKernelPaths(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("HIGHWIRE_VPP_BIN", "")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var steps []string
	last := 0.0
	r, err := Paths(ctx, shortPaths([]string{"memif", "kernel", "kernel-direct"}, func(what string, done float64) {
		if done < last || done > 1 {
			t.Errorf("%s at %v after %v", what, done, last)
		}
		last = done
		steps = append(steps, what)
	}))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(steps, ", "); got != "kernel TCP, kernel echoes, kernel-direct TCP, kernel-direct echoes, done" || last != 1 {
		t.Errorf("steps %s to %v", got, last)
	}
	for _, name := range []string{"kernel TCP", "kernel round trip, p50", "kernel-direct TCP", "kernel-direct round trip, p99"} {
		found := false
		for _, f := range r.Figures {
			found = found || f.Name == name && f.Value > 0 && (f.Baseline > 0) == strings.HasPrefix(name, "kernel-direct")
		}
		if !found {
			t.Errorf("no figure %q in %+v", name, r.Figures)
		}
	}
	if len(r.Latencies) != 3 || len(r.Latencies[0].Percentiles) != len(percentiles) || r.Latencies[0].Received == 0 {
		t.Errorf("latencies %+v", r.Latencies)
	}
	if m := r.Machine; m.Cores != runtime.NumCPU() || !strings.Contains(m.Dataplane, "pocketvpp") || m.Governor == "" {
		t.Errorf("%+v", m)
	}
	file := filepath.Join(t.TempDir(), "sub", "bench.json")
	if err := r.Write(file); err != nil {
		t.Fatal(err)
	}
	if again, err := ReadFigures(file); err != nil || len(again) != len(r.Figures) {
		t.Errorf("%d figures, %v", len(again), err)
	}
	if !strings.Contains(r.Table(), "kernel TCP") {
		t.Error(r.Table())
	}
	if _, err := Paths(ctx, shortPaths([]string{"srv6"}, nil)); err == nil || !strings.Contains(err.Error(), "want one of memif") {
		t.Error(err)
	}
}

// TestMemifPaths: on the real VPP both sides have bounds below the generator's ceiling, a loss curve and clocks by node.
func TestMemifPaths(t *testing.T) {
	if os.Getenv("HIGHWIRE_VPP_BIN") == "" || runtime.NumCPU() < 2 {
		t.Skip("packet rates need a real VPP, named by HIGHWIRE_VPP_BIN, and two cores")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	o := shortPaths([]string{"memif", "memif-direct"}, func(what string, done float64) { t.Logf("%3.0f %% %s", 100*done, what) })
	r, err := Paths(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Searches) != 1 {
		t.Fatalf("%d searches", len(r.Searches))
	}
	s := r.Searches[0]
	for name, side := range map[string]Side{"vWire": s.VWire, "by hand": s.ByHand} {
		if side.MRR <= 0 || len(side.Trials) == 0 || len(side.Nodes) == 0 || side.NDR.Lower > s.Ceiling*1.001 || side.PDR.Lower > s.Ceiling*1.001 {
			t.Errorf("%s: %+v", name, side)
		}
		t.Logf("%s: MRR %.3g, NDR %.3g to %.3g, PDR %.3g to %.3g, %d trials, %v", name, side.MRR, side.NDR.Lower, side.NDR.Upper, side.PDR.Lower, side.PDR.Upper, len(side.Trials), side.Nodes)
	}
	t.Log(r.Table())
}

func TestFindProfile(t *testing.T) {
	t.Parallel()
	if p, err := FindProfile("imix"); err != nil || math.Abs(p.Bytes()-353.83) > 0.01 {
		t.Errorf("%+v of %v bytes, %v", p, p.Bytes(), err)
	}
	if _, err := FindProfile("65"); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "64, 512, 1500, IMIX, 9000") {
		t.Error(err)
	}
}

func TestLoss(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sent, received uint64
		want           float64
	}{
		"all":                 {1000, 1000, 0},
		"some lost":           {1000, 990, 0.01},
		"timer a little late": {980, 980, 0},
		"more than intended":  {1030, 1030, 0},
		"not all sent":        {500, 500, 0.5},
		"not all sent, lost":  {500, 400, 0.6},
		"nothing":             {0, 0, 1},
		"stray ones":          {100, 101, 0.899},
	} {
		if got := (offered{sent: c.sent, received: c.received}).loss(1e4, 100*time.Millisecond); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestCounters reads what VPP 25.10 prints.
func TestCounters(t *testing.T) {
	t.Parallel()
	const text = `              Name               Idx    State  MTU (L3/IP4/IP6/MPLS)     Counter          Count     
memif10/0                         1      up          9000/0/0/0     rx packets                  1234
                                                                    rx bytes                   78976
                                                                    tx packets                  5678
                                                                    drops                          3
`
	got := map[string]string{}
	for _, m := range counterLine.FindAllStringSubmatch(text, -1) {
		got[m[1]] = m[2]
	}
	if len(got) != 2 || got["rx packets"] != "1234" || got["tx packets"] != "5678" {
		t.Error(got)
	}
}

func TestByPacket(t *testing.T) {
	t.Parallel()
	n := nodes{took: time.Second, list: map[string]node{"in": {100, 50}, "tx": {50, 10}, "other": {0, 3}}}
	got := n.byPacket("in")
	if len(got) != 3 || got[0] != (NodeClocks{"in", 50}) || got[1] != (NodeClocks{"tx", 5}) {
		t.Errorf("%+v", got)
	}
	if got := n.byPacket("none"); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

// TestGather: what runs measure is put together, and a single search has its bounds for spread.
func TestGather(t *testing.T) {
	t.Parallel()
	var g gatherer
	for i := range 3 {
		g.add("a", "Mpps", "ratio > 1", "c", Sample{float64(i + 1)}, Sample{1})
	}
	g.addBounds("b", "c", search.Result{Lower: 2e6, Upper: 2.1e6, Throughput: 2e6}, search.Result{Throughput: 1e6})
	g.addBounds("none", "c", search.Result{}, search.Result{Throughput: 1e6})
	g.add("uneven", "x", "", "c", Sample{1, 2}, Sample{1})
	f := g.figures()
	if len(f) != 3 || f[0].Value != 2 || f[0].Low != 1 || f[0].High != 3 || f[0].Ratio != 2 {
		t.Errorf("%+v", f)
	}
	if f[1].Value != 2 || f[1].Baseline != 1 || f[1].Low != 2 || f[1].High != 2.1 || !strings.Contains(f[1].Conditions, "bounds 2 and 2.1") {
		t.Errorf("%+v", f[1])
	}
	if f[2].Baseline != 0 {
		t.Errorf("%+v", f[2])
	}
}

// TestChanges: only what lies beyond both spreads is better or worse, and which way that is depends on the unit.
func TestChanges(t *testing.T) {
	t.Parallel()
	before := []Figure{
		{Name: "rate", Unit: "Mpps", Value: 10, Low: 9.8, High: 10.2}, {Name: "noisy", Unit: "Mpps", Value: 10, Low: 8, High: 12},
		{Name: "time", Unit: "ms", Value: 10, Low: 9.8, High: 10.2}, {Name: "plain", Unit: "Gb/s", Value: 10}, {Name: "old", Unit: "Gb/s", Value: 1},
	}
	for name, c := range map[string]struct {
		factor float64
		want   string
	}{"alike": {1.01, "same same same same gone"}, "more": {1.2, "better same worse better gone"}, "less": {0.8, "worse same better worse gone"}} {
		var after []Figure
		for _, f := range before[:4] {
			f.Value, f.Low, f.High = f.Value*c.factor, f.Low*c.factor, f.High*c.factor
			after = append(after, f)
		}
		var verdicts []string
		changes := CompareReports(before, after)
		for _, x := range changes {
			verdicts = append(verdicts, string(x.Verdict))
		}
		if got := strings.Join(verdicts, " "); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		var b bytes.Buffer
		worse, err := WriteChanges(&b, changes)
		if err != nil || worse != strings.Count(c.want, "worse") || !strings.Contains(b.String(), "9.8 to 10.2") {
			t.Errorf("%s: %d worse, %v\n%s", name, worse, err, &b)
		}
	}
	if c := CompareReports(nil, before[:1]); len(c) != 1 || c[0].Verdict != New {
		t.Errorf("%+v", c)
	}
}

func TestReadFigures(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, c := range map[string]struct{ text, fails string }{
		"list":    {`[{"name":"a","value":1,"unit":"ms"}]`, ""},
		"object":  {` {"figures":[{"name":"a","value":1,"unit":"ms"}]}`, ""},
		"empty":   {`{}`, "no figures"},
		"nothing": {``, "no figures"},
		"other":   {`[1]`, "no figures"},
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := ReadFigures(file)
		if (err == nil) != (c.fails == "") || err == nil && f[0].Name != "a" || err != nil && !strings.Contains(err.Error(), c.fails) {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
	if _, err := ReadFigures(filepath.Join(dir, "missing")); err == nil {
		t.Error("a missing file has figures")
	}
}

func TestSteal(t *testing.T) {
	t.Parallel()
	if got := (cpuTime{300, 30}).stealSince(cpuTime{100, 10}); math.Abs(got-10) > 1e-9 {
		t.Error(got)
	}
	if got := (cpuTime{}).stealSince(cpuTime{}); got != 0 {
		t.Error(got)
	}
	if now := readCPUTime(); now.all <= 0 || now.stolen > now.all {
		t.Errorf("%+v", now)
	}
}
