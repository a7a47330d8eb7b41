// Command remote measures vWires over two nodes, beside tunnels made by hand, and writes the report.
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
		fmt.Fprintln(os.Stderr, "remote:", err)
		code = 1
	}
	os.Exit(code)
}

func measure() error {
	out := flag.String("out", "bench/out/remote.json", "file of the report")
	c := bench.RemoteConfig{Bin: os.Getenv("HIGHWIRE_VPP_BIN"), Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	flag.StringVar(&c.Highwire, "highwire", "bin/highwire", "the binary whose processes answer Requests")
	flag.StringVar(&c.Only, "only", "", "measure only figures of groups with this in their name, e.g. wireguard or memif")
	flag.IntVar(&c.Rounds, "rounds", 60, "rounds of each throughput figure")
	flag.IntVar(&c.Requests, "requests", 30, "Requests for each set-up time")
	flag.DurationVar(&c.Length, "length", 150*time.Millisecond, "length of one trial")
	flag.DurationVar(&c.Keys, "keys", 0, "also count what is lost while WireGuard's sessions get new keys, for so long; they get them every 2m")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	report, err := bench.Remote(ctx, c)
	if report == nil {
		return err
	}
	fmt.Print(report.Table())
	return errors.Join(err, report.Write(*out))
}
