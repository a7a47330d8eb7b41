package registry

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	registryapi "highwire/controlplane/api/registry"
)

// naive is what the wire description says of endpoint choice (§3.7), sentence by sentence.
func naive(t *testing.T, ns *registryapi.NetworkService, all []*registryapi.NetworkServiceEndpoint, client labels) []string {
	value := func(text string) string {
		var b strings.Builder
		if err := template.Must(template.New("").Parse(text)).Execute(&b, client); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	subset := func(selector, of labels) bool {
		for k, v := range selector {
			if have, ok := of[k]; !ok || have != value(v) {
				return false
			}
		}
		return true
	}
	var every []string
	for _, e := range all {
		if slices.Contains(e.NetworkServiceNames, ns.Name) {
			every = append(every, e.Name)
		}
	}
	if len(ns.Matches) == 0 {
		return every
	}
	for i, m := range ns.Matches {
		if !subset(m.SourceSelector, client) {
			continue
		}
		var found []string
		for j, r := range m.Routes {
			for _, e := range all {
				if slices.Contains(every, e.Name) && subset(r.DestinationSelector, e.NetworkServiceLabels[ns.Name].GetLabels()) {
					found = append(found, fmt.Sprintf("%s by %d/%d of %d", e.Name, i, j, r.Weight))
				}
			}
		}
		if len(found) == 0 && m.Fallthrough {
			continue
		}
		if len(found) == 0 && len(m.Routes) == 0 && m.Metadata != nil {
			return every
		}
		return found
	}
	return nil
}

// Choice is the naive model's, with each endpoint by the first route that leads to it.
func TestCandidatesProperty(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	some := func(values ...string) labels {
		l := labels{}
		for _, k := range []string{"app", "zone", "pod"} {
			if r.IntN(3) == 0 {
				l[k] = values[r.IntN(len(values))]
			}
		}
		return l
	}
	for round := range 3000 {
		ns := &registryapi.NetworkService{Name: "s"}
		for range r.IntN(4) {
			m := &registryapi.Match{SourceSelector: some("a", "b"), Fallthrough: r.IntN(2) == 0}
			for range r.IntN(3) {
				m.Routes = append(m.Routes, &registryapi.Destination{DestinationSelector: some("a", "b", "{{.app}}", "x{{.zone}}", "{{.missing}}"), Weight: r.Uint32N(3)})
			}
			if r.IntN(3) == 0 {
				m.Metadata = &registryapi.Metadata{}
			}
			ns.Matches = append(ns.Matches, m)
		}
		var all []*registryapi.NetworkServiceEndpoint
		for i := range r.IntN(6) {
			all = append(all, offer(fmt.Sprintf("e%d", i), []string{"s", "s", "t"}[r.IntN(3)], some("a", "b", "xa", "<no value>")))
		}
		client := some("a", "b")
		got, err := candidates(ns, all, client, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		var want, have []string
		seen := map[string]bool{}
		for _, text := range naive(t, ns, all, client) {
			if name, _, _ := strings.Cut(text, " "); !seen[name] {
				seen[name] = true
				want = append(want, text)
			}
		}
		for i, c := range got {
			text := c.Name
			if i < len(want) && strings.Contains(want[i], " ") {
				text = fmt.Sprintf("%s by %d/%d of %d", c.Name, c.Route.Match, c.Route.Index, c.Weight)
			}
			have = append(have, text)
		}
		if !slices.Equal(have, want) {
			t.Fatalf("round %d: got %v, want %v for labels %v of\n%v\n%v", round, have, want, client, ns, all)
		}
	}
}
