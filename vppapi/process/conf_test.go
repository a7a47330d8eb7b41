package process

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"highwire/vppapi/fault"
)

var update = flag.Bool("update", false, "write golden files anew")

// TestConf holds startup.conf to golden files; run with -update to write them.
func TestConf(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]Config{
		"defaults": {Dir: "/run/hw"},
		"all":      {Dir: "/run/hw", PluginPath: "/opt/x/lib/vpp_plugins", MainCore: 2, Workers: 3, Buffers: 16384, HeapMB: 256},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Whether hugepages are free is the machine's affair.
			got := regexp.MustCompile(`prefix hw[0-9a-f]{12} `).ReplaceAllString(c.conf(), "prefix hwSUM ")
			got = regexp.MustCompile(`(buffers-per-numa .*) page-size default(-hugepage)? `).ReplaceAllString(got, "$1 page-size PAGES ")
			file := filepath.Join("testdata", name+".conf.golden")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func executable(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFind(t *testing.T) { // not parallel: it sets PATH
	dir := t.TempDir()
	vpp := executable(t, filepath.Join(dir, "bin", "vpp"), "#!/bin/sh\n")
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Join(dir, "bin"))
	t.Chdir(dir)
	for name, c := range map[string]struct{ bin, want string }{
		"on PATH":        {"", vpp},
		"named":          {vpp, vpp},
		"relative":       {"./bin/vpp", vpp},
		"not there":      {filepath.Join(dir, "vpp"), ""},
		"not executable": {plain, ""},
		"a directory":    {dir, ""},
		"not on PATH":    {"vpp-of-another-name", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Find(c.bin)
			if got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("%q, %v; want %q", got, err, c.want)
			}
			if err != nil && (!fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "--vpp-bin")) {
				t.Errorf("%v: %v", fault.KindOf(err), err)
			}
		})
	}
	t.Setenv("PATH", "")
	if got, err := Find(""); !fault.Is(err, fault.NotFound) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestPlugins(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ there, want string }{
		"lib":         {"lib/vpp_plugins", "lib/vpp_plugins"},
		"lib64":       {"lib64/vpp_plugins", "lib64/vpp_plugins"},
		"triplet":     {"lib/x86_64-linux-gnu/vpp_plugins", "lib/x86_64-linux-gnu/vpp_plugins"},
		"none":        {"lib", ""},
		"nothing":     {"bin", ""},
		"of nobody":   {"share/vpp_plugins", ""},
		"beside it":   {"bin/vpp_plugins", ""},
		"other depth": {"lib/a/b/vpp_plugins", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			prefix := t.TempDir()
			if err := os.MkdirAll(filepath.Join(prefix, c.there), 0o700); err != nil {
				t.Fatal(err)
			}
			want := c.want
			if want != "" {
				want = filepath.Join(prefix, want)
			}
			if got := Plugins(filepath.Join(prefix, "bin", "vpp")); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

func TestAllows(t *testing.T) {
	t.Parallel()
	for limit, want := range map[string]bool{"max\n": true, "0\n": false, "81788928\n": false, "134217728\n": true, "9223372036854771712": true} {
		if got := allows(limit, 39); got != want {
			t.Errorf("limit %q allows 39 pages and one: %v, want %v", limit, got, want)
		}
	}
}
