// Command throughput measures how fast packets and Requests go, beside the same made by hand, and writes the report.
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
		fmt.Fprintln(os.Stderr, "throughput:", err)
		code = 1
	}
	os.Exit(code)
}

func measure() error {
	out := flag.String("out", "bench/out/throughput.json", "file of the report")
	c := bench.Config{Bin: os.Getenv("HIGHWIRE_VPP_BIN"), Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	flag.StringVar(&c.Highwire, "highwire", "bin/highwire", "the binary whose processes answer Requests")
	flag.StringVar(&c.Only, "only", "", "measure only figures of groups with this in their name, e.g. latency or memif")
	flag.IntVar(&c.Rounds, "rounds", 100, "rounds of each throughput figure")
	flag.IntVar(&c.Requests, "requests", 30, "rounds of each latency figure")
	flag.DurationVar(&c.Length, "length", 150*time.Millisecond, "length of one trial")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	report, err := bench.Throughput(ctx, c)
	if report == nil {
		return err
	}
	fmt.Print(report.Table())
	return errors.Join(err, report.Write(*out))
}
