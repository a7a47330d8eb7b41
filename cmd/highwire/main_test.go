package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// execute runs a command line as main does.
func execute(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestUsage(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none.sock")
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--help"}, exitOK, "Exit codes"},
		{[]string{"bogus"}, exitUsage, "unknown command"},
		{[]string{"get", "bogus"}, exitUsage, "bogus"},
		{[]string{"get"}, exitUsage, "want one of devices, endpoints, interfaces, nodes, services, vwires"},
		{[]string{"get", "vwires", "--bogus"}, exitUsage, "--bogus"},
		{[]string{"get", "vwires", "-o", "xml"}, exitUsage, "table, wide, json, yaml"},
		{[]string{"describe", "vwire"}, exitUsage, "accepts 1 arg"},
		{[]string{"vppctl"}, exitUsage, "at least 1 arg"},
		{[]string{"demo", "--payload", "UDP"}, exitUsage, "ETHERNET or IP"},
		{[]string{"get", "vwires", "--admin", none}, exitNoAgent, "start one with 'highwire agent'"},
		{[]string{"vppctl", "--admin", none, "--", "show", "version"}, exitNoAgent, none},
		{[]string{"version", "--admin", none}, exitOK, "highwire"},
		{[]string{"completion", "bash"}, exitOK, "bash completion"},
	} {
		code, stdout, stderr := execute(t, c.args...)
		if code != c.code || !strings.Contains(stdout+stderr, c.says) {
			t.Errorf("highwire %s: exit %d, want %d saying %q:\n%s%s", strings.Join(c.args, " "), code, c.code, c.says, stdout, stderr)
		}
	}
}

// Every command says what it does and shows how.
func TestHelp(t *testing.T) {
	for _, c := range newRoot().Commands() {
		for _, leaf := range append(c.Commands(), c) {
			if leaf.Short == "" || !leaf.HasSubCommands() && leaf.Example == "" {
				t.Errorf("%s has no description or no example", leaf.CommandPath())
			}
		}
	}
}

// The README's table of the agent's flags is complete.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	newAgent().Flags().VisitAll(func(f *pflag.Flag) {
		if !strings.Contains(string(readme), "`--"+f.Name+"`") {
			t.Errorf("README.md does not name --%s", f.Name)
		}
	})
	for _, c := range newRoot().Commands() {
		if !strings.Contains(string(readme), "`highwire "+c.Name()) {
			t.Errorf("README.md does not name 'highwire %s'", c.Name())
		}
	}
}

func TestEnvironment(t *testing.T) {
	socket := serve(t, fake{})
	t.Setenv("HIGHWIRE_ADMIN", socket)
	if code, _, stderr := execute(t, "get", "vwires"); code != exitOK {
		t.Errorf("HIGHWIRE_ADMIN is not used: exit %d: %s", code, stderr)
	}
	if code, _, _ := execute(t, "get", "vwires", "--admin", socket+".none"); code != exitNoAgent {
		t.Errorf("the command line does not win over HIGHWIRE_ADMIN: exit %d", code)
	}
	t.Setenv("HIGHWIRE_STREAM", "soon")
	if code, _, stderr := execute(t, "demo"); code != exitUsage || !strings.Contains(stderr, "HIGHWIRE_STREAM") {
		t.Errorf("a bad variable: exit %d: %s", code, stderr)
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{-time.Second: "0s", 90 * time.Second: "90s", 5 * time.Minute: "5m", 3 * time.Hour: "3h", 72 * time.Hour: "3d"} {
		if got := short(d); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	missing := filepath.Join(dir, "none.sock")
	check := func(in dataplane, mode, fails string) {
		t.Helper()
		err := in.resolve(t.Context())
		switch {
		case fails == "" && (err != nil || in.mode != mode):
			t.Errorf("%s, %v; want %s", in.mode, err, mode)
		case fails != "" && (err == nil || !strings.Contains(err.Error(), fails)):
			t.Errorf("%s, %v; want an error with %q", in.mode, err, fails)
		}
	}
	check(dataplane{mode: auto, socket: missing}, pocket, "")
	check(dataplane{mode: auto, socket: missing, bin: filepath.Join(dir, "no-vpp")}, "", "--vpp-bin")
	check(dataplane{mode: spawn, socket: missing}, "", "--vpp-bin")
	check(dataplane{mode: external, socket: missing}, "", "--vpp-socket")
	check(dataplane{mode: "dpdk"}, "", "want auto")
	if err := os.WriteFile(filepath.Join(dir, "vpp"), nil, 0o700); err != nil {
		t.Fatal(err)
	}
	check(dataplane{mode: auto, socket: missing}, spawn, "")
	check(dataplane{mode: pocket, socket: missing}, pocket, "")
	check(dataplane{mode: auto, socket: serve(t, fake{})}, external, "")
}
