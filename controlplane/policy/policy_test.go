package policy

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"highwire/vppapi/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const shop = `
default: allow
rules:
- name: only the shop reaches the database
  deny: service == "db" && !caller.startsWith("spiffe://corp.example/ns/shop/")
- name: auditors reach everything else
  allow: caller == "spiffe://corp.example/ns/audit/pod/a"
- name: nobody from the laboratory
  deny: labels[?"zone"].orValue("") == "lab" || path.exists(h, h.name == "lab-gateway")
- name: printers want a floor
  deny: service == "print" && labels.floor == "0"
`

func TestDecide(t *testing.T) {
	t.Parallel()
	p, err := Parse([]byte(shop))
	if err != nil {
		t.Fatal(err)
	}
	const buyer, auditor, other = "spiffe://corp.example/ns/shop/pod/x", "spiffe://corp.example/ns/audit/pod/a", "spiffe://corp.example/ns/y/pod/z"
	for name, c := range map[string]struct {
		subject Subject
		want    string
	}{
		"shop to db":       {Subject{Caller: buyer, Service: "db"}, "allowed by default"},
		"other to db":      {Subject{Caller: other, Service: "db"}, `denied by rule "only the shop reaches the database"`},
		"first rule wins":  {Subject{Caller: auditor, Service: "db"}, `denied by rule "only the shop reaches the database"`},
		"allowed by rule":  {Subject{Caller: auditor, Service: "web", Labels: map[string]string{"zone": "lab"}}, `allowed by rule "auditors reach everything else"`},
		"label":            {Subject{Caller: other, Service: "web", Labels: map[string]string{"zone": "lab"}}, `denied by rule "nobody from the laboratory"`},
		"hop":              {Subject{Caller: other, Service: "web", Path: []Hop{{ID: other, Name: "nsc"}, {ID: other, Name: "lab-gateway"}}}, `denied by rule "nobody from the laboratory"`},
		"label is missing": {Subject{Caller: other, Service: "print"}, `denied by rule "printers want a floor", which cannot be evaluated: no such key: floor`},
		"label is there":   {Subject{Caller: other, Service: "print", Labels: map[string]string{"floor": "2"}}, "allowed by default"},
	} {
		v := p.Decide(c.subject)
		if v.String() != c.want {
			t.Errorf("%s: %s, want %s", name, v, c.want)
		}
		if err := p.Check(c.subject); (err == nil) != v.Allowed || err != nil && (!fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), v.Rule)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A rule that costs more than anybody should pay refuses, and soon.
func TestCost(t *testing.T) {
	t.Parallel()
	p, err := Parse([]byte("default: allow\nrules:\n- name: slow\n  deny: path.all(a, path.all(b, path.all(c, path.all(d, a.id + b.id + c.id + d.id != ''))))\n"))
	if err != nil {
		t.Fatal(err)
	}
	long := make([]Hop, 32)
	for i := range long {
		long[i] = Hop{ID: strings.Repeat("x", 100), Name: "n"}
	}
	if v := p.Decide(Subject{Path: long}); v.Allowed || v.Err == nil {
		t.Errorf("%s", v)
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                         `default ""`,
		"default: perhaps":         `default "perhaps"`,
		"default: allow\nrule: []": "unknown field",
		"default: allow\nrules: [{deny: 'true'}]":                                              "rule 1 has no name",
		"default: allow\nrules: [{name: a}]":                                                   `rule "a": want either`,
		"default: allow\nrules: [{name: a, allow: 'true', deny: 'true'}]":                      `rule "a": want either`,
		"default: allow\nrules: [{name: a, deny: 'service =='}]":                               `rule "a"`,
		"default: allow\nrules: [{name: a, deny: 'service'}]":                                  "want a bool",
		"default: allow\nrules: [{name: a, deny: 'labels.zone'}]":                              "want a bool",
		"default: allow\nrules: [{name: a, deny: 'user == \"x\"'}]":                            "undeclared reference to 'user'",
		"default: allow\nrules:\n" + strings.Repeat("- {name: a, deny: 'true'}\n", maxRules+1): "the limit is",
	} {
		if _, err := Parse([]byte(text)); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
	}
}

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte(shop), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Check(Subject{Service: "db"}); !fault.Is(err, fault.Denied) {
		t.Error(err)
	}
	if err := f.Check(Subject{Service: "web"}); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(shop))
	f.Add([]byte("default: deny\nrules:\n- {name: x, allow: 'labels.all(k, k.matches(\"a+\"))'}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse(data)
		if err != nil {
			return
		}
		v := p.Decide(Subject{Caller: "spiffe://a/b", Service: "s", Labels: map[string]string{"a": "b"}, Path: []Hop{{ID: "x", Name: "y"}}})
		if v.Err != nil && v.Allowed {
			t.Error("allowed by a rule that cannot be evaluated")
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	p, err := Parse([]byte(shop))
	if err != nil {
		b.Fatal(err)
	}
	s := Subject{Caller: "spiffe://corp.example/ns/y/pod/z", Service: "web", Labels: map[string]string{"podName": "z"}, Path: []Hop{{ID: "spiffe://corp.example/ns/y/pod/z", Name: "nsc"}}}
	for b.Loop() {
		if err := p.Check(s); err != nil {
			b.Fatal(err)
		}
	}
}
