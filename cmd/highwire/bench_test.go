package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A short run measures what needs no VPP, tells how far it is, and writes both reports.
func TestBench(t *testing.T) {
	exe := binary(t)
	needNamespaces(t)
	dir := filepath.Join(t.TempDir(), "out")
	cmd := exec.Command(exe, "bench", "--paths", "kernel-direct", "--rounds", "1", "--trial", "100ms", "--echoes", "20", "--out", dir)
	cmd.Env = append(os.Environ(), "PATH="+t.TempDir(), "HIGHWIRE_VPP_BIN=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"no VPP found", "0 % kernel-direct TCP", "100 % done", "kernel-direct round trip, p99", "written: " + dir} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	var results struct {
		Machine struct{ Cores int }
		Figures []struct{ Name string }
	}
	text, err := os.ReadFile(filepath.Join(dir, "bench.json"))
	if err == nil {
		err = json.Unmarshal(text, &results)
	}
	if err != nil || results.Machine.Cores == 0 || len(results.Figures) != 3 {
		t.Errorf("%+v, %v", results, err)
	}
	if html, err := os.ReadFile(filepath.Join(dir, "bench.html")); err != nil || strings.Count(string(html), "<svg") != 2 {
		t.Errorf("%d plots, %v", strings.Count(string(html), "<svg"), err)
	}
	file := filepath.Join(dir, "bench.json")
	if code, stdout, stderr := execute(t, "bench", "compare", file, file); code != exitOK || strings.Count(stdout, "  same") != 3 {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
}

func TestBenchUsage(t *testing.T) {
	slow := filepath.Join(t.TempDir(), "slow.json")
	fast := filepath.Join(t.TempDir(), "fast.json")
	for file, text := range map[string]string{slow: `[{"name":"a","value":10,"unit":"Mpps"}]`, fast: `{"figures":[{"name":"a","value":12,"unit":"Mpps"}]}`} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"bench --paths srv6", exitUsage, "memif, memif-direct, kernel, kernel-direct"},
		{"bench --sizes 65", exitUsage, "64, 512, 1500, IMIX, 9000"},
		{"bench --runs 0", exitUsage, "at least 1"},
		{"bench --trial 1ms", exitUsage, "at least 100ms"},
		{"bench --width 1", exitUsage, "less than 1"},
		{"bench compare " + slow, exitUsage, "accepts 2 arg"},
		{"bench compare " + slow + " " + fast, exitOK, "+20.0 %"},
		{"bench compare " + fast + " " + slow, exitFailure, "1 figures are worse"},
		{"bench compare " + slow + " " + slow + ".none", exitFailure, "no such file"},
	} {
		code, stdout, stderr := execute(t, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stdout+stderr, c.says) {
			t.Errorf("highwire %s: exit %d, want %d saying %q:\n%s%s", c.args, code, c.code, c.says, stdout, stderr)
		}
	}
}

func TestProgress(t *testing.T) {
	var b strings.Builder
	p := newProgress(&b)
	p.show("one", 0)
	p.show("two", 0.5)
	p.end()
	if got := b.String(); !strings.HasPrefix(got, "  0 % one\n 50 % two, ") || !strings.HasSuffix(got, " left\n") {
		t.Errorf("%q", got)
	}
	b.Reset()
	p.terminal = true
	p.show("three", 0.5)
	if _, err := p.Write([]byte("log\n")); err != nil {
		t.Error(err)
	}
	if got := b.String(); !strings.HasPrefix(got, "["+strings.Repeat("#", 15)+strings.Repeat(".", 15)+"]  50 % three") || !strings.HasSuffix(got, "\rlog\n") {
		t.Errorf("%q", got)
	}
}
