package main

import (
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"highwire/cmd/lab"
)

// nameserver knows one name in a network namespace, at an address that the namespace gets.
func nameserver(t *testing.T, in *lab.Namespace, addr, record string) {
	t.Helper()
	known, err := dns.NewRR(record)
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetRcode(q, dns.RcodeNameError)
		if q.Question[0].Name == known.Header().Name {
			m.Rcode, m.Answer = dns.RcodeSuccess, []dns.RR{known}
		}
		_ = w.WriteMsg(m)
	})}
	if err := in.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(addr + "/32")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(lo, a); err != nil {
			return err
		}
		s.PacketConn, err = net.ListenPacket("udp", addr+":53")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	started, ended := make(chan struct{}), make(chan error, 1)
	s.NotifyStartedFunc = func() { close(started) }
	go func() { ended <- s.ActivateAndServe() }()
	<-started
	t.Cleanup(func() {
		if err := s.Shutdown(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// lookUp asks what a program in the namespace would ask, and tells the answer's data.
func lookUp(t *testing.T, in *lab.Namespace, name string) (answer string) {
	t.Helper()
	if err := in.Do(func() error {
		m, _, err := (&dns.Client{Timeout: within}).Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), "127.0.0.1:53")
		if err != nil {
			return err
		}
		answer = dns.RcodeToString[m.Rcode]
		for _, rr := range m.Answer {
			answer += " " + strings.TrimPrefix(rr.String(), rr.Header().String())
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return answer
}

// A client with --dns has the names of its service looked up beyond the vWire and all others where they were before, and leaves
// the resolv.conf as it was, though it was killed once.
func TestNames(t *testing.T) {
	needNamespaces(t)
	n := newNode(t, binary(t), "--vpp", pocket)
	far, home := space(t), space(t)
	nameserver(t, far, "10.9.0.53", "db.svc.example. 60 IN A 10.9.0.7")
	nameserver(t, home, "10.96.0.10", "www.example. 60 IN A 192.0.2.1")
	const original = "nameserver 10.96.0.10\nsearch default.svc.cluster.local\n"
	conf := n.path("resolv.conf")
	if err := os.WriteFile(conf, []byte(original), 0o600); err != nil {
		t.Fatal(err)
	}
	has := func(words string) {
		t.Helper()
		if text, err := os.ReadFile(conf); err != nil || !strings.Contains(string(text), words) {
			t.Errorf("resolv.conf has no %q, %v:\n%s", words, err, text)
		}
	}
	n.join("endpoint", "--service", "db", "--cidr", "10.9.1.0/24", "--netns", far.Path(), "--dns-server", "10.9.0.53", "--dns-domain", "svc.example").await("registered")
	args := []string{"client", "--netns", home.Path(), "--dns", "--resolv-conf", conf, "kernel://db/db0"}
	for _, end := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		client := n.join(args...)
		client.await("connected")
		if got := lookUp(t, home, "db.svc.example."); got != "NOERROR 10.9.0.7" {
			t.Errorf("the service's name: %s", got)
		}
		if got := lookUp(t, home, "www.example."); got != "NOERROR 192.0.2.1" {
			t.Errorf("another name: %s", got)
		}
		has("nameserver 127.0.0.1\nsearch default.svc.cluster.local svc.example\n")
		client.end(end)
	}
	if text, err := os.ReadFile(conf); err != nil || string(text) != original {
		t.Errorf("left behind, %v:\n%s", err, text)
	}
}

func TestNamesUsage(t *testing.T) {
	for want, args := range map[string][]string{
		"are for --dns":        {"client", "--resolv-conf", "x", "kernel://a/b"},
		"say with --resolv":    {"client", "--dns", "--netns", "/proc/self/ns/net", "kernel://a/b"},
		"there is no nameserv": {"endpoint", "--dns-domain", "a"},
		"--dns-allow: \"a b\"": {"client", "--dns", "--dns-allow", "a b", "kernel://a/b"},
		"want an IP address":   {"endpoint", "--dns-server", "127.0.0.1"},
		"is not a domain":      {"endpoint", "--dns-server", "10.0.0.1", "--dns-domain", "a b"},
	} {
		if code, _, stderr := execute(t, args...); code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%v: code %d, %s; want %q", args, code, stderr, want)
		}
	}
}
