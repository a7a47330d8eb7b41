package registry

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"highwire/vppapi/fault"
)

func TestPath(t *testing.T) {
	seg := func(tokens ...string) (s []pathSegment) {
		for _, token := range tokens {
			s = append(s, pathSegment{token})
		}
		return s
	}
	for _, c := range []struct{ name, in, out string }{
		{"none", "", `{"Index":0,"PathSegments":[{"token":"T"},{"token":"S"}]}`},
		{"null", `{"Index":0,"PathSegments":null}`, `{"Index":0,"PathSegments":[{"token":"T"},{"token":"S"}]}`},
		{"refresh", `{"Index":0,"PathSegments":[{"token":"a"},{"token":"b"}]}`, `{"Index":0,"PathSegments":[{"token":"T"},{"token":"S"}]}`},
		{"behind a hop", `{"Index":1,"PathSegments":[{"token":"a"},{"token":"b"}]}`, `{"Index":1,"PathSegments":[{"token":"a"},{"token":"T"},{"token":"S"}]}`},
		{"what was behind us goes", `{"Index":0,"PathSegments":[{"token":"a"},{"token":"b"},{"token":"c"}]}`, `{"Index":0,"PathSegments":[{"token":"T"},{"token":"S"}]}`},
		{"more fields", `{"Index":0,"PathSegments":[{"token":"a","name":"x","expires":{}}],"More":1}`, `{"Index":0,"PathSegments":[{"token":"T"},{"token":"S"}]}`},
	} {
		p, err := parsePath(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		before := append([]pathSegment(nil), p.PathSegments...)
		got, _ := json.Marshal(p.enter("T", "S"))
		if string(got) != c.out {
			t.Errorf("%s: got %s, want %s", c.name, got, c.out)
		}
		if !reflect.DeepEqual(before, append([]pathSegment(nil), p.PathSegments...)) {
			t.Errorf("%s: enter changed what it was called on", c.name)
		}
	}
	for name, text := range map[string]string{
		"not JSON":        "path",
		"a list":          "[]",
		"index too far":   `{"Index":2,"PathSegments":[{"token":"a"},{"token":"b"}]}`,
		"index, no path":  `{"Index":1,"PathSegments":[]}`,
		"index below 0":   `{"Index":-1,"PathSegments":[{"token":"a"}]}`,
		"token no string": `{"Index":0,"PathSegments":[{"token":1}]}`,
		"many segments":   `{"Index":0,"PathSegments":[{}` + strings.Repeat(",{}", maxPathHops) + `]}`,
		"big":             `{"Index":0,"PathSegments":[{"token":"` + strings.Repeat("a", maxPathBytes) + `"}]}`,
	} {
		if p, err := parsePath(text); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: got %v, %v", name, p, err)
		}
	}
	if got := (path{PathSegments: seg("a", "b")}).tokens(); !reflect.DeepEqual(got, []string{"a", "b"}) {
		t.Errorf("tokens: %v", got)
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"", "{}", `{"Index":0,"PathSegments":null}`, `{"Index":1,"PathSegments":[{"token":"a"},null]}`, `{"index":4294967295}`, `{"PathSegments":[{"Token":"x"}]}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePath(text)
		if err != nil {
			return
		}
		out := p.enter("T", "S")
		working := int(p.Index) + 1
		if out.Index != p.Index || len(out.PathSegments) != working+1 || out.PathSegments[working].Token != "S" || out.PathSegments[working-1].Token != "T" {
			t.Errorf("%q: index %d, %d segments", text, out.Index, len(out.PathSegments))
		}
		data, err := json.Marshal(out)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parsePath(string(data)); err != nil || !reflect.DeepEqual(again, out) {
			t.Errorf("%q: does not survive: %v", text, err)
		}
	})
}
