package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"highwire/vppapi"
)

// deployed are the files of deploy/ with one of the endings.
func deployed(t *testing.T, endings ...string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir("../../deploy", func(path string, d fs.DirEntry, err error) error {
		for _, e := range endings {
			if err == nil && !d.IsDir() && strings.HasSuffix(path, e) {
				var text []byte
				text, err = os.ReadFile(path)
				files[path] = string(text)
			}
		}
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	return files
}

// Every flag in the manifests and units is one that a command has.
func TestDeployFlags(t *testing.T) {
	arguments := regexp.MustCompile(`(?m)^( *- |.*value: "?|ExecStart=)(/usr/bin/highwire .*|--[a-z].*)$`)
	flag := regexp.MustCompile(`(?:^| )(--[a-z][a-z-]+)`)
	seen := 0
	for file, text := range deployed(t, ".yaml", ".service") {
		var all [][]string
		for _, line := range arguments.FindAllStringSubmatch(text, -1) {
			all = append(all, flag.FindAllStringSubmatch(line[2], -1)...)
		}
		for _, m := range all {
			seen++
			known := false
			for _, c := range []*cobra.Command{newAgent(), newWebhook(), newClient(), newEndpoint()} {
				known = known || c.Flags().Lookup(strings.TrimPrefix(m[1], "--")) != nil
			}
			if !known {
				t.Errorf("%s: no command has %s", file, m[1])
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d flags found", seen)
	}
}

// The units are what systemd takes.
func TestUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze here")
	}
	dir := t.TempDir()
	args := []string{"verify", "--man=no"}
	for file, text := range deployed(t, ".service") {
		// An executable that is there, and an instance of what is a template.
		text = regexp.MustCompile(`/usr/bin/(highwire|vpp) `).ReplaceAllString(text, "/bin/true ")
		unit := filepath.Join(dir, filepath.Base(file))
		if err := os.WriteFile(unit, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if template, ok := strings.CutSuffix(unit, "@.service"); ok {
			unit = template + "@blue.service"
			if err := os.WriteFile(unit, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		args = append(args, unit)
	}
	out, err := exec.CommandContext(t.Context(), analyze, args...).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, dir) || strings.HasPrefix(line, "highwire") {
			t.Error(line)
		}
	}
	if err != nil {
		t.Errorf("systemd-analyze: %v\n%s", err, out)
	}
}

// The image has the VPP whose messages we speak, and only one place says which.
func TestImage(t *testing.T) {
	text, err := os.ReadFile("../../Dockerfile.vpp")
	if err != nil {
		t.Fatal(err)
	}
	if want := "\nARG VPP_VERSION=" + vppapi.Release + "\n"; !strings.Contains(string(text), want) || strings.Count(string(text), vppapi.Release) != 1 {
		t.Errorf("Dockerfile.vpp: want one %q, and no other mention of the release", strings.TrimSpace(want))
	}
}
