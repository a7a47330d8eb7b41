package manager

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/registry"
	"highwire/vppapi/fault"
)

// routed makes candidates from text: "a b:3 c:3" are a by a route without weight and b and c by one of weight 3.
func routed(text string) (list []registry.Candidate) {
	routes := map[string]int{}
	for _, word := range strings.Fields(text) {
		name, weight, _ := strings.Cut(word, ":")
		if _, ok := routes[weight]; !ok {
			routes[weight] = len(routes)
		}
		c := registry.Candidate{NetworkServiceEndpoint: &registryapi.NetworkServiceEndpoint{Name: name}, Route: registry.Route{Index: routes[weight]}}
		_, _ = fmt.Sscan(weight, &c.Weight)
		list = append(list, c)
	}
	return list
}

func order(c *choice, list []registry.Candidate, now time.Time) string {
	var names []string
	for _, e := range c.order("s", list, now) {
		names = append(names, e.Name)
	}
	return strings.Join(names, " ")
}

func TestChoice(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		list string
		want []string // who is asked, at each of several Requests
	}{
		{"a b c", []string{"a b c", "b c a", "c a b", "a b c"}},
		{"a:1 b:1", []string{"a b", "b a", "a b"}}, // one route
		{"a:5 b:1 c:1x", []string{"a b c", "a b c"}},
		{"a:3 b:1", []string{"a b", "a b", "b a", "a b", "a b", "a b", "b a", "a b"}},
		{"a:2 b:2 c:1", []string{"a b c", "c b a", "b a c", "a b c", "c b a", "b a c"}},
		{"a b:2 c:1", []string{"b c a", "c b a", "b c a", "b c a"}}, // without a weight beside weights: when all others failed
	} {
		ch := choice{}
		for i, want := range c.want {
			if got := order(&ch, routed(c.list), now); got != want {
				t.Errorf("%s, Request %d: %s, want %s", c.list, i+1, got, want)
			}
		}
	}
}

// An endpoint that just failed is asked last, for a while; one that refused a client is as good as any.
func TestChoiceHealth(t *testing.T) {
	now := time.Now()
	ch, list := choice{}, routed("a b c")
	ch.tried("b", fault.New(fault.Unavailable, "gone"), now)
	ch.tried("c", fault.New(fault.Denied, "not you"), now)
	for i, want := range []string{"a c b", "c a b", "c a b"} {
		if got := order(&ch, list, now); got != want {
			t.Errorf("Request %d: %s, want %s", i+1, got, want)
		}
	}
	if got := order(&ch, list, now.Add(restTime)); got != "a b c" {
		t.Errorf("rested: %s", got)
	}
	ch.tried("a", errors.New("broken"), now)
	ch.tried("b", nil, now)
	if got := order(&ch, list, now); got != "b c a" {
		t.Errorf("b well again, a not: %s", got)
	}
	if len(ch.failed) != 1 {
		t.Errorf("kept: %v", ch.failed)
	}
	// All failed: all are asked.
	for _, name := range []string{"a", "b", "c"} {
		ch.tried(name, errors.New("broken"), now)
	}
	if got := order(&ch, list, now); got != "c a b" {
		t.Errorf("all broken: %s", got)
	}
	ch.forget("s")
	if len(ch.services) != 0 {
		t.Error("not forgotten")
	}
}

// Whatever the weights: everybody is asked once, over any whole number of rounds each route comes first exactly as often as its
// weight says and never runs ahead by more than its fair share, and the endpoints of a route differ by one at most.
func TestChoiceProperty(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		var list []registry.Candidate
		weights := map[registry.Route]int{}
		total := 0
		for i := range 1 + r.IntN(5) {
			route := registry.Route{Match: 1, Index: i}
			weights[route] = r.IntN(6)
			total += weights[route]
			for j := range 1 + r.IntN(4) {
				list = append(list, registry.Candidate{
					NetworkServiceEndpoint: &registryapi.NetworkServiceEndpoint{Name: fmt.Sprintf("%d/%d", i, j)}, Route: route, Weight: uint32(weights[route]),
				})
			}
		}
		routeOf := map[string]registry.Route{}
		for _, c := range list {
			routeOf[c.Name] = c.Route
		}
		weighted := total > 0
		if !weighted {
			total = len(list)
		}
		first, byRoute := map[string]int{}, map[registry.Route]int{}
		ch := choice{}
		const rounds = 12
		for n := 1; n <= rounds*total; n++ {
			got := ch.order("s", list, time.Now())
			asked := map[string]bool{}
			for _, e := range got {
				asked[e.Name] = true
			}
			if len(got) != len(list) || len(asked) != len(list) {
				t.Fatalf("seed %d: asked %d, %d different, of %d", seed, len(got), len(asked), len(list))
			}
			first[got[0].Name]++
			byRoute[routeOf[got[0].Name]]++
			for route, weight := range weights {
				if fair := float64(n*weight) / float64(total); weighted && (float64(byRoute[route]) > fair+1 || float64(byRoute[route]) < fair-float64(len(weights))) {
					t.Fatalf("seed %d: route %v came first %d times in %d, fair are %.1f", seed, route, byRoute[route], n, fair)
				}
			}
		}
		if !weighted {
			for name, n := range first {
				if n != rounds {
					t.Errorf("seed %d: %s came first %d times, want %d", seed, name, n, rounds)
				}
			}
			continue
		}
		for route, weight := range weights {
			if byRoute[route] != rounds*weight {
				t.Errorf("seed %d: route %v came first %d times, want %d", seed, route, byRoute[route], rounds*weight)
			}
			var counts []int
			for _, c := range list {
				if c.Route == route {
					counts = append(counts, first[c.Name])
				}
			}
			if slices.Max(counts)-slices.Min(counts) > 1 {
				t.Errorf("seed %d: within route %v: %v", seed, route, counts)
			}
		}
	}
}
