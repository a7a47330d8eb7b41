package bench

import (
	"context"
	"errors"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"highwire/cmd/lab"
)

// TestRecovery measures a little of everything on pocketvpp. How many packets were lost and how long it took says nothing on a
// machine that does other things; that nothing was changed and nothing is left has to hold on any.
func TestRecovery(t *testing.T) {
	ns, err := lab.New()
	if errors.Is(err, syscall.EPERM) {
		t.Skip("no right to make network namespaces here (root is needed)")
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = ns.Close()
	exe := filepath.Join(t.TempDir(), "highwire")
	if out, err := exec.Command("go", "build", "-o", exe, "highwire/cmd/highwire").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	t.Setenv("PATH", "") // no VPP is found
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	report, err := Recovery(ctx, RecoveryConfig{
		Highwire: exe, VWires: 4, Rate: 200, Kills: 1, Others: 6, OtherKernels: 2, Rounds: 40, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report.Table())
	got := make(map[string]float64)
	for _, f := range report.Figures {
		got[f.Name] = f.Value
	}
	for _, name := range []string{
		"agent killed: packets lost", "agent killed: messages that change VPP", "VPP killed: noticed after", "VPP killed: all forward after the kill",
		"6 other vWires by memif made and removed: packets lost", "2 other vWires by kernel made and removed: packets lost",
		"40 times Request and Close: things left", "40 times Request and Close: memory of the agent",
	} {
		v, ok := got[name]
		if !ok {
			t.Errorf("no figure %q", name)
		}
		if zero := strings.HasSuffix(name, "change VPP") || strings.HasSuffix(name, "left"); zero && v != 0 {
			t.Errorf("%s: %v", name, v)
		}
	}
}

func TestChanging(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"sw_interface_set_flags": true, "memif_create_v2": true, "l3xc_del": true, "sw_interface_tag_add_del": true,
		"sw_interface_dump": false, "control_ping": false, "show_version": false, "want_interface_events": false, "cli_inband": false,
	} {
		if changing(name) != want {
			t.Errorf("%s: want %t", name, want)
		}
	}
	c := changes{"a_add_del": 3, "b_create": 1}
	if s := c.since(changes{"a_add_del": 1}); s != "2 a_add_del, 1 b_create" || c.sum() != 4 {
		t.Error(s)
	}
	if s := c.since(c); !strings.HasPrefix(s, "no message") {
		t.Error(s)
	}
}
