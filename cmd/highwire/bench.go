package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"highwire/bench"
	"highwire/bench/page"
)

// shortestTrial is one that VPP's account of its nodes, in tenths of a second, can tell from nothing.
const shortestTrial = 100 * time.Millisecond

func newBench() *cobra.Command {
	o := bench.PathOptions{}
	var profiles []string
	var out string
	var quick bool
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure this machine's throughput and latency",
		Long: `Measures how packets go through vWires on this machine, each path beside the same made by hand in the same VPP, and writes a report
as JSON and as one HTML file with plots. It runs in a network namespace of its own with VPPs of its own: no agent is needed or
touched.

  memif          frames between two memifs over one core of VPP, from a second VPP's packet generator: NDR and PDR (no loss,
                 half a percent of loss) by a search after RFC 9971, MRR (what comes through at the maximal load), clocks by node
  memif-direct   two memifs joined without VPP
  kernel         TCP and echoes between two kernel interfaces over VPP
  kernel-direct  the same joined without VPP

The generator's own ceiling is measured first; what it limits is marked. Without a real VPP there are kernel figures only, and
they say nothing about VPP. Frame sizes are without the checksum of a wire.`,
		Example: "  highwire bench\n  highwire bench --quick --paths memif --sizes 64,IMIX\n  highwire bench --runs 5 --out before\n" +
			"  highwire bench compare before/bench.json after/bench.json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := benchOptions(&o, profiles, quick, cmd.Flags().Changed); err != nil {
				return err
			}
			code, inside, err := bench.Inside()
			if !inside {
				if err != nil {
					return err
				}
				if code != exitOK {
					return exitError(code)
				}
				return nil
			}
			return runBench(cmd, o, out)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Bin, "vpp-bin", "", "vpp executable (default: vpp on PATH)")
	flags.StringSliceVar(&o.Paths, "paths", bench.PathNames, "paths to measure")
	flags.StringSliceVar(&profiles, "sizes", []string{"64", "512", "1500", "IMIX", "9000"}, "frame sizes of packet rates, in bytes")
	flags.IntVar(&o.Runs, "runs", 1, "repeat everything, to show how far results lie apart")
	flags.IntVar(&o.Rounds, "rounds", 20, "rounds in which a vWire and its baseline take turns")
	flags.DurationVar(&o.Trial, "trial", 200*time.Millisecond, "how long one trial lasts")
	flags.DurationVar(&o.Sum, "sum", time.Second, "how long a load is offered in all before it is judged")
	flags.Float64Var(&o.Width, "width", 0.02, "how near a search's bounds have to come, as a part of the load")
	flags.IntVar(&o.Echoes, "echoes", 2000, "echoes to learn the latency from")
	flags.BoolVar(&quick, "quick", false, "a first impression: 64-byte and 1500-byte frames, short trials, few rounds")
	flags.StringVar(&out, "out", "bench-out", "directory of the report: bench.json and bench.html")
	cmd.AddCommand(newBenchCompare())
	return cmd
}

// benchOptions completes the options by the flags; quick gives way to flags that were set.
func benchOptions(o *bench.PathOptions, profiles []string, quick bool, changed func(string) bool) error {
	if quick {
		for name, set := range map[string]func(){
			"sizes": func() { profiles = []string{"64", "1500"} }, "rounds": func() { o.Rounds = 5 }, "trial": func() { o.Trial = 100 * time.Millisecond },
			"sum": func() { o.Sum = 300 * time.Millisecond }, "width": func() { o.Width = 0.05 }, "echoes": func() { o.Echoes = 400 },
		} {
			if !changed(name) {
				set()
			}
		}
	}
	for _, p := range o.Paths {
		if !slices.Contains(bench.PathNames, p) {
			return usagef("--paths %q: want %s", p, strings.Join(bench.PathNames, ", "))
		}
	}
	for _, name := range profiles {
		p, err := bench.FindProfile(name)
		if err != nil {
			return usagef("--sizes: %w", err)
		}
		o.Profiles = append(o.Profiles, p)
	}
	switch {
	case o.Runs < 1, o.Rounds < 1, o.Echoes < 1:
		return usagef("--runs, --rounds and --echoes must be at least 1")
	case o.Trial < shortestTrial, o.Sum < o.Trial:
		return usagef("--trial must be at least %v, and --sum no less", shortestTrial)
	case !(o.Width > 0 && o.Width < 1):
		return usagef("--width must be more than 0 and less than 1")
	}
	return nil
}

func runBench(cmd *cobra.Command, o bench.PathOptions, out string) error {
	progress := newProgress(cmd.ErrOrStderr())
	o.Progress = progress.show
	o.Log = slog.New(slog.NewTextHandler(progress, nil))
	results, failed := bench.Paths(cmd.Context(), o)
	progress.end()
	if results == nil {
		return failed
	}
	if err := writeBench(results, out); err != nil {
		return errors.Join(failed, err)
	}
	fmt.Fprint(cmd.OutOrStdout(), results.Table())
	fmt.Fprintf(cmd.OutOrStdout(), "written: %s, %s\n", filepath.Join(out, "bench.json"), filepath.Join(out, "bench.html"))
	return failed
}

func writeBench(r *bench.Results, dir string) error {
	if err := r.Write(filepath.Join(dir, "bench.json")); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, "bench.html"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(page.Write(f, "highwire bench", time.Now(), r), f.Close())
}

func newBenchCompare() *cobra.Command {
	return &cobra.Command{
		Use:   "compare BEFORE.json AFTER.json",
		Short: "Tell what became better or worse between two reports",
		Long: `Compares the figures of two reports of 'highwire bench' or of the make bench-… targets. A figure is better or worse only where the
spreads of both reports lie apart: 95 % certainty of the median over rounds and repeated runs, or the bounds of a single search.
One that tells no spread is given 2.5 % to either side. The exit code is 1 if any figure is worse.`,
		Example: "  highwire bench compare before/bench.json after/bench.json",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			before, err := bench.ReadFigures(args[0])
			if err != nil {
				return err
			}
			after, err := bench.ReadFigures(args[1])
			if err != nil {
				return err
			}
			worse, err := bench.WriteChanges(cmd.OutOrStdout(), bench.CompareReports(before, after))
			if err == nil && worse > 0 {
				err = fmt.Errorf("%d figures are worse", worse)
			}
			return err
		},
	}
}

// progress shows on a terminal a bar with the time left, and elsewhere a line for each step.
type progress struct {
	w        io.Writer
	terminal bool
	begun    time.Time
	shown    int // columns of the bar on the screen
}

func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	return &progress{w: w, terminal: ok && isTerminal(f), begun: time.Now()}
}

func (p *progress) show(what string, done float64) {
	text := fmt.Sprintf("%3.0f %% %s", 100*done, what)
	if done > 0.01 && done < 1 {
		left := time.Duration(float64(time.Since(p.begun)) * (1 - done) / done)
		text += ", " + left.Round(time.Second).String() + " left"
	}
	if !p.terminal {
		fmt.Fprintln(p.w, text)
		return
	}
	const columns = 30
	full := int(done * columns)
	p.clear()
	p.shown, _ = fmt.Fprintf(p.w, "[%s%s] %s", strings.Repeat("#", full), strings.Repeat(".", columns-full), text)
}

// clear takes the bar off the screen.
func (p *progress) clear() {
	if p.shown > 0 {
		fmt.Fprintf(p.w, "\r%s\r", strings.Repeat(" ", p.shown))
		p.shown = 0
	}
}

func (p *progress) end() { p.clear() }

// Write is for what is logged meanwhile.
func (p *progress) Write(b []byte) (int, error) {
	p.clear()
	return p.w.Write(b)
}
