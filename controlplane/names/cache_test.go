package names

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestCache: answers are kept for their time, and tell what is left of it.
func TestCache(t *testing.T) {
	t.Parallel()
	u := upstreamOf(t, zone("x. 60 IN A 10.0.0.1\nx. 90 IN A 10.0.0.2\nforever. 100000 IN A 10.0.0.1\nnever. 0 IN A 10.0.0.1\nl. 10 IN CNAME x."))
	c := newClock()
	r := resolverOf(t, c, sourceAt("", u))
	for i, step := range []struct {
		move  time.Duration
		name  string
		asked int32 // in all
		ttl   uint32
	}{
		{0, "x.", 1, 60},
		{0, "x.", 1, 60},
		{59 * time.Second, "x.", 1, 1},
		{time.Second, "x.", 2, 60},
		{0, "gone.", 3, 20},
		{19 * time.Second, "gone.", 3, 1},
		{time.Second, "gone.", 4, 20},
		{0, "never.", 5, 0},
		{0, "never.", 6, 0},
		{0, "forever.", 7, 100000},
		{time.Hour - time.Second, "forever.", 7, 100000 - 3599},
		{time.Second, "forever.", 8, 100000},
		{0, "l.", 9, 10},
		{9 * time.Second, "l.", 9, 1},
		{time.Second, "l.", 10, 10},
	} {
		c.move(step.move)
		got := r.resolve(soon(t), a(step.name))
		var ttl uint32
		if got.soa != nil {
			ttl = got.soa.Hdr.Ttl
		} else {
			ttl = got.records[0].Header().Ttl
		}
		if n := u.asked.Load(); n != step.asked || ttl != step.ttl {
			t.Fatalf("step %d, %s: asked %d times, valid for %d s; want %d, %d", i, step.name, n, ttl, step.asked, step.ttl)
		}
	}
}

// TestFailureIsKept for a second, and no longer.
func TestFailureIsKept(t *testing.T) {
	t.Parallel()
	u := upstreamOf(t, says(dns.RcodeServerFailure))
	c := newClock()
	r := resolverOf(t, c, sourceAt("", u))
	for i, move := range []time.Duration{0, 999 * time.Millisecond, time.Millisecond} {
		c.move(move)
		if got := show(r.resolve(soon(t), a("x."))); got != "SERVFAIL" {
			t.Fatal(got)
		}
		if n, want := u.asked.Load(), []int32{1, 1, 2}[i]; n != want {
			t.Errorf("after %v it was asked %d times, want %d", move, n, want)
		}
	}
}

// TestCacheIsBounded in entries, which go by when they were used last, and in what an entry may weigh.
func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	c := newCache(10, newClock().time)
	answer := func(data string) result {
		rr, err := dns.NewRR("x. 60 IN TXT " + data)
		if err != nil {
			t.Fatal(err)
		}
		return result{verdict: positive, records: []dns.RR{rr}}
	}
	for i := range 20 {
		c.put(a(fmt.Sprintf("%d.", i)), answer("text"))
		c.get(a("0."))
	}
	var left []string
	for i := range 20 {
		if _, ok := c.get(a(fmt.Sprintf("%d.", i))); ok {
			left = append(left, fmt.Sprint(i))
		}
	}
	if got := strings.Join(left, " "); got != "0 11 12 13 14 15 16 17 18 19" || len(c.entries) != 10 || c.recent.Len() != 10 {
		t.Errorf("left: %s; %d entries, %d in order", got, len(c.entries), c.recent.Len())
	}
	c.put(a("large."), answer(strings.Repeat(strings.Repeat("x", 250)+" ", 20)))
	if _, ok := c.get(a("large.")); ok {
		t.Error("an answer of 5000 bytes was kept")
	}
	// Other bits are other questions.
	c.put(question{name: "x.", qtype: dns.TypeTXT, dnssec: true}, answer("signed"))
	if _, ok := c.get(question{name: "x.", qtype: dns.TypeTXT}); ok {
		t.Error("who does not ask for signatures got them")
	}
}
