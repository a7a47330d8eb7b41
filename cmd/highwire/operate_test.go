package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	highwirev1 "highwire/controlplane/api/highwire/v1"
	"highwire/vppapi/pocketvpp"
)

// until asks until the answer matches.
func (n *node) until(pattern string, args ...string) string {
	n.t.Helper()
	want := regexp.MustCompile(pattern)
	late := time.After(within)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		text := n.ask(args...)
		if want.MatchString(text) {
			return text
		}
		select {
		case <-tick.C: // counters tell of no change
		case <-late:
			n.t.Fatalf("highwire %s: no %s in\n%s", strings.Join(args, " "), pattern, text)
		}
	}
}

// has asks once; the answer has to match all patterns.
func (n *node) has(args string, patterns ...string) {
	n.t.Helper()
	text := n.ask(strings.Fields(args)...)
	for _, p := range patterns {
		if !regexp.MustCompile(p).MatchString(text) {
			n.t.Errorf("highwire %s: no %s in\n%s", args, p, text)
		}
	}
}

// Every verb tells the truth about a vWire that carries packets through VPP.
func TestVerbs(t *testing.T) {
	exe := binary(t)
	onVPPs(t, func(t *testing.T, vpp string) {
		n := newNode(t, exe, "--vpp", vpp, "--kernel-pool", "0")
		n.newWire("web", "kernel", "kernel", "ETHERNET")
		id := n.id()

		n.until(`(?m)^`+id+` .* [1-9]\d* packets, .* [1-9]\d* packets, `, "get", "vwires", "-o", "wide")
		n.has("get interfaces", `(?m)^\d+ +\S+ +\S+ +up +`+id+` +client +[1-9]\d* +[1-9]`, `(?m)^0 +local0`)
		n.has("get nodes -o wide", `(?m)^highwire-\S+ \(this\) +1 +spiffe://`)
		n.has("describe vwire "+id[:9], `Differences: +none`, `state up`, `(?m)^  2 nse-web: .*spiffe://\S+  expires in `, `sw_if_index [12]`)
		n.until(`from client: +[1-9]\d* packets, \S+ \S+  \([1-9]\d* packets/s`, "describe", "vwire", id)
		n.has("history "+id, `requested made: client web, service web, endpoint nse-web \(`, `\+ xconnect `)
		n.has("events --no-follow "+id+" -o json", `"kind": "state"`)
		n.has("events --no-follow", `vpp-connected `, `resynced `, `converged 1 vWires: created `)
		n.has("plan "+id, `^nothing: all is as wanted\n$`)
		n.has("plan "+id+" --anew -o wide", `(?m)^    sw_interface_set_l2_xconnect \{"enable":true,"rx_sw_if_index":4294967295`)
		n.has("diff "+id, `^no difference: \d+ objects`)
		n.has("graph", `"web" -> "nse-web" \[label="web\\nkernel – kernel\\nup", style=solid`)

		var plan highwirev1.PlanResponse
		if err := json.Unmarshal([]byte(n.ask("plan", "-o", "json")), &plan); err != nil {
			t.Fatal(err)
		}
		for _, s := range plan.GetSteps() {
			if s.GetAction() != "verify" {
				t.Errorf("a resync would %s %s", s.GetAction(), s.GetObject())
			}
		}

		// A vWire that is only thought of, between the namespaces of the one that is there.
		var v struct{ Client, Endpoint struct{ Namespace string } }
		if err := json.Unmarshal([]byte(n.ask("describe", "vwire", id, "-o", "json")), &struct{ Vwire any }{&v}); err != nil {
			t.Fatal(err)
		}
		file := n.path("wanted.yaml")
		write := func(payload string) {
			text := "id: trial\npayload: " + payload + "\nclient: {mechanism: KERNEL, parameters: {name: a, inodeURL: '" + v.Client.Namespace +
				"'}, addresses: [10.0.0.1/32]}\nendpoint: {mechanism: KERNEL, parameters: {name: b, inodeURL: '" + v.Endpoint.Namespace + "'}, addresses: [10.0.0.2/32]}\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("IP")
		n.has("plan -o wide --file "+file, `(?m)^\+ interface trial:client: `, `(?m)^    l3xc_update `)
		if list := n.vwires(); len(list) != 1 {
			t.Errorf("a plan made something: %v", list)
		}
		write("CARRIER-PIGEON")
		if said := n.refused("plan", "--file", file); !strings.Contains(said, "ETHERNET or IP") {
			t.Error(said)
		}
		if said := n.refused("history", "x"+id); !strings.Contains(said, "nearest: "+id) {
			t.Error(said)
		}
	})
}

// The doctor and the bundle look at a running node. No key and no token leaves it.
func TestSupportBundle(t *testing.T) {
	exe := binary(t)
	onVPPs(t, func(t *testing.T, vpp string) {
		n := newNode(t, exe, "--vpp", vpp)
		n.newWire("web", "kernel", "kernel", "ETHERNET")
		id := n.id()
		where := []string{"--listen", "unix://" + n.path("nsm.sock"), "--vpp-socket", n.path("none")}
		doctor := n.ask(append([]string{"doctor"}, where...)...)
		for _, want := range []string{`(?m)^ok +admin socket `, `(?m)^ok +mesh socket `, `(?m)^ok +agent +version \S+ on VPP \S+, as spiffe://`, `(?m)^ok +buffers +\S+: \d+ of \d+ free`, `(?m)^ok +vWires +1, all up`, `(?m)^\w+ +cpu +`} {
			if !regexp.MustCompile(want).MatchString(doctor) {
				t.Errorf("doctor: no %s in\n%s", want, doctor)
			}
		}
		file := n.path("bundle.tar.gz")
		n.ask(append([]string{"support-bundle", "--file", file, "--data", n.path("data")}, where...)...)
		if said := n.refused("support-bundle", "--file", file); !strings.Contains(said, "exists") {
			t.Error(said)
		}
		st, err := os.Stat(file)
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Fatalf("bundle: %v, %v", st.Mode(), err)
		}
		files := untar(t, file)
		for name, want := range map[string]string{
			"doctor.txt": "admin socket", "vwires.json": id, "events.txt": "requested made", "interfaces.json": "local0", "vpp/show-interface.txt": "local0",
			"kernel/ip-d-s-link.txt": "lo", "MANIFEST": "vwires.json", "diff.json": "compared", "nodes.json": "self",
		} {
			if !strings.Contains(files[name], want) {
				t.Errorf("%s has no %q:\n%.2000s", name, want, files[name])
			}
		}
		key := regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY|eyJ[A-Za-z0-9_-]{5,}\.`)
		secrets := secretsOf(t, n.path("data"))
		if len(secrets) == 0 {
			t.Error("the development CA has no key to look for")
		}
		for name, text := range files {
			if found := key.FindString(text); found != "" {
				t.Errorf("%s holds %s...", name, found)
			}
			for _, secret := range secrets {
				if strings.Contains(text, secret) {
					t.Errorf("%s holds a key of the development CA", name)
				}
			}
		}
	})
}

// untar reads a bundle, without the directory that all of it is in.
func untar(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(h.Name, "/")
		files[name] = string(text)
	}
}

// secretsOf are the lines of all private keys below a directory.
func secretsOf(t *testing.T, dir string) (lines []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil && bytes.Contains(text, []byte("PRIVATE KEY-----")) {
			for line := range strings.Lines(string(text)) {
				if line = strings.TrimSpace(line); len(line) > 20 && !strings.Contains(line, "-----") {
					lines = append(lines, line)
				}
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// Rates are measured by looking twice; on a terminal the view follows them.
func TestTop(t *testing.T) {
	needNamespaces(t)
	n := newNode(t, binary(t), "--vpp", "pocket", "--kernel-pool", "0")
	n.newWire("web", "kernel", "kernel", "ETHERNET")
	id := n.id()
	n.until(`(?m)^`+id+` +web +up +[1-9]\d* p/s +\S+ \wb/s +[1-9]\d* p/s`, "top", "--once")
	var rows []rates
	if err := json.Unmarshal([]byte(n.ask("top", "--once", "-o", "json", "--every", "300ms")), &rows); err != nil || len(rows) != 1 || rows[0].VWire != id || rows[0].CountedBy != "vpp" {
		t.Errorf("%+v, %v", rows, err)
	}
	m := meter{admin: adminFlag{n.path("admin.sock")}, every: 100 * time.Millisecond}
	s := &screen{ctx: t.Context(), meter: m, sortBy: "rate", height: 24}
	late := time.After(within)
	for !regexp.MustCompile(id + ` +web +up +[1-9]`).MatchString(s.View()) {
		_, look := s.Update(tick{})
		s.Update(look())
		select {
		case <-time.After(m.every):
		case <-late:
			t.Fatalf("no rates in\n%s", s.View())
		}
	}
	for _, key := range []string{"d", "n", "r", "j", "k"} {
		s.Update(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(key)})
	}
	if s.sortBy != "rate" || s.top != 0 {
		t.Errorf("keys: by %s from %d", s.sortBy, s.top)
	}
	n.agent.end(syscall.SIGTERM)
	_, look := s.Update(tick{})
	s.Update(look())
	if view := s.View(); !strings.Contains(view, "no agent answers") || !strings.Contains(view, id) {
		t.Errorf("without an agent:\n%s", view)
	}
	if _, quit := s.Update(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("q")}); quit == nil || quit() != tea.Quit() {
		t.Error("q does not quit")
	}
	if said := n.refused("top", "--sort", "colour"); !strings.Contains(said, "rate, drops or service") {
		t.Error(said)
	}
}

// A direct path is counted by the kernel, and what somebody removed from it shows as a difference.
func TestVerbsDirect(t *testing.T) {
	needNamespaces(t)
	n := newNode(t, binary(t), "--vpp", "pocket", "--kernel-direct", "auto")
	w := n.newWire("web", "kernel", "kernel", "ETHERNET")
	n.until(`(?m) [1-9]\d* packets, \S+ \S+ \(direct\) `, "get", "vwires", "-o", "wide")
	id := n.id()
	n.has("describe vwire "+id, `Counters: +of the kernel \(direct\)`, `from client: +[1-9]\d* packets`)
	n.has("diff "+id, `no difference`)
	err := w.from.Do(func() error {
		link, err := netlink.LinkByName("nsm-1")
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
	if err != nil {
		t.Fatal(err)
	}
	if said := n.refused("diff", id); !strings.Contains(said, "- link "+id+":direct: missing: direct veth nsm-1") {
		t.Error(said)
	}
	n.has("plan", `(?m)^\+ link `+id+`:direct`)
}

// Nobody else sees packets that pass through memory of two peers.
func TestVerbsMemif(t *testing.T) {
	needNamespaces(t)
	n := newNode(t, binary(t), "--vpp", "pocket")
	n.newWire("fast", "memif", "memif", "ETHERNET")
	n.has("describe vwire "+n.id(), `Counters: +none: packets pass through memory of the peers`)
	n.has("get vwires -o wide", `not counted \(peers' memory\)`)
}

// Prometheus finds what passes, and an orchestrator that the agent is ready.
func TestMetricsOfAgent(t *testing.T) {
	exe := binary(t)
	onVPPs(t, func(t *testing.T, vpp string) {
		n := newNode(t, exe, "--vpp", vpp, "--metrics", "127.0.0.1:0")
		text, _ := n.agent.text()
		found := regexp.MustCompile(`msg="metrics and probes" address=(\S+)`).FindStringSubmatch(text)
		if found == nil {
			t.Fatalf("no address of metrics in\n%s", text)
		}
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: within}
		get := func(path string) string {
			r, err := client.Get("http://" + found[1] + path)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			return string(body)
		}
		for _, path := range []string{"/healthz", "/startupz", "/readyz"} {
			if body := get(path); body != "ok\n" {
				t.Errorf("%s: %s", path, body)
			}
		}
		n.newWire("web", "kernel", "kernel", "ETHERNET")
		id := n.id()
		n.until(`(?m)^`+id+` .* [1-9]\d* packets, .* [1-9]\d* packets, `, "get", "vwires", "-o", "wide")
		scraped := get("/metrics")
		for _, want := range []string{
			`highwire_vwire_packets_total\{direction="rx",service="web",side="client",vwire="` + id + `"\} [1-9]`,
			`highwire_vwires\{state="up"\} 1`, `highwire_vpp_up 1`, `highwire_vpp_buffers\{pool="\S+",state="available"\} [1-9]`,
			`highwire_request_duration_seconds_count\{mechanism="KERNEL",result="ok"\} [1-9]`, `highwire_svid_expiry_timestamp_seconds [1-9]`,
			`highwire_vpp_api_messages_total [1-9]`, `highwire_resync_duration_seconds_count [1-9]`, `highwire_objects_missing 0`,
		} {
			if !regexp.MustCompile(`(?m)^` + want).MatchString(scraped) {
				t.Errorf("no %s in\n%s", want, scraped)
			}
		}
	})
}

// With VPP down every verb that needs it says so in one line, and the others go on.
func TestVPPDown(t *testing.T) {
	dir := t.TempDir()
	vpp, err := pocketvpp.New(pocketvpp.Config{Socket: filepath.Join(dir, "api.sock"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- vpp.Run(ctx) }()
	<-vpp.Ready()
	n := newNode(t, binary(t), "--vpp", "external", "--vpp-socket", filepath.Join(dir, "api.sock"))
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	n.until("vpp-lost", "events", "--no-follow")
	for _, args := range []string{"diff", "plan", "get interfaces", "vppctl show version"} {
		said := n.refused(strings.Fields(args)...)
		if strings.Count(said, "\n") != 1 || !strings.Contains(said, "highwire: VPP is not there now: look at ") {
			t.Errorf("highwire %s says %q", args, said)
		}
	}
	n.has("get vwires", "^ID ")
	n.agent.end(syscall.SIGTERM)
	if said := n.refused("diff"); !strings.Contains(said, "no agent answers") {
		t.Error(said)
	}
}

var errOther = errors.New("nobody else can be here: a user namespace without other users")

// The admin socket is for root, and for a group if the agent was told so.
func TestAdminGroup(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to be somebody else")
	}
	const group, nobody = 54321, 65534
	if err := letGroup("no such group", "x"); err == nil {
		t.Error("a group that does not exist")
	}
	for dir := os.TempDir(); dir != "/"; dir = filepath.Dir(dir) {
		if st, err := os.Stat(dir); err != nil || st.Mode()&1 == 0 {
			t.Skipf("%s is closed to others: %v", dir, err)
		}
	}
	for _, give := range []bool{false, true} {
		socket := serve(t, fake{})
		for dir := filepath.Dir(socket); dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(socket, 0o600); err != nil {
			t.Fatal(err)
		}
		if give {
			if err := os.Chown(socket, -1, group); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(socket, 0o660); err != nil {
				t.Fatal(err)
			}
		}
		result := make(chan error)
		go func() {
			// The thread stays locked and ends with the goroutine.
			runtime.LockOSThread()
			_ = unix.Setfsgid(group)
			_ = unix.Setfsuid(nobody)
			if uid, err := unix.SetfsuidRetUid(-1); uid != nobody {
				result <- errors.Join(errOther, err)
				return
			}
			admin := adminFlag{socket}
			result <- admin.ask(t.Context(), func(context.Context, highwirev1.InspectClient) error { return nil })
		}()
		err := <-result
		if errors.Is(err, errOther) {
			t.Skip(err)
		}
		if give && err != nil || !give && (err == nil || !strings.Contains(err.Error(), "no permission for the admin socket")) {
			t.Errorf("group %v: %v", give, err)
		}
	}
}
