package endpoint

import (
	"fmt"
	"strings"
	"testing"

	"highwire/vppapi/fault"
)

func TestParsePolicies(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, want string }{
		"as NSM has them": {"- proto: 6\n  dstport: 6666\n- proto: 17\n  srcport: 5555-5557\n  routes:\n  - prefix: 0.0.0.0/0\n    nexthop: 172.16.1.2\n",
			`{"" "6" "6666" "" []} {"" "17" "" "5555-5557" ["0.0.0.0/0 172.16.1.2"]}`},
		"texts, and other case": {`[{"from": "172.16.2.0/24", "Proto": "6", "dstPort": "80", "routes": [{"prefix": "10.0.0.0/8"}]}]`,
			`{"172.16.2.0/24" "6" "80" "" ["10.0.0.0/8 "]}`},
		"nothing":         {"", ""},
		"a name":          {"- proto: tcp", "error"},
		"a port too high": {"- dstport: 70000", "error"},
		"half a number":   {"- dstport: 1.5", "error"},
		"no prefix":       {"- from: 10.0.0.1", "error"},
		"another key":     {"- to: 10.0.0.1", "error"},
		"no list":         {"proto: 6", "error"},
		"twice":           {"- proto: 6\n  proto: 7", "error"},
		"no YAML":         {"- [", "error"},
	} {
		policies, err := ParsePolicies([]byte(test.text))
		var list []string
		for _, p := range policies {
			routes := []string{}
			for _, r := range p.Routes {
				routes = append(routes, r.Prefix+" "+r.NextHop)
			}
			list = append(list, fmt.Sprintf("{%q %q %q %q %q}", p.From, p.Proto, p.DstPort, p.SrcPort, routes))
		}
		got := strings.Join(list, " ")
		if fault.Is(err, fault.Invalid) {
			got = "error"
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

func FuzzParsePolicies(f *testing.F) {
	f.Add([]byte("- proto: 6\n  dstport: 80\n  routes: [{prefix: 10.0.0.0/8, nexthop: 10.0.0.1}]\n"))
	f.Add([]byte("[{}, null]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		policies, err := ParsePolicies(data)
		if err != nil && !fault.Is(err, fault.Invalid) {
			t.Fatalf("%q: %v", data, err)
		}
		for _, p := range policies {
			if p == nil {
				t.Fatalf("%q has nothing in its list", data)
			}
		}
	})
}
