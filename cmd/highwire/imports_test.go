package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// layers are the folders from the bottom up: a package imports only its own and those below.
var layers = []string{"vppapi", "mechanisms", "forwarder", "controlplane", "cmd"}

// reserved says which folders alone may import a module directly.
var reserved = map[string][]string{
	"go.fd.io/govpp":         {"vppapi"},
	"google.golang.org/grpc": {"controlplane", "cmd", "bench"},
}

// labPackage makes the namespaces of tests.
const labPackage = "highwire/cmd/lab"

// layer is the place of a package of this module among the layers; bench stands where cmd does.
func layer(folder string) int {
	if folder == "bench" {
		folder = "cmd"
	}
	return slices.Index(layers, folder)
}

// broken says which rule an import of pkg breaks, or nothing.
func broken(pkg, imported string) string {
	folder, _, _ := strings.Cut(strings.TrimPrefix(pkg, "highwire/"), "/")
	if target, ok := strings.CutPrefix(imported, "highwire/"); ok {
		below, _, _ := strings.Cut(target, "/")
		if layer(folder) < layer(below) {
			return "imports go down only: " + strings.Join(layers, " < ")
		}
		return ""
	}
	for module, folders := range reserved {
		if (imported == module || strings.HasPrefix(imported, module+"/")) && !slices.Contains(folders, folder) {
			return "only " + strings.Join(folders, ", ") + " may import " + module
		}
	}
	if strings.HasPrefix(imported, "github.com/networkservicemesh/") {
		return "other projects' control planes are no dependencies"
	}
	return ""
}

func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "highwire/...").Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		t.Fatalf("go list: %v: %s", err, exit.Stderr)
	} else if err != nil {
		t.Fatal(err)
	}
	packages := 0
	for dec := json.NewDecoder(bytes.NewReader(out)); ; packages++ {
		var p struct {
			ImportPath                         string
			Imports, TestImports, XTestImports []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if imported == labPackage && !slices.Contains(p.Imports, labPackage) {
				continue // tests of any layer measure with it; it imports nothing of ours
			}
			if rule := broken(p.ImportPath, imported); rule != "" {
				t.Errorf("%s imports %s: %s", p.ImportPath, imported, rule)
			}
		}
		if folder, _, _ := strings.Cut(strings.TrimPrefix(p.ImportPath, "highwire/"), "/"); layer(folder) < 0 {
			t.Errorf("%s: package outside the fixed folders", p.ImportPath)
		}
	}
	if packages < len(layers) {
		t.Errorf("go list named %d packages only", packages)
	}
}

func TestBrokenImports(t *testing.T) {
	for _, c := range []struct {
		pkg, imported string
		allowed       bool
	}{
		{"highwire/cmd/highwire", "highwire/vppapi", true},
		{"highwire/bench", "highwire/controlplane/client", true},
		{"highwire/vppapi", "go.fd.io/govpp/api", true},
		{"highwire/vppapi/pocketvpp", "highwire/vppapi/fault", true},
		{"highwire/controlplane/server", "google.golang.org/grpc/codes", true},
		{"highwire/mechanisms/kernel", "highwire/forwarder", false},
		{"highwire/vppapi", "highwire/mechanisms", false},
		{"highwire/controlplane/server", "highwire/cmd/lab", false},
		{"highwire/forwarder", "google.golang.org/grpc", false},
		{"highwire/cmd/highwire", "go.fd.io/govpp", false},
		{"highwire/mechanisms", "go.fd.io/govpp/binapi/memif", false},
		{"highwire/controlplane/manager", "github.com/networkservicemesh/api/pkg/api", false},
	} {
		if rule := broken(c.pkg, c.imported); (rule == "") != c.allowed {
			t.Errorf("%s importing %s: %q; want allowed = %v", c.pkg, c.imported, rule, c.allowed)
		}
	}
}
