// Package policy holds an operator's own rules about who may have which vWire.
//
// A policy is a YAML file:
//
//	default: allow
//	rules:
//	- name: only the shop reaches the database
//	  deny: service == "db" && !caller.startsWith("spiffe://corp.example/ns/shop/")
//	- name: nobody from the laboratory
//	  deny: labels[?"zone"].orValue("") == "lab" || path.exists(h, h.name == "lab-gateway")
//
// Rules are tried in order, and the first whose expression is true decides; where none is, the default does. Expressions are CEL
// (cel.dev) over
//
//	caller   string, the SPIFFE id of who asks
//	service  string, the network service
//	labels   map of strings, the connection's
//	path     list of hops from the client up to the caller, each with the strings id (SPIFFE id) and name
//
// An expression that cannot be evaluated, say because a label is missing, refuses: what was meant is not known.
package policy

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/ext"
	"sigs.k8s.io/yaml"

	"highwire/vppapi/fault"
)

// Hop is one hop of a path.
type Hop struct {
	// ID is its SPIFFE id, Name the name of its path segment.
	ID, Name string
}

// Subject is what a policy is asked about.
type Subject struct {
	// Caller is a SPIFFE id.
	Caller  string
	Service string
	Labels  map[string]string
	// Path is from the client up to the caller.
	Path []Hop
}

// Verdict is the answer.
type Verdict struct {
	Allowed bool
	// Rule is the name of the rule that decided, empty for the default.
	Rule string
	// Err is why the rule could not be evaluated, if so.
	Err error
}

// String is for people.
func (v Verdict) String() string {
	word, by := "denied", "by default"
	if v.Allowed {
		word = "allowed"
	}
	if v.Rule != "" {
		by = fmt.Sprintf("by rule %q", v.Rule)
	}
	if v.Err != nil {
		by += ", which cannot be evaluated: " + v.Err.Error()
	}
	return word + " " + by
}

// Policy is a set of rules, compiled. It is never changed.
type Policy struct {
	rules []rule
	allow bool
}

type rule struct {
	name    string
	allow   bool
	program cel.Program
}

// text is a policy as written.
type text struct {
	Default string     `json:"default"`
	Rules   []ruleText `json:"rules"`
}

type ruleText struct {
	Name  string `json:"name"`
	Allow string `json:"allow,omitempty"`
	Deny  string `json:"deny,omitempty"`
}

// Limits of a policy and of one evaluation. Labels and path come from peers, so that what a rule may cost is bounded, in CEL's
// units of about one comparison.
const (
	maxRules = 256
	maxCost  = 100_000
)

// environment is what expressions may name.
var environment = func() *cel.Env {
	env, err := cel.NewEnv(cel.OptionalTypes(), ext.Strings(),
		cel.Variable("caller", cel.StringType), cel.Variable("service", cel.StringType),
		cel.Variable("labels", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("path", cel.ListType(cel.MapType(cel.StringType, cel.StringType))))
	if err != nil {
		panic(err) // the lines above are wrong
	}
	return env
}()

// Parse reads and compiles a policy. Errors are fault.Invalid and name the rule.
func Parse(data []byte) (*Policy, error) {
	var t text
	if err := yaml.UnmarshalStrict(data, &t); err != nil {
		return nil, fault.New(fault.Invalid, "policy: %w", err)
	}
	if t.Default != "allow" && t.Default != "deny" {
		return nil, fault.New(fault.Invalid, "policy: default %q: want allow or deny", t.Default)
	}
	if len(t.Rules) > maxRules {
		return nil, fault.New(fault.Invalid, "policy: %d rules; the limit is %d", len(t.Rules), maxRules)
	}
	p := &Policy{allow: t.Default == "allow"}
	for i, r := range t.Rules {
		if r.Name = strings.TrimSpace(r.Name); r.Name == "" {
			return nil, fault.New(fault.Invalid, "policy: rule %d has no name", i+1)
		}
		if (r.Allow == "") == (r.Deny == "") {
			return nil, fault.New(fault.Invalid, "policy: rule %q: want either allow or deny, with an expression", r.Name)
		}
		program, err := compile(cmp.Or(r.Allow, r.Deny))
		if err != nil {
			return nil, fault.New(fault.Invalid, "policy: rule %q: %w", r.Name, err)
		}
		p.rules = append(p.rules, rule{name: r.Name, allow: r.Allow != "", program: program})
	}
	return p, nil
}

func compile(expression string) (cel.Program, error) {
	ast, issues := environment.Compile(expression)
	if err := issues.Err(); err != nil {
		return nil, err
	}
	if !ast.OutputType().IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("the expression is a %s, want a bool", ast.OutputType())
	}
	return environment.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost))
}

// Decide asks the rules.
func (p *Policy) Decide(s Subject) Verdict {
	labels := s.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	path := make([]map[string]string, len(s.Path))
	for i, h := range s.Path {
		path[i] = map[string]string{"id": h.ID, "name": h.Name}
	}
	variables := map[string]any{"caller": s.Caller, "service": s.Service, "labels": labels, "path": path}
	for _, r := range p.rules {
		value, _, err := r.program.Eval(variables)
		if err != nil {
			return Verdict{Rule: r.name, Err: err}
		}
		if value.Value() == true {
			return Verdict{Allowed: r.allow, Rule: r.name}
		}
	}
	return Verdict{Allowed: p.allow}
}

// Check is Decide as an error: fault.Denied that names the rule, nil where the subject is allowed.
func (p *Policy) Check(s Subject) error {
	if v := p.Decide(s); !v.Allowed {
		return fault.New(fault.Denied, "the operator's policy: %s may not have network service %s: %s", s.Caller, s.Service, v)
	}
	return nil
}
