package metrics

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"highwire/forwarder"
	"highwire/vppapi/fault"
)

// name finds our metrics in an expression.
var name = regexp.MustCompile(`\bhighwire_[a-z_]+\b`)

// Dashboard and alerts use no metric that an agent does not have, and with labels that it has.
func TestDeploy(t *testing.T) {
	events := forwarder.NewEvents()
	registry := New(node(events))
	for _, e := range []forwarder.Event{
		{Kind: forwarder.Requested, Mechanism: "KERNEL", Err: fault.New(fault.Timeout, "x"), Took: time.Second}, {Kind: forwarder.Resynced}, {Kind: forwarder.Converged},
	} {
		events.Add(e)
	}
	known := map[string]string{} // by name, all its series
	for line := range strings.Lines(scrape(t, registry)) {
		if n := name.FindString(line); n != "" && !strings.HasPrefix(line, "#") {
			known[n] += line
		}
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations struct{ Summary, Description string }
			}
		}
	}
	text, err := os.ReadFile("../../deploy/prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &rules); err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title, Type string
			Targets     []struct{ Expr string }
		}
	}
	if text, err = os.ReadFile("../../deploy/grafana/highwire.json"); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	used := 0
	check := func(where, expr string) {
		t.Helper()
		found := name.FindAllString(expr, -1)
		if len(found) == 0 || strings.Count(expr, "(") != strings.Count(expr, ")") || strings.Count(expr, "{") != strings.Count(expr, "}") {
			t.Errorf("%s: %q is no expression over our metrics", where, expr)
		}
		for _, n := range found {
			used++
			if known[n] == "" {
				t.Errorf("%s uses %s, which does not exist", where, n)
			}
			for _, label := range regexp.MustCompile(n+`\{([^}]*)\}`).FindAllStringSubmatch(expr, -1) {
				for _, pair := range regexp.MustCompile(`([a-z]+)[=!]`).FindAllStringSubmatch(label[1], -1) {
					if pair[1] != "instance" && !strings.Contains(known[n], pair[1]+`="`) {
						t.Errorf("%s: %s has no label %s", where, n, pair[1])
					}
				}
			}
		}
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			check("alert "+r.Alert, r.Expr)
			if r.Alert == "" || r.Annotations.Summary == "" || r.Annotations.Description == "" {
				t.Errorf("alert %q does not say what is wrong and what to do", r.Alert)
			}
		}
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			check("panel "+p.Title, target.Expr)
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %s shows nothing", p.Title)
		}
	}
	if used < 30 {
		t.Errorf("only %d uses of metrics found", used)
	}
}
