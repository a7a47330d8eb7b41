package vppapi

import (
	"log/slog"
	"path/filepath"
	"testing"

	"highwire/vppapi/fault"
	"highwire/vppapi/pocketvpp"
)

// TestStatsOfLifetimes: a session reads the counters of its own VPP, and none once that has ended, though its memory is
// still there.
func TestStatsOfLifetimes(t *testing.T) {
	t.Parallel()
	cfg := pocketvpp.Config{Socket: filepath.Join(t.TempDir(), "api.sock"), Buffers: 1000, Logger: slog.New(slog.DiscardHandler)}
	for range 2 {
		p := startPocket(t, cfg)
		c, err := Dial(t.Context(), p.socket)
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.Stats(t.Context())
		if err != nil || s.Pools[0].Total() != 1000 || s.Interfaces[0].Name != "local0" {
			t.Errorf("got %+v, %v", s, err)
		}
		p.stop()
		<-c.Done()
		if _, err := c.Stats(t.Context()); !fault.Is(err, fault.Unavailable) {
			t.Errorf("counters of a VPP that is gone: %v", err)
		}
		c.Close()
		if _, err := c.counters.open(t.Context()); !fault.Is(err, fault.Canceled) {
			t.Errorf("opened by a session that is closed: %v", err)
		}
	}
}

// TestStatsElsewhere: a VPP may serve its segment anywhere, or not at all.
func TestStatsElsewhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := pocketvpp.Config{Socket: filepath.Join(dir, "api.sock"), StatsSocket: filepath.Join(dir, "other.sock"), Logger: slog.New(slog.DiscardHandler)}
	startPocket(t, cfg)
	for socket, want := range map[string]bool{cfg.StatsSocket: true, "": false} {
		c, err := Dialer{Socket: cfg.Socket, StatsSocket: socket}.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Stats(t.Context()); (err == nil) != want || err != nil && !fault.Is(err, fault.Unavailable) {
			t.Errorf("stats socket %q: %v", socket, err)
		}
	}
}
