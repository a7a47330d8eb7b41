package registry

import (
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	registryapi "highwire/controlplane/api/registry"
	"highwire/vppapi/fault"
)

type labels = map[string]string

func offer(name, service string, l labels) *registryapi.NetworkServiceEndpoint {
	e := &registryapi.NetworkServiceEndpoint{Name: name, NetworkServiceNames: []string{"other", service}}
	if l != nil {
		e.NetworkServiceLabels = map[string]*registryapi.NetworkServiceLabels{service: {Labels: l}}
	}
	return e
}

func match(source labels, routes ...labels) *registryapi.Match {
	m := &registryapi.Match{SourceSelector: source}
	for _, r := range routes {
		m.Routes = append(m.Routes, &registryapi.Destination{DestinationSelector: r})
	}
	return m
}

func with(m *registryapi.Match, change func(*registryapi.Match)) *registryapi.Match {
	change(m)
	return m
}

func TestCandidates(t *testing.T) {
	now := time.Now()
	fallsThrough := func(m *registryapi.Match) { m.Fallthrough = true }
	metadata := func(m *registryapi.Match) { m.Metadata = &registryapi.Metadata{} }
	expired, elsewhere := offer("expired", "s", labels{"app": "fw"}), offer("elsewhere", "x", labels{"app": "fw"})
	expired.ExpirationTime = timestamppb.New(now)
	alive := offer("vpn", "s", labels{"app": "vpn", "zone": "a"})
	alive.ExpirationTime = timestamppb.New(now.Add(time.Second))
	all := []*registryapi.NetworkServiceEndpoint{
		offer("plain", "s", nil), offer("fw", "s", labels{"app": "fw", "zone": "a"}), alive, offer("pod-1", "s", labels{"pod": "p1"}), expired, elsewhere,
	}
	for _, c := range []struct {
		name    string
		matches []*registryapi.Match
		client  labels
		want    string
	}{
		{"no matches: all", nil, nil, "plain fw vpn pod-1"},
		{"no selectors: all", []*registryapi.Match{match(nil, nil)}, nil, "plain fw vpn pod-1"},
		{"destination", []*registryapi.Match{match(nil, labels{"app": "fw"})}, nil, "fw"},
		{"destination, two labels", []*registryapi.Match{match(nil, labels{"app": "vpn", "zone": "a"})}, nil, "vpn"},
		{"routes in their order, no endpoint twice", []*registryapi.Match{match(nil, labels{"app": "vpn"}, labels{"zone": "a"})}, nil, "vpn fw"},
		{"source does not apply", []*registryapi.Match{match(labels{"app": "fw"}, labels{"app": "vpn"})}, nil, ""},
		{"source applies", []*registryapi.Match{match(labels{"app": "fw"}, labels{"app": "vpn"})}, labels{"app": "fw", "x": "y"}, "vpn"},
		{"first that applies decides", []*registryapi.Match{match(labels{"app": "x"}, labels{"app": "fw"}), match(nil, labels{"app": "vpn"}), match(nil, nil)}, nil, "vpn"},
		{"nothing there, no fallthrough", []*registryapi.Match{match(nil, labels{"app": "none"}), match(nil, nil)}, nil, ""},
		{"nothing there, fallthrough", []*registryapi.Match{with(match(nil, labels{"app": "none"}), fallsThrough), match(nil, labels{"app": "fw"})}, nil, "fw"},
		{"fallthrough with candidates stays", []*registryapi.Match{with(match(nil, labels{"app": "vpn"}), fallsThrough), match(nil, labels{"app": "fw"})}, nil, "vpn"},
		{"fallthrough off the end", []*registryapi.Match{with(match(nil, labels{"app": "none"}), fallsThrough)}, nil, ""},
		{"no routes", []*registryapi.Match{match(nil)}, nil, ""},
		{"no routes, metadata: all", []*registryapi.Match{with(match(nil), metadata)}, nil, "plain fw vpn pod-1"},
		{"no routes, metadata, fallthrough", []*registryapi.Match{with(with(match(nil), metadata), fallsThrough), match(nil, labels{"app": "fw"})}, nil, "fw"},
		{"template", []*registryapi.Match{match(nil, labels{"pod": "{{.podName}}"})}, labels{"podName": "p1"}, "pod-1"},
		{"template, missing label", []*registryapi.Match{match(nil, labels{"pod": "{{.podName}}"})}, nil, ""},
		{"template in the source", []*registryapi.Match{match(labels{"a": "{{.b}}"}, labels{"app": "fw"})}, labels{"a": "1", "b": "1"}, "fw"},
	} {
		got, err := candidates(&registryapi.NetworkService{Name: "s", Matches: c.matches}, all, c.client, now)
		if err != nil || strings.Join(names(got, nil), " ") != c.want {
			t.Errorf("%s: got %v, %v, want %q", c.name, names(got, nil), err, c.want)
		}
	}
	if _, err := candidates(&registryapi.NetworkService{Name: "s", Matches: []*registryapi.Match{match(nil, labels{"a": "{{"})}}, all, nil, now); !fault.Is(err, fault.Invalid) {
		t.Errorf("broken template: %v", err)
	}
}

func TestRender(t *testing.T) {
	client := labels{"podName": "p1", "x": "{{.podName}}"}
	for value, want := range map[string]string{
		"":                               "",
		"plain":                          "plain",
		"{{.podName}}":                   "p1",
		"a-{{ .podName }}-{{.podName}}b": "a-p1-p1b",
		"{{.missing}}":                   "<no value>",
		"{{.x}}":                         "{{.podName}}",
		"a {{- .podName -}} b":           "ap1b",
		"}}":                             "}}",
	} {
		got, err := renderValue(value, client)
		if err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", value, got, err, want)
		}
		// It must be what text/template makes of it.
		var b strings.Builder
		if err := template.Must(template.New("").Parse(value)).Execute(&b, client); err != nil || b.String() != got {
			t.Errorf("%q: text/template gives %q, %v", value, b.String(), err)
		}
	}
	for _, value := range []string{
		"{{", "{{.}}", "{{.a.b}}", `{{printf "%1000000000d" 1}}`, "{{range 1000000000}}x{{end}}", "{{$x := .a}}", "{{.a | len}}", "{{if .a}}b{{end}}",
		`{{template "selector"}}`, `{{define "x"}}y{{end}}{{template "x"}}`, "{{.a .b}}", "{{1}}", "{{nil}}", "{{break}}",
	} {
		if got, err := renderValue(value, client); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: got %q, %v, want invalid", value, got, err)
		}
	}
}

func TestFindMatches(t *testing.T) {
	expires := time.Unix(1000, 5)
	e := &registryapi.NetworkServiceEndpoint{Name: "e", NetworkServiceNames: []string{"a", "b"}, Url: "inode://4/56", ExpirationTime: timestamppb.New(expires),
		NetworkServiceLabels: map[string]*registryapi.NetworkServiceLabels{"a": {Labels: labels{"k": "v", "l": "w"}}}}
	in := func(service string, l labels) map[string]*registryapi.NetworkServiceLabels {
		return map[string]*registryapi.NetworkServiceLabels{service: {Labels: l}}
	}
	for _, c := range []struct {
		name  string
		query *registryapi.NetworkServiceEndpoint
		want  bool
	}{
		{"nil", nil, true},
		{"empty", &registryapi.NetworkServiceEndpoint{}, true},
		{"name", &registryapi.NetworkServiceEndpoint{Name: "e"}, true},
		{"part of the name", &registryapi.NetworkServiceEndpoint{Name: ""}, true},
		{"other name", &registryapi.NetworkServiceEndpoint{Name: "e1"}, false},
		{"service", &registryapi.NetworkServiceEndpoint{NetworkServiceNames: []string{"b"}}, true},
		{"services in any order", &registryapi.NetworkServiceEndpoint{NetworkServiceNames: []string{"b", "a"}}, true},
		{"one service too many", &registryapi.NetworkServiceEndpoint{NetworkServiceNames: []string{"a", "c"}}, false},
		{"label", &registryapi.NetworkServiceEndpoint{NetworkServiceLabels: in("a", labels{"k": "v"})}, true},
		{"label of another value", &registryapi.NetworkServiceEndpoint{NetworkServiceLabels: in("a", labels{"k": "w"})}, false},
		{"label of another service", &registryapi.NetworkServiceEndpoint{NetworkServiceLabels: in("b", labels{"k": "v"})}, false},
		{"url", &registryapi.NetworkServiceEndpoint{Url: "inode://4/56"}, true},
		{"part of the url", &registryapi.NetworkServiceEndpoint{Url: "inode://"}, true},
		{"other url", &registryapi.NetworkServiceEndpoint{Url: "tcp://"}, false},
		{"expiration, seconds", &registryapi.NetworkServiceEndpoint{ExpirationTime: timestamppb.New(time.Unix(1000, 0))}, true},
		{"other expiration", &registryapi.NetworkServiceEndpoint{ExpirationTime: timestamppb.New(time.Unix(1001, 0))}, false},
		{"all but one", &registryapi.NetworkServiceEndpoint{Name: "e", Url: "inode", NetworkServiceNames: []string{"x"}}, false},
	} {
		if got := endpointMatches(c.query, e); got != c.want {
			t.Errorf("endpoint, %s: %v", c.name, got)
		}
	}
	s := &registryapi.NetworkService{Name: "s", Payload: "IP", Matches: []*registryapi.Match{match(labels{"a": "b"})}}
	for _, c := range []struct {
		name  string
		query *registryapi.NetworkService
		want  bool
	}{
		{"nil", nil, true},
		{"name", &registryapi.NetworkService{Name: "s"}, true},
		{"other name", &registryapi.NetworkService{Name: "S"}, false},
		{"payload", &registryapi.NetworkService{Payload: "IP"}, true},
		{"other payload", &registryapi.NetworkService{Payload: "ETHERNET"}, false},
		{"matches", &registryapi.NetworkService{Matches: []*registryapi.Match{match(labels{"a": "b"})}}, true},
		{"other matches", &registryapi.NetworkService{Matches: []*registryapi.Match{match(labels{"a": "c"})}}, false},
	} {
		if got := serviceMatches(c.query, s); got != c.want {
			t.Errorf("service, %s: %v", c.name, got)
		}
	}
}

func TestLimits(t *testing.T) {
	long, many := strings.Repeat("n", maxName+1), labels{}
	for i := range maxLabels + 1 {
		many[strings.Repeat("k", i+1)] = ""
	}
	good := func() *registryapi.NetworkServiceEndpoint {
		return &registryapi.NetworkServiceEndpoint{Name: "e", NetworkServiceNames: []string{"s"}, Url: "inode://1/2"}
	}
	for name, change := range map[string]func(*registryapi.NetworkServiceEndpoint){
		"no name":           func(e *registryapi.NetworkServiceEndpoint) { e.Name = "" },
		"long name":         func(e *registryapi.NetworkServiceEndpoint) { e.Name = long },
		"control character": func(e *registryapi.NetworkServiceEndpoint) { e.Name = "a\nb" },
		"no service":        func(e *registryapi.NetworkServiceEndpoint) { e.NetworkServiceNames = nil },
		"empty service":     func(e *registryapi.NetworkServiceEndpoint) { e.NetworkServiceNames = []string{""} },
		"many services": func(e *registryapi.NetworkServiceEndpoint) {
			e.NetworkServiceNames = slices.Repeat([]string{"s"}, maxList+1)
		},
		"many labels": func(e *registryapi.NetworkServiceEndpoint) {
			e.NetworkServiceLabels = map[string]*registryapi.NetworkServiceLabels{"s": {Labels: many}}
		},
		"long label": func(e *registryapi.NetworkServiceEndpoint) {
			e.NetworkServiceLabels = map[string]*registryapi.NetworkServiceLabels{"s": {Labels: labels{"k": strings.Repeat("v", maxLabel+1)}}}
		},
		"no url":           func(e *registryapi.NetworkServiceEndpoint) { e.Url = "" },
		"local path":       func(e *registryapi.NetworkServiceEndpoint) { e.Url = "unix:///run/x.sock" },
		"no inode":         func(e *registryapi.NetworkServiceEndpoint) { e.Url = "inode://4/x" },
		"no port":          func(e *registryapi.NetworkServiceEndpoint) { e.Url = "tcp://10.0.0.1" },
		"port zero":        func(e *registryapi.NetworkServiceEndpoint) { e.Url = "tcp://10.0.0.1:0" },
		"named port":       func(e *registryapi.NetworkServiceEndpoint) { e.Url = "tcp://10.0.0.1:http" },
		"path behind port": func(e *registryapi.NetworkServiceEndpoint) { e.Url = "tcp://10.0.0.1:80/x" },
		"no host":          func(e *registryapi.NetworkServiceEndpoint) { e.Url = "tcp://:80" },
	} {
		e := good()
		change(e)
		if err := checkEndpoint(e); !fault.Is(err, fault.Invalid) {
			t.Errorf("endpoint, %s: %v", name, err)
		}
	}
	for _, url := range []string{"inode://18446744073709551615/1", "tcp://10.0.0.1:5001", "tcp://[fd00::1]:5001", "tcp://node-1.example.com:5001"} {
		e := good()
		e.Url = url
		if err := checkEndpoint(e); err != nil {
			t.Errorf("endpoint, %s: %v", url, err)
		}
	}
	for name, s := range map[string]*registryapi.NetworkService{
		"nil":               nil,
		"no name":           {},
		"payload":           {Name: "s", Payload: "TCP"},
		"many matches":      {Name: "s", Matches: slices.Repeat([]*registryapi.Match{{}}, maxList+1)},
		"many routes":       {Name: "s", Matches: []*registryapi.Match{match(nil, slices.Repeat([]labels{nil}, maxList+1)...)}},
		"broken template":   {Name: "s", Matches: []*registryapi.Match{match(nil, labels{"a": "{{.b"})}},
		"template language": {Name: "s", Matches: []*registryapi.Match{match(labels{"a": `{{printf "%d" 1}}`})}},
		"metadata":          {Name: "s", Matches: []*registryapi.Match{{Metadata: &registryapi.Metadata{Labels: many}}}},
	} {
		if err := checkService(s); !fault.Is(err, fault.Invalid) {
			t.Errorf("service, %s: %v", name, err)
		}
	}
	if err := checkService(&registryapi.NetworkService{Name: "my-vpn@example.com"}); err != nil {
		t.Errorf("inter-domain name: %v", err)
	}
}

// What renderValue accepts, text/template renders alike; and it stays small.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"", "a", "{{.podName}}", "x{{.a}}{{- .b -}}", "{{/* c */}}", "{{.a.b}}", `{{"x"}}`, "{{end}}", "{{define `x`}}{{end}}"} {
		f.Add(s)
	}
	client := labels{"podName": "p", "a": "1"}
	f.Fuzz(func(t *testing.T, value string) {
		if len(value) > maxLabel {
			t.Skip()
		}
		got, err := renderValue(value, client)
		if err != nil {
			return
		}
		var b strings.Builder
		if err := template.Must(template.New("selector").Parse(value)).Execute(&b, client); err != nil || b.String() != got {
			t.Errorf("%q: got %q, text/template %q, %v", value, got, b.String(), err)
		}
	})
}

// Selection never fails on what was let in, and never invents an endpoint.
func FuzzSelectors(f *testing.F) {
	f.Add("a", "b", "c", "{{.a}}", "a", "b", true)
	f.Add("", "", "", "", "", "", false)
	f.Fuzz(func(t *testing.T, sourceKey, sourceValue, key, value, label, labelValue string, fall bool) {
		ns := &registryapi.NetworkService{Name: "s", Matches: []*registryapi.Match{match(labels{sourceKey: sourceValue}, labels{key: value})}}
		ns.Matches[0].Fallthrough = fall
		if checkService(ns) != nil {
			return
		}
		all := []*registryapi.NetworkServiceEndpoint{offer("e", "s", labels{key: value, label: labelValue})}
		got, err := candidates(ns, all, labels{label: labelValue}, time.Now())
		if err != nil || len(got) > 1 || len(got) == 1 && got[0].NetworkServiceEndpoint != all[0] {
			t.Errorf("got %v, %v", got, err)
		}
	})
}
