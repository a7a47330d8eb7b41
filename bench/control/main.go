// Command control measures how fast vWires come and go, and what they cost when idle, and writes the report.
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
		fmt.Fprintln(os.Stderr, "control:", err)
		code = 1
	}
	os.Exit(code)
}

func measure() error {
	out := flag.String("out", "bench/out/control.json", "file of the report")
	c := bench.ControlConfig{Bin: os.Getenv("HIGHWIRE_VPP_BIN"), Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	flag.StringVar(&c.Highwire, "highwire", "bin/highwire", "the binary to measure")
	flag.StringVar(&c.Only, "only", "", "measure only figures of groups with this in their name, e.g. latency, stand, idle or kernel")
	flag.Float64Var(&c.Scale, "scale", 1, "times the numbers of rounds and of vWires")
	flag.DurationVar(&c.Idle, "idle", time.Minute, "how long idle vWires are looked at")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	report, err := bench.Control(ctx, c)
	if report == nil {
		return err
	}
	fmt.Print(report.Table())
	return errors.Join(err, report.Write(*out))
}
