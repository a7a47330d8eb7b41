package identity

import (
	"os"
	"path/filepath"
	"testing"

	"highwire/vppapi/fault"
)

func TestFederation(t *testing.T) {
	other := t.TempDir()
	if _, err := NewCA("other.test", other); err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(other, "bundle.pem")
	if data, err := os.ReadFile(bundle); err != nil || len(data) == 0 {
		t.Fatal("no bundle for others:", err)
	}
	ca, err := NewCA("ours.test", t.TempDir(), WithFederation(map[string]string{"other.test": bundle}))
	if err != nil {
		t.Fatal(err)
	}
	if others := ca.others(); len(others["spiffe://other.test"]) == 0 || len(others) != 1 {
		t.Errorf("bundles: %v", others)
	}
	if _, err := NewCA("ours.test", t.TempDir(), WithFederation(map[string]string{"other.test": filepath.Join(other, "bundle.pem.none")})); !fault.Is(err, fault.Invalid) {
		t.Errorf("no file: %v", err)
	}
	for _, name := range []string{"ours.test", "not a name"} {
		if _, err := NewCA("ours.test", t.TempDir(), WithFederation(map[string]string{name: bundle})); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(bundle, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if others := ca.others(); len(others) != 0 {
		t.Errorf("of a damaged file: %v", others)
	}
}
