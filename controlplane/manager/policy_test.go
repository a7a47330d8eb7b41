package manager_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"highwire/controlplane/manager"
	"highwire/controlplane/policy"
)

// What the operator's policy refuses leaves nothing behind; a new version of the file holds for the next Request, also for a
// refresh, and a broken one for nobody.
func TestPolicy(t *testing.T) {
	m := newMesh(t)
	path := filepath.Join(m.dir, "policy.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	const rules = "default: allow\nrules:\n- name: no thieves\n  deny: caller.endsWith('/thief')\n" +
		"- name: no labs\n  deny: labels[?'zone'].orValue('') == 'lab'\n- name: only from here\n  deny: path[0].name != 'nsc'\n"
	write(rules)
	rule, err := policy.Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(run(t, rule.Run))
	a := m.agent(m.source("agent"), newPlane(), func(c *manager.Config) { c.Policy = rule })
	m.endpoint(a, m.source("nse"), offer("nse-a"))
	denied := func(err error, name string) {
		t.Helper()
		if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), `rule "`+name+`"`) {
			t.Errorf("%v; want PermissionDenied by rule %q", err, name)
		}
	}

	thief := m.caller(a, m.source("thief"))
	_, err = thief.do(thief.request("nsc-1", "web", "nsm-1"))
	denied(err, "no thieves")
	c := m.caller(a, m.source("nsc"))
	lab := c.request("nsc-0", "web", "nsm-1")
	lab.Connection.Labels = map[string]string{"zone": "lab"}
	_, err = c.do(lab)
	denied(err, "no labs")
	a.nothing(t)

	answer := c.must(c.request("nsc-0", "web", "nsm-1"))
	eventually := func(name string) {
		t.Helper()
		for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			_, err := c.do(c.again(proto.CloneOf(answer)))
			if err != nil || time.Since(begun) > patience {
				denied(err, name)
				return
			}
		}
	}
	write("default: allow\nrules:\n- name: nobody any more\n  deny: 'true'\n")
	eventually("nobody any more")
	if wires, _, _ := a.plane.counts(); wires != 1 {
		t.Errorf("%d vWires; a refresh that is refused ends nothing before its time", wires)
	}
	if err := c.close(answer); err != nil {
		t.Errorf("a policy keeps nobody from closing: %v", err)
	}
	write("default: allow\nrules:\n- name: broken\n  deny: whoever == ''\n")
	_, err = c.do(c.request("nsc-0", "web", "nsm-1"))
	denied(err, "nobody any more")
}
