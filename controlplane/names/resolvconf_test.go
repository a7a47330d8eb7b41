package names

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"highwire/vppapi/fault"
)

var own = netip.MustParseAddr("127.0.0.1")

func TestParseResolvConf(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		text string
		want resolvConf
	}{
		"a pod's": {"search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n",
			resolvConf{[]netip.Addr{netip.MustParseAddr("10.96.0.10")}, []string{"default.svc.cluster.local", "svc.cluster.local", "cluster.local"}, []string{"ndots:5"}}},
		"empty":                     {"", resolvConf{}},
		"comments":                  {"# nameserver 1.1.1.1\n;nameserver 1.1.1.1\n #nameserver 1.1.1.1\n", resolvConf{}},
		"the last search counts":    {"search a b\ndomain c d\n", resolvConf{Search: []string{"c"}}},
		"options add up":            {"options rotate\noptions edns0 ndots:2", resolvConf{Options: []string{"rotate", "edns0", "ndots:2"}}},
		"addresses of all sorts":    {"nameserver ::1\nnameserver fe80::1%eth0\nnameserver ::ffff:10.0.0.1\nnameserver x\nnameserver\n", resolvConf{Nameservers: []netip.Addr{netip.MustParseAddr("::1"), netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("10.0.0.1")}}},
		"line feeds of other sorts": {"nameserver 10.0.0.1\r\nsearch\ta\r\n", resolvConf{[]netip.Addr{netip.MustParseAddr("10.0.0.1")}, []string{"a"}, nil}},
	}
	for name, test := range tests {
		if got := parseResolvConf([]byte(test.text)); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

func TestWrap(t *testing.T) {
	t.Parallel()
	original := "nameserver 10.96.0.10\nsearch default.svc\noptions ndots:5"
	got := string(wrap([]byte(original), own, []string{"default.svc", "svc.example"}))
	want := header + "nameserver 127.0.0.1\nsearch default.svc svc.example\noptions ndots:5\n" +
		"#|nameserver 10.96.0.10\n#|search default.svc\n#|options ndots:5\n#.\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// FuzzResolvConf: whatever stood in the file comes back to the byte, and what we write leads to us alone.
func FuzzResolvConf(f *testing.F) {
	for _, s := range []string{"", "\n", "\n\n", "nameserver 10.0.0.1", "search a\nnameserver 10.0.0.1\noptions ndots:5\n", "#|x\n#.\n", "a\r\n\x00b", "options a\vb\x85c"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if bytes.HasPrefix(text, []byte(header)) {
			unwrap(text)
			return
		}
		wrapped := wrap(text, own, []string{"svc.example"})
		if original, ours := unwrap(wrapped); !ours || !bytes.Equal(original, text) {
			t.Fatalf("%q came back as %q", text, original)
		}
		c := parseResolvConf(wrapped)
		if !reflect.DeepEqual(c.Nameservers, []netip.Addr{own}) || !reflect.DeepEqual(c.Search, []string{"svc.example"}) {
			t.Fatalf("%q leads to %v, searches %v", wrapped, c.Nameservers, c.Search)
		}
		if want := parseResolvConf(text).Options; !reflect.DeepEqual(c.Options, want) {
			t.Fatalf("%q has options %q, want %q", wrapped, c.Options, want)
		}
	})
}

func TestParseDomain(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"svc.example": "svc.example.", "SVC.Example.": "svc.example.", "_tcp.x-1": "_tcp.x-1.",
		"": "", ".": "", "a..b": "", "a b": "", "a\nnameserver 6.6.6.6": "", "*.x": "", "ä": "", `a\.b`: "",
		strings.Repeat("a", 64): "", strings.Repeat("abcdefg.", 32) + "x": "",
	} {
		got, err := ParseDomain(s)
		if got != want || (err != nil) != (want == "") || err != nil && !fault.Is(err, fault.Invalid) {
			t.Errorf("%.40q: %q, %v; want %q", s, got, err, want)
		}
	}
}

// TestFile goes through a client's lives: started, killed, started again, ended.
func TestFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	const original = "nameserver 10.96.0.10\noptions ndots:5"
	if err := os.WriteFile(path, []byte(original), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	has := func(what string) string {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if now, err := os.Stat(path); err != nil || !os.SameFile(before, now) {
			t.Errorf("%s: it is another file now, %v", what, err)
		}
		return string(text)
	}
	start := func() *file {
		t.Helper()
		f, err := openFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(f.original) != original {
			t.Fatalf("the original is %q", f.original)
		}
		return f
	}
	f := start()
	if err := f.point(own, []string{"a.example", "b.example"}); err != nil {
		t.Fatal(err)
	}
	long := has("started")
	if err := f.point(own, nil); err != nil {
		t.Fatal(err)
	}
	if short := has("changed"); len(short) >= len(long) || strings.Contains(short, "\n\n") {
		t.Errorf("changed to %q", short)
	}
	f.f.Close() // killed
	f = start()
	if err := f.point(own, []string{"c.example"}); err != nil {
		t.Fatal(err)
	}
	if err := f.restore(); err != nil {
		t.Fatal(err)
	}
	if got := has("ended"); got != original {
		t.Errorf("%q came back", got)
	}
	// What somebody else has written since is theirs.
	f = start()
	if err := f.point(own, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("nameserver 9.9.9.9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.restore(); err != nil || has("written by others") != "nameserver 9.9.9.9\n" {
		t.Errorf("%v, %q", err, has("written by others"))
	}
}

func TestFileProblems(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	large, link := filepath.Join(dir, "large"), filepath.Join(dir, "link")
	if err := os.WriteFile(large, make([]byte, maxResolvConf+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(large, link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{large: "larger than", link: "symbolic link", filepath.Join(dir, "none"): "no such file", dir: "has to be writable"} {
		if _, err := openFile(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}
