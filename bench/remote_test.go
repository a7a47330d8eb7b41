package bench

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"time"

	"highwire/cmd/lab"
)

// TestRemote measures a little of everything on pocketvpp, where there is no hand to compare with.
func TestRemote(t *testing.T) {
	ns, err := lab.New()
	if errors.Is(err, syscall.EPERM) {
		t.Skip("no right to make network namespaces here (root is needed)")
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = ns.Close()
	exe := binary(t)
	t.Setenv("PATH", "") // no VPP is found
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	report, err := Remote(ctx, RemoteConfig{
		Highwire: exe, Rounds: 1, Requests: 2, Length: 50 * time.Millisecond, Keys: 500 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	table := report.Table()
	for _, want := range []string{
		"vxlan, kernel ends: Request, p50", "vxlan, kernel ends: TCP", "vxlan, memif ends: Request, p95", "wireguard, kernel ends: TCP",
		"wireguard: lost while sessions get new keys", "trunk, kernel ends: TCP", "trunk: lost while sessions get new keys",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("want %q in\n%s", want, table)
		}
	}
}
