package deploy

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "make the chart anew")

// overlays are the names of all, and what Kustomize makes of each. Helm makes the namespace itself.
func overlays(t *testing.T) map[string]string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(root, "overlays/*"))
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	made := map[string]string{}
	for _, dir := range list {
		resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
		if err != nil {
			t.Fatalf("%s: %v", dir, err)
		}
		var b strings.Builder
		for _, r := range resources.Resources() {
			if r.GetKind() == "Namespace" {
				continue
			}
			text, err := r.AsYAML()
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "---\n%s", text)
		}
		made[filepath.Base(dir)] = b.String()
	}
	return made
}

// values of the chart, as a template sees them.
func values(t *testing.T) map[string]any {
	t.Helper()
	text, err := os.ReadFile(root + "/helm/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := yaml.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestChart: each overlay's template is the overlay, with images out of the values; run with -update to make them. What the
// templates use is the same in Helm and in Go.
func TestChart(t *testing.T) {
	t.Parallel()
	made := overlays(t)
	images := values(t)["images"].(map[string]any)
	for name, want := range made {
		file := filepath.Join(root, "helm/templates", name+".yaml")
		if *update {
			text := strings.NewReplacer("{{", `{{ "{{" }}`, images["vpp"].(string), "{{ .Values.images.vpp }}", images["plain"].(string), "{{ .Values.images.plain }}").Replace(want)
			text = fmt.Sprintf("{{- if eq .Values.overlay %q }}\n# Made of deploy/overlays/%s by 'go test -update' in deploy/test.\n%s{{- end }}\n", name, name, text)
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for overlay := range made {
			v := values(t)
			v["overlay"] = overlay
			var b bytes.Buffer
			parsed, err := template.ParseFiles(file)
			if err == nil {
				err = parsed.Execute(&b, map[string]any{"Values": v})
			}
			if err != nil {
				t.Fatal(err)
			}
			_, got, _ := strings.Cut(b.String(), "in deploy/test.\n")
			switch {
			case overlay == name && got != want:
				t.Errorf("%s is not its overlay any more; run go test with -update in deploy/test", file)
			case overlay != name && strings.TrimSpace(b.String()) != "":
				t.Errorf("%s says something for %s", file, overlay)
			}
		}
	}
	files, err := filepath.Glob(root + "/helm/templates/*")
	if err != nil || len(files) != len(made) {
		t.Errorf("%d templates, %d overlays", len(files), len(made))
	}
}

// TestSchema: Helm refuses an overlay that is not there.
func TestSchema(t *testing.T) {
	t.Parallel()
	names := slices.Sorted(maps.Keys(overlays(t)))
	image := map[string]any{"type": "string", "minLength": 1}
	want, err := json.MarshalIndent(map[string]any{
		"type": "object", "required": []string{"overlay", "images"},
		"properties": map[string]any{
			"overlay": map[string]any{"enum": names},
			"images":  map[string]any{"type": "object", "required": []string{"plain", "vpp"}, "properties": map[string]any{"plain": image, "vpp": image}},
		},
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.WriteFile(root+"/helm/values.schema.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(root + "/helm/values.schema.json")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("values.schema.json: %v; run go test with -update in deploy/test", err)
	}
}
