package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"highwire/cmd/lab"
	"highwire/vppapi/process"
)

// binary builds highwire into a directory that any user can reach. Where nothing can be built, HIGHWIRE_TEST_BIN names one.
func binary(t *testing.T) string {
	t.Helper()
	if exe := os.Getenv("HIGHWIRE_TEST_BIN"); exe != "" {
		return exe
	}
	exe := filepath.Join(t.TempDir(), "highwire")
	if out, err := exec.Command("go", "build", "-o", exe, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return exe
}

// needNamespaces skips the test where they cannot be made.
func needNamespaces(t *testing.T) {
	t.Helper()
	ns, err := lab.New()
	if errors.Is(err, syscall.EPERM) {
		t.Skip("no right to make network namespaces here (root is needed)")
	}
	if err != nil {
		t.Fatal(err)
	}
	ns.Close()
}

// demoRun is a demo as a user runs it, with a directory for its files that must be empty afterwards.
type demoRun struct {
	cmd *exec.Cmd
	dir string
	out bytes.Buffer
}

func newDemoRun(t *testing.T, exe string, args ...string) *demoRun {
	t.Helper()
	// t.TempDir would make the paths of sockets longer than the kernel takes.
	dir, err := os.MkdirTemp("", "hw-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	d := &demoRun{cmd: exec.CommandContext(ctx, exe, append([]string{"demo"}, args...)...), dir: dir}
	t.Cleanup(func() { cancel(); os.RemoveAll(dir) })
	d.cmd.Cancel = func() error { return d.cmd.Process.Signal(syscall.SIGTERM) }
	d.cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	d.cmd.WaitDelay = 20 * time.Second
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.out
	return d
}

// checkGone fails the test for every file and process that the run has left.
func (d *demoRun) checkGone(t *testing.T) {
	t.Helper()
	left, err := os.ReadDir(d.dir)
	if err != nil || len(left) > 0 {
		t.Errorf("files left: %v, %v", left, err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		// A process that is gone by now, or another user's, is none of ours.
		if text, err := os.ReadFile(p); err == nil && bytes.Contains(text, []byte("TMPDIR="+d.dir)) {
			t.Errorf("process left: %s", filepath.Dir(p))
		}
	}
}

func TestDemo(t *testing.T) {
	needNamespaces(t)
	exe := binary(t)
	for _, c := range []struct {
		name, vpp, payload string
		more               []string
		wants              []string
	}{
		{"pocketvpp ETHERNET", pocket, "ETHERNET", nil, []string{"TCP stream"}},
		{"pocketvpp IP", pocket, "IP", nil, []string{"TCP stream"}},
		{"pocketvpp memif", pocket, "ETHERNET", []string{"--mechanism", "memif"}, []string{"generated to", "direct, without VPP", "endpoint: counters"}},
		{"pocketvpp remote", pocket, "", []string{"--remote"}, []string{"vxlan 198.18.0.1>198.18.0.2", "wireguard 198.18.0.1>198.18.0.2", "TCP stream"}},
		{"VPP remote", spawn, "", []string{"--remote"}, []string{"vxlan 198.18.0.1>198.18.0.2", "wireguard 198.18.0.1>198.18.0.2", "TCP stream"}},
		{"VPP ETHERNET", spawn, "ETHERNET", nil, []string{"TCP stream"}},
		{"VPP IP", spawn, "IP", nil, []string{"TCP stream"}},
		{"VPP memif", spawn, "IP", []string{"--mechanism", "memif", "--memif-direct", "never"}, []string{"generated to", "through VPP", "memif master"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"--vpp", c.vpp, "--stream", "300ms"}, c.more...)
			if c.payload != "" {
				args = append(args, "--payload", c.payload)
			}
			if c.vpp == spawn {
				if _, err := process.Find(os.Getenv("HIGHWIRE_VPP_BIN")); err != nil {
					t.Skip("no VPP here: set HIGHWIRE_VPP_BIN or put vpp on PATH")
				}
			}
			d := newDemoRun(t, exe, args...)
			err := d.cmd.Run()
			for _, want := range append(c.wants, "ping 172.16.1.", "ping fd16::", c.payload, "$ highwire vppctl -- show ", "removed:") {
				if err != nil || !strings.Contains(d.out.String(), want) {
					t.Fatalf("%v; want %q in\n%s", err, want, &d.out)
				}
			}
			d.checkGone(t)
		})
	}
}

// Ctrl-C half-way takes everything down.
func TestDemoInterrupted(t *testing.T) {
	needNamespaces(t)
	d := newDemoRun(t, binary(t), "--vpp", pocket, "--stream", "1m")
	r, w := io.Pipe()
	d.cmd.Stdout = w
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer io.Copy(io.Discard, r)
		for lines := bufio.NewScanner(r); lines.Scan(); {
			if strings.Contains(lines.Text(), "client is connected") {
				d.cmd.Process.Signal(syscall.SIGINT)
				return
			}
		}
	}()
	err := d.cmd.Wait()
	w.Close()
	if code := d.cmd.ProcessState.ExitCode(); code != exitFailure || !strings.Contains(d.out.String(), "interrupted") {
		t.Errorf("%v; want exit code %d and \"interrupted\":\n%s", err, exitFailure, &d.out)
	}
	d.checkGone(t)
}

// An ordinary user's demo runs in a user namespace.
func TestDemoRootless(t *testing.T) {
	d := newDemoRun(t, binary(t), "--vpp", pocket, "--stream", "0s")
	if os.Geteuid() == 0 {
		const nobody = 65534
		if err := errors.Join(os.Chmod(filepath.Dir(filepath.Dir(d.cmd.Path)), 0o755), os.Chown(d.dir, nobody, nobody)); err != nil {
			t.Fatal(err)
		}
		d.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	err := d.cmd.Run()
	if err != nil && strings.Contains(d.out.String(), "make no user namespace") {
		t.Skip("the kernel lets ordinary users make no user namespace")
	}
	if err != nil || !strings.Contains(d.out.String(), "user namespace") || !strings.Contains(d.out.String(), "removed:") {
		t.Errorf("%v\n%s", err, &d.out)
	}
	d.checkGone(t)
}
