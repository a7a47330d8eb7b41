// Command recovery measures what is lost when the agent or VPP dies, and writes the report.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"highwire/bench"
)

func main() {
	code, inside, err := bench.Inside()
	if inside {
		err = measure()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "recovery:", err)
		code = 1
	}
	os.Exit(code)
}

func measure() error {
	out := flag.String("out", "bench/out/recovery.json", "file of the report")
	limit := flag.Duration("limit", 30*time.Minute, "when to give up; 20,000 rounds take some minutes on idle cores")
	c := bench.RecoveryConfig{Bin: os.Getenv("HIGHWIRE_VPP_BIN"), Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	flag.StringVar(&c.Highwire, "highwire", "bin/highwire", "the binary to measure")
	flag.StringVar(&c.Only, "only", "", "measure only figures of groups with this in their name: agent, VPP, others, churn")
	flag.IntVar(&c.VWires, "vwires", 100, "vWires that carry the stream")
	flag.IntVar(&c.Rate, "rate", 1000, "packets a second of the stream")
	flag.IntVar(&c.Kills, "kills", 5, "how often agent and VPP are killed while the stream flows")
	flag.IntVar(&c.Others, "others", 1000, "memif vWires that come and go beside the stream")
	flag.IntVar(&c.OtherKernels, "other-kernels", 100, "kernel vWires that come and go beside the stream")
	flag.IntVar(&c.Rounds, "rounds", 400, "rounds of Request and Close while agent and VPP are killed at random")
	flag.Uint64Var(&c.Seed, "seed", 0, "of what is random, 0 for one from the clock")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	report, err := bench.Recovery(ctx, c)
	if report == nil {
		return err
	}
	fmt.Print(report.Table())
	return errors.Join(err, report.Write(*out))
}
