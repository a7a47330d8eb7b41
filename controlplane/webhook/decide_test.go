package webhook

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"highwire/vppapi/fault"
)

var update = flag.Bool("update", false, "write golden files anew")

func TestMain(m *testing.M) {
	// client-go's own: a watch that is stopped while it hands over an event waits for a reader for ever.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("k8s.io/apimachinery/pkg/watch.(*filteredWatch).loop"))
}

func settings(change func(*Settings)) *Settings {
	s := Defaults()
	s.Image = "highwire:1"
	if change != nil {
		change(&s)
	}
	return &s
}

// TestDecide holds what becomes of objects to golden files; run with -update to write them. What was patched once is left alone
// the next time.
func TestDecide(t *testing.T) {
	t.Parallel()
	variants := map[string]func(*Settings){
		"": nil,
		"pod-container": func(s *Settings) {
			s.Sidecar, s.SPIFFE, s.SPIFFESocket, s.User, s.Labels = Container, "/run/highwire", "workload.sock", 0, nil
			s.Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("20m")}
			s.Args = []string{"--log-level=debug"}
		},
		"pod-dns":             func(s *Settings) { s.DNS = true },
		"workloads-container": func(s *Settings) { s.Sidecar = Container },
	}
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		for variant, change := range variants {
			if variant != "" && !strings.HasPrefix(variant, name+"-") {
				continue
			}
			golden := strings.TrimSuffix(file, ".yaml") + strings.TrimPrefix(variant, name) + ".golden"
			t.Run(strings.TrimSuffix(filepath.Base(golden), ".golden"), func(t *testing.T) {
				t.Parallel()
				s := settings(change)
				if err := s.Check(); err != nil {
					t.Fatal(err)
				}
				compare(t, golden, verdicts(t, s, file))
			})
		}
	}
}

// verdicts is a file's as text.
func verdicts(t *testing.T, s *Settings, file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.CheckFile(data)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := readObjects(data)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i, v := range list {
		fmt.Fprintf(&b, "%d:%d: %s: ", v.Line, v.Column, v.Name)
		if v.Err != nil {
			if !fault.Is(v.Err, fault.Invalid) {
				t.Errorf("%s: kind of %v", v.Name, v.Err)
			}
			fmt.Fprintf(&b, "refused: %v\n", v.Err)
			continue
		}
		fmt.Fprintln(&b, v.Decision.Does)
		for _, w := range v.Decision.Warnings {
			fmt.Fprintln(&b, "warning:", w)
		}
		if len(v.Decision.Patch) == 0 {
			continue
		}
		text, err := yaml.Marshal(v.Decision.Patch)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
		again(t, s, Object{Kind: objects[i].kind, Raw: apply(t, objects[i].raw, v.Decision)})
	}
	return b.String()
}

func apply(t *testing.T, raw []byte, d Decision) []byte {
	t.Helper()
	text, err := json.Marshal(d.Patch)
	if err != nil {
		t.Fatal(err)
	}
	p, err := jsonpatch.DecodePatch(text)
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Apply(raw)
	if err != nil {
		t.Fatalf("the patch cannot be applied: %v\n%s", err, text)
	}
	return out
}

func again(t *testing.T, s *Settings, o Object) {
	t.Helper()
	d, err := s.Decide(o)
	if err != nil || len(d.Patch) > 0 {
		t.Errorf("the second time: %v, %v\n%s", d.Patch, err, o.Raw)
	}
}

func compare(t *testing.T, file, got string) {
	t.Helper()
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
		t.Errorf("%s:\ngot\n%s\nwant\n%s", file, got, want)
	}
}

// Both containers are clients of one name, so that the second takes up what the first has made.
func TestSameName(t *testing.T) {
	t.Parallel()
	s := settings(nil)
	services, err := Parse("kernel://db")
	if err != nil {
		t.Fatal(err)
	}
	a, b := s.initContainer("kernel://db", services), s.sidecar("kernel://db", services)
	if got, want := strings.Join(a.Args, " "), strings.Replace(strings.Join(b.Args, " "), "client ", "client --init ", 1); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for says, change := range map[string]func(*Settings){
		"no image":               func(s *Settings) { s.Image = "" },
		"both containers":        func(s *Settings) { s.InitName = s.SidecarName },
		"container name \"A_\"":  func(s *Settings) { s.InitName = "A_" },
		"sidecar \"auto\"":       func(s *Settings) { s.Sidecar = "auto" },
		"user -1":                func(s *Settings) { s.User = -1 },
		"absolute paths":         func(s *Settings) { s.SPIFFE = "run" },
		"want the name of a fil": func(s *Settings) { s.ConnectTo = "a/b" },
		"label a b=":             func(s *Settings) { s.Labels = map[string]string{"a b": ""} },
	} {
		if err := settings(change).Check(); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

func TestCheckFileErrors(t *testing.T) {
	t.Parallel()
	for text, says := range map[string]string{
		"a: [": "yaml",
		"[]":   "line 1: not an object of Kubernetes: it has no kind",
		"kind: Pod\nmetadata:\n  annotations: {networkservicemesh.io: kernel://a, networkservicemesh.io: kernel://b}": "already defined at line 3",
	} {
		if _, err := settings(nil).CheckFile([]byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
}

// Whatever comes as a pod: it is refused, left alone, or patched so that the result is left alone.
func FuzzDecide(f *testing.F) {
	for _, kind := range []string{"Pod", "Deployment", "CronJob", "Namespace"} {
		f.Add(kind, []byte(`{"metadata":{"annotations":{"networkservicemesh.io":"kernel://a/b?c=d"}},"spec":{"volumes":[],"initContainers":[]}}`), "kernel://x")
	}
	f.Add("Pod", []byte(`{"metadata":{"labels":null,"annotations":null},"spec":{"volumes":null,"containers":[{"name":"a"}]}}`), "kernel://x, memif://y")
	f.Fuzz(func(t *testing.T, kind string, raw []byte, namespace string) {
		s := settings(nil)
		d, err := s.Decide(Object{Kind: kind, Raw: raw, Namespace: namespace})
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatalf("kind of %v", err)
			}
			return
		}
		text, err := json.Marshal(d.Patch)
		if err != nil {
			t.Fatal(err)
		}
		p, err := jsonpatch.DecodePatch(text)
		if err != nil {
			t.Fatal(err)
		}
		out, err := p.Apply(raw)
		if err != nil {
			return // JSON with names in two spellings, which the API server never sends
		}
		if len(d.Patch) > 0 {
			again(t, s, Object{Kind: kind, Raw: out, Namespace: namespace})
		}
	})
}
