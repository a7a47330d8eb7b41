// Package doctor looks a node over: what highwire and VPP need of it, what is there, and what to do about the rest.
//
// Each check tells one finding. Checks read the machine only; nothing is changed, and none needs an agent. What only an agent
// can know is given to Examine as further checks.
package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Verdict is how grave a finding is.
type Verdict string

// Verdicts.
const (
	OK   Verdict = "ok"
	Warn Verdict = "warn"
	Fail Verdict = "fail"
	// Unknown: it could not be found out.
	Unknown Verdict = "unknown"
)

// Finding is what a check found.
type Finding struct {
	Check   string  `json:"check"`
	Verdict Verdict `json:"verdict"`
	// Found is one line.
	Found string `json:"found"`
	// Remedy is what to do, empty where nothing needs to be done.
	Remedy string `json:"remedy,omitempty"`
}

// Check is one question to the machine.
type Check struct {
	Name string
	Look func(context.Context) Finding
}

// Machine is where checks look.
type Machine struct {
	// Root is before every path of /proc, /sys and /dev; empty for the machine's own.
	Root string
}

func (m Machine) path(name string) string { return filepath.Join("/", m.Root, name) }

func (m Machine) read(name string) (string, error) {
	b, err := os.ReadFile(m.path(name))
	return strings.TrimSpace(string(b)), err
}

// limit bounds one check.
const limit = 5 * time.Second

// Examine runs the checks one after the other, each with a time limit.
func Examine(ctx context.Context, checks []Check) []Finding {
	var all []Finding
	for _, c := range checks {
		ctx, cancel := context.WithTimeout(ctx, limit)
		f := c.Look(ctx)
		cancel()
		f.Check = c.Name
		all = append(all, f)
	}
	return all
}

// Well tells whether no finding is a failure.
func Well(findings []Finding) bool {
	for _, f := range findings {
		if f.Verdict == Fail {
			return false
		}
	}
	return true
}

// Checks are those of the machine.
func (m Machine) Checks() []Check {
	return []Check{
		{"cpu", m.cpu},
		{"memory", m.memory},
		{"hugepages", m.hugepages},
		{"vhost-net", m.vhostNet},
		{"kernel", m.kernel},
		{"permissions", m.permissions},
		{"clock", clock},
		{"uplink", uplink},
	}
}

func ok(format string, args ...any) Finding {
	return Finding{Verdict: OK, Found: fmt.Sprintf(format, args...)}
}

func unknown(err error) Finding {
	return Finding{Verdict: Unknown, Found: "cannot be found out: " + err.Error()}
}
