package bench

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"highwire/cmd/lab"
)

// binary builds highwire.
func binary(t *testing.T) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "highwire")
	if out, err := exec.Command("go", "build", "-o", exe, "highwire/cmd/highwire").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return exe
}

// TestControl measures a little of everything on pocketvpp: all calls succeed, and every figure with a bar is there.
func TestControl(t *testing.T) {
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
	report, err := Control(ctx, ControlConfig{Highwire: exe, Scale: 0.02, Idle: 100 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	table := report.Table()
	for _, want := range []string{
		"20 idle vWires: memory of the agent", "memif through VPP: Request, 10 at once, p95", "memif through VPP: 20 vWires stand",
		"memif direct: Close, 10 at once, max", "kernel: Request, 1 at once, p50", "kernel: 4 vWires stand", "none of ",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("want %q in\n%s", want, table)
		}
	}
	if strings.Contains(table, "FAILED") {
		t.Errorf("calls failed:\n%s", table)
	}
	for _, f := range report.Figures {
		if f.Value <= 0 && !strings.Contains(f.Name, "CPU") {
			t.Errorf("%s: %v", f.Name, f.Value)
		}
	}
}

func TestUsage(t *testing.T) {
	u, err := usageOf(os.Getpid())
	if err != nil || u.memory < 1<<20 || u.cpu < 0 {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := usageOf(-1); err == nil {
		t.Error("no such process, and no error")
	}
}
