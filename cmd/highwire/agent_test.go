package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// agentArgs is a command line for an agent with all its files in dir.
func agentArgs(dir string, more ...string) []string {
	return append([]string{"agent", "--vpp", "pocket", "--data", filepath.Join(dir, "data"), "--admin", filepath.Join(dir, "admin.sock"),
		"--listen", "unix://" + filepath.Join(dir, "nsm.sock"), "--workload-socket", filepath.Join(dir, "wl.sock"), "--log-level", "error"}, more...)
}

// startAgent runs one until the test ends, and returns once it is ready.
func startAgent(t *testing.T, dir string) {
	t.Helper()
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "ready"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(dir, "ready"))
	ctx, cancel := context.WithCancel(t.Context())
	var stderr bytes.Buffer
	done := make(chan int, 1)
	go func() {
		code := run(ctx, agentArgs(dir), &stderr, &stderr)
		ready.Close()
		done <- code
	}()
	t.Cleanup(func() {
		cancel()
		if code := <-done; code != exitOK {
			t.Errorf("the agent ended with %d: %s", code, &stderr)
		}
		// What stays is for the next agent: journal, registry, authority.
		for _, gone := range []string{"admin.sock", "nsm.sock", "wl.sock", "data/pocketvpp.sock"} {
			if _, err := os.Lstat(filepath.Join(dir, gone)); err == nil {
				t.Errorf("the agent left %s behind", gone)
			}
		}
	})
	message := make([]byte, 64)
	n, err := ready.Read(message)
	if err != nil || string(message[:n]) != "READY=1" {
		t.Fatalf("the agent did not become ready: %q, %v", message[:n], err)
	}
}

func TestAgent(t *testing.T) {
	dir := t.TempDir()
	startAgent(t, dir)
	t.Setenv("HIGHWIRE_ADMIN", filepath.Join(dir, "admin.sock"))
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"version", exitOK, "dataplane 25.10-pocket"},
		{"get vwires -o json", exitOK, "[]\n"},
		{"vppctl -- show interface", exitOK, "local0"},
		{"vppctl -- bogus", exitFailure, "bogus"},
		{"describe vwire x", exitFailure, "the agent has none at all"},
	} {
		code, stdout, stderr := execute(t, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stdout+stderr, c.want) {
			t.Errorf("highwire %s: exit %d, want %d and %q:\n%s%s", c.args, code, c.code, c.want, stdout, stderr)
		}
	}
}

// Whatever keeps an agent from starting is named, with a remedy, and what had started is taken down.
func TestAgentStartProblems(t *testing.T) {
	dir := t.TempDir()
	startAgent(t, dir)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	for _, c := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"data in use", agentArgs(dir, "--workload-socket", filepath.Join(other, "w")), exitFailure, "another process serves it"},
		{"socket in use", agentArgs(other, "--listen", "unix://"+filepath.Join(dir, "nsm.sock")), exitFailure, "is in use"},
		{"workload socket in use", agentArgs(other, "--workload-socket", filepath.Join(dir, "wl.sock")), exitFailure, "somebody else serves"},
		{"a file in the way", agentArgs(other, "--data", file), exitFailure, "--data"},
		{"no such VPP", agentArgs(other, "--vpp", "spawn", "--vpp-bin", file+".none"), exitFailure, "--vpp-bin"},
		{"listen", agentArgs(other, "--listen", "http://x"), exitFailure, "unix:///path"},
		{"trust domain", agentArgs(other, "--trust-domain", "Not A Domain"), exitFailure, "trust domain"},
		{"log level", agentArgs(other, "--log-level", "loud"), exitUsage, "--log-level"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, _, stderr := execute(t, c.args...)
			if code != c.code || !strings.Contains(stderr, c.says) {
				t.Errorf("exit %d, want %d saying %q:\n%s", code, c.code, c.says, stderr)
			}
		})
	}
}
