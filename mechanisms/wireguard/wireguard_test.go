package wireguard

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"highwire/mechanisms"
	"highwire/mechanisms/tunnel"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

func node(secret byte, addrs ...string) *Mechanism {
	var on tunnel.Fixed
	for _, a := range addrs {
		on = append(on, tunnel.Local{Addr: netip.MustParseAddr(a), MTU: 1500})
	}
	return New(on, NewSecret([32]byte{secret}))
}

func end(id string, side mechanisms.Side, params map[string]string) mechanisms.End {
	return mechanisms.End{VWire: id, Side: side, Type: mechanisms.WireGuard, Payload: mechanisms.IP, Params: params}
}

// agree lets a ask b, and returns both ends.
func agree(t *testing.T, a, b *Mechanism, id string, far string) (asks, answers mechanisms.End) {
	t.Helper()
	asks, answers = end(id, mechanisms.Endpoint, map[string]string{}), end(id+"-b", mechanisms.Client, map[string]string{})
	for round := range 2 { // the second is a refresh
		before := maps.Clone(answers.Params)
		said, err := a.Propose(asks, netip.MustParseAddr(far))
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(answers.Params, said)
		chosen, err := b.Complete(answers)
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(answers.Params, chosen)
		asks.Params = maps.Clone(answers.Params)
		if round > 0 && !maps.Equal(before, answers.Params) {
			t.Fatalf("%v was agreed, and then %v", before, answers.Params)
		}
	}
	return asks, answers
}

func plan(t *testing.T, m *Mechanism, e mechanisms.End) string {
	t.Helper()
	list, err := m.Objects(e)
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[vppapi.Key]vppapi.Object)
	for _, o := range list {
		want[o.Key()] = o
	}
	return vppapi.Diff(want, nil).String()
}

// TestAgree: two nodes that follow the wire make the two ends of one tunnel, with the MTU taken off.
func TestAgree(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ a, b, mtu string }{{"192.0.2.1", "192.0.2.2", "1440"}, {"2001:db8::1", "2001:db8::2", "1420"}} {
		a, b := node(1, c.a), node(2, c.b)
		asks, answers := agree(t, a, b, "w", c.b)
		p := asks.Params
		want := fmt.Sprintf(`+ interface w:endpoint: wireguard %s key %s
+ tag w:endpoint: tag hw:w:endpoint
+ setting w:endpoint mtu: mtu %s
+ peer w:endpoint: wireguard peer %s at %s
+ up w:endpoint: admin up
`, at(c.a, p[mechanisms.ParamSrcPort]), p[mechanisms.ParamSrcKey], c.mtu, p[mechanisms.ParamDstKey], at(c.b, p[mechanisms.ParamDstPort]))
		if got := plan(t, a, asks); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
		x, err := a.parse(asks)
		if err != nil {
			t.Fatal(err)
		}
		y, err := b.parse(answers)
		if err != nil {
			t.Fatal(err)
		}
		if x.peer.Public != y.iface.Public || y.peer.Public != x.iface.Public || x.peer.Remote != netip.AddrPortFrom(y.iface.Local, y.iface.Port) {
			t.Errorf("the ends do not fit: %v, %v", x, y)
		}
	}
}

func at(ip, port string) string {
	if strings.Contains(ip, ":") {
		ip = "[" + ip + "]"
	}
	return ip + ":" + port
}

// TestOwnKeysAndPorts: every end has a key pair and a UDP port of its own, the same in every life of the agent.
func TestOwnKeysAndPorts(t *testing.T) {
	t.Parallel()
	a, b := node(1, "192.0.2.1"), node(2, "192.0.2.2")
	seen := make(map[string]string)
	for i := range 300 {
		id := fmt.Sprint("w", i)
		asks, answers := agree(t, a, b, id, "192.0.2.2")
		for _, k := range []string{mechanisms.ParamSrcKey, mechanisms.ParamDstKey, mechanisms.ParamSrcPort, mechanisms.ParamDstPort} {
			v := k + asks.Params[k]
			if other, taken := seen[v]; taken {
				t.Fatalf("%s and %s share %s", id, other, v)
			}
			seen[v] = id
		}
		again, err := node(2, "192.0.2.2").Complete(answers)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range again {
			if answers.Params[k] != v {
				t.Fatalf("after a restart %s is %s, was %s", k, v, answers.Params[k])
			}
		}
		if err := a.Hold(asks); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRefuse: bad input is refused by the name of the parameter.
func TestRefuse(t *testing.T) {
	t.Parallel()
	_, answers := agree(t, node(1, "192.0.2.1"), node(2, "192.0.2.2"), "w", "192.0.2.2")
	for _, c := range []struct {
		key, value     string
		complete, hold fault.Kind
	}{
		{mechanisms.ParamSrcIP, "", fault.Invalid, fault.Invalid},
		{mechanisms.ParamSrcIP, "nonsense", fault.Invalid, fault.Invalid},
		{mechanisms.ParamSrcPort, "0", fault.Invalid, fault.Invalid},
		{mechanisms.ParamSrcPort, "65536", fault.Invalid, fault.Invalid},
		{mechanisms.ParamSrcKey, "", fault.Invalid, fault.Invalid},
		{mechanisms.ParamSrcKey, "c2hvcnQ=", fault.Invalid, fault.Invalid},
		{mechanisms.ParamSrcKey, "not base64", fault.Invalid, fault.Invalid},
		{mechanisms.ParamSrcKey, answers.Params[mechanisms.ParamDstKey], fault.Invalid, 0},
		{mechanisms.ParamMTU, "12", fault.Invalid, 0},
		{mechanisms.ParamDstIP, "192.0.2.77", 0, fault.Invalid},
		{mechanisms.ParamDstKey, answers.Params[mechanisms.ParamSrcKey], 0, fault.Invalid},
	} {
		e := answers
		e.Params = maps.Clone(answers.Params)
		e.Params[c.key] = c.value
		m := node(2, "192.0.2.2")
		check := func(what string, err error, want fault.Kind) {
			t.Helper()
			if (err != nil) != (want != 0) || err != nil && (!fault.Is(err, want) || !strings.Contains(err.Error(), c.key)) {
				t.Errorf("%s=%q: %s: %v", c.key, c.value, what, err)
			}
		}
		_, err := m.Complete(e)
		check("complete", err, c.complete)
		check("hold", m.Hold(e), c.hold)
	}
}

// TestKeyInUse: one far key serves one tunnel.
func TestKeyInUse(t *testing.T) {
	t.Parallel()
	m := node(2, "192.0.2.2")
	_, answers := agree(t, node(1, "192.0.2.1"), m, "w", "192.0.2.2")
	if err := m.Hold(answers); err != nil {
		t.Fatal(err)
	}
	thief := end("thief", mechanisms.Client, maps.Clone(answers.Params))
	if _, err := m.Complete(thief); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), mechanisms.ParamSrcKey) {
		t.Errorf("%v", err)
	}
	m.Drop(answers)
	if _, err := m.Complete(thief); err != nil {
		t.Errorf("the key is free again: %v", err)
	}
}

// TestSecrets: nothing that prints or marshals shows a private key.
func TestSecrets(t *testing.T) {
	t.Parallel()
	secret := sha256.Sum256([]byte("highwire"))
	m := New(tunnel.Fixed{{Addr: netip.MustParseAddr("192.0.2.1"), MTU: 1500}}, NewSecret(secret))
	asks, _ := agree(t, m, node(2, "192.0.2.2"), "w", "192.0.2.2")
	key := m.secret.Key(asks.Name())
	list, err := m.Objects(asks)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal([]any{list, asks, key, m.secret})
	if err != nil {
		t.Fatal(err)
	}
	shown := string(data) + plan(t, m, asks)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		for _, v := range []any{key, m.secret, list, m, asks} {
			shown += fmt.Sprintf(verb, v)
		}
	}
	for _, form := range []string{"%x", "%X", "%v", "%#v", "%q"} {
		for _, hidden := range [][]byte{key.Bytes(), secret[:]} {
			text := strings.Trim(fmt.Sprintf(form, hidden[:16]), "[]{}\"")
			if strings.Contains(shown, text) {
				t.Errorf("a secret is shown in the form %s", form)
			}
		}
	}
	if strings.Contains(shown, vppapi.PublicKey(key.Bytes()).String()) {
		t.Error("a private key is shown in base64")
	}
}

func TestLoadSecret(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "wireguard.secret")
	first, err := LoadSecret(path)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	if again, err := LoadSecret(path); err != nil || again.Key("w") != first.Key("w") {
		t.Errorf("another secret, %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadSecret(path); !fault.Is(err, fault.Denied) {
		t.Errorf("others may read it: %v", err)
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadSecret(path); !fault.Is(err, fault.Invalid) {
		t.Errorf("it holds something else: %v", err)
	}
}
