package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPolicyTest(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "policy.yaml")
	broken := filepath.Join(dir, "broken.yaml")
	if err := os.WriteFile(file, []byte("default: allow\nrules:\n- name: no strangers\n  deny: '!caller.startsWith(\"spiffe://corp/\") && labels[?\"guest\"].orValue(\"\") != \"yes\"'\n- name: no gateways\n  deny: path.exists(h, h.name == \"gw\")\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(broken, []byte("default: allow\nrules:\n- name: typo\n  deny: calller == ''\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{file, "--caller", "spiffe://corp/x", "--service", "web"}, exitOK, "allowed by default"},
		{[]string{file, "--caller", "spiffe://else/x", "--service", "web"}, exitFailure, `denied by rule "no strangers"`},
		{[]string{file, "--caller", "spiffe://else/x", "--service", "web", "--label", "guest=yes"}, exitOK, "allowed by default"},
		{[]string{file, "--caller", "spiffe://corp/x", "--service", "web", "--path", "nsc=spiffe://corp/y,gw=spiffe://corp/x"}, exitFailure, `denied by rule "no gateways"`},
		{[]string{file, "--caller", "spiffe://corp/x", "--service", "web", "--path", "gw"}, exitUsage, "want NAME=SPIFFE-ID"},
		{[]string{broken, "--caller", "spiffe://corp/x", "--service", "web"}, exitFailure, `rule "typo"`},
		{[]string{filepath.Join(dir, "none"), "--caller", "x", "--service", "y"}, exitFailure, "no such file"},
		{[]string{file, "--service", "web"}, exitUsage, "caller"},
		{nil, exitUsage, "accepts 1 arg"},
	} {
		code, stdout, stderr := execute(t, append([]string{"policy", "test"}, c.args...)...)
		if code != c.code || !strings.Contains(stdout+stderr, c.says) {
			t.Errorf("highwire policy test %s: exit %d, want %d saying %q:\n%s%s", strings.Join(c.args, " "), code, c.code, c.says, stdout, stderr)
		}
	}
}
