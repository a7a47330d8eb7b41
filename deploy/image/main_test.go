package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDockerfile(t *testing.T) {
	faults, err := lint(t.Context(), "../../Dockerfile.vpp")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		t.Error(f)
	}
}

// The linter finds something where there is something.
func TestFaults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "Dockerfile")
	if err := os.WriteFile(file, []byte("FROM scratch as x\nENV a b\nCMD foo\nMAINTAINER x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	faults, err := lint(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(faults, "\n")
	for _, rule := range []string{"FromAsCasing", "LegacyKeyValueFormat", "JSONArgsRecommended", "MaintainerDeprecated"} {
		if !strings.Contains(text, file+":") || !strings.Contains(text, rule) {
			t.Errorf("no %s:\n%s", rule, text)
		}
	}
}
