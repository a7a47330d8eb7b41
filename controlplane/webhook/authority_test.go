package webhook

import (
	"bytes"
	"crypto/x509"
	"strings"
	"testing"
	"time"
)

// A year of the authorities, from the first one to the one after the next: what signs is always trusted by who knows the bundle of
// a while ago.
func TestAuthorities(t *testing.T) {
	t.Parallel()
	const life = 300 * time.Hour
	begin := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	now := begin
	list, changed, err := authorities(nil).advance(now, life)
	if err != nil || !changed || len(list) != 1 {
		t.Fatal(list, changed, err)
	}
	made := 1
	for now.Before(begin.Add(3 * life)) {
		before := list
		now = list.due(now)
		old := before.bundle()
		if list, changed, err = list.advance(now, life); err != nil {
			t.Fatal(err)
		}
		if len(list) > 0 && !bytes.Equal(list[len(list)-1].cert.Raw, before[len(before)-1].cert.Raw) {
			made++
		}
		if len(list) == 0 || len(list) > 2 {
			t.Fatalf("%d authorities at %s", len(list), now)
		}
		cert, err := list.signer(now).serving(now, []string{"highwire-webhook.highwire-system.svc", "192.0.2.7"})
		if err != nil {
			t.Fatal(err)
		}
		for bundle, trust := range map[string][]byte{"the last bundle": old, "this bundle": list.bundle()} {
			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM(trust)
			for _, name := range []string{"highwire-webhook.highwire-system.svc", "192.0.2.7"} {
				if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now, DNSName: name}); err != nil {
					t.Fatalf("%s at %s: %v", bundle, now, err)
				}
			}
		}
		if !changed && bytes.Equal(list.signer(now).cert.Raw, before.signer(now.Add(-time.Second)).cert.Raw) {
			t.Fatalf("nothing was due at %s", now)
		}
	}
	if made != 5 {
		t.Errorf("%d authorities in three lives, want 5", made)
	}
}

func TestParseAuthorities(t *testing.T) {
	t.Parallel()
	now := time.Now()
	list, _, err := authorities(nil).advance(now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := authorities(nil).advance(now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	good, err := list.data()
	if err != nil {
		t.Fatal(err)
	}
	bad, err := other.data()
	if err != nil {
		t.Fatal(err)
	}
	read, err := parseAuthorities(good)
	if err != nil || len(read) != 1 || !bytes.Equal(read.bundle(), list.bundle()) {
		t.Fatal(read, err)
	}
	for says, data := range map[string]map[string][]byte{
		"not as many":    {secretCerts: good[secretCerts]},
		"do not belong":  {secretCerts: good[secretCerts], secretKeys: bad[secretKeys]},
		"is no key":      {secretCerts: good[secretCerts], secretKeys: good[secretCerts]},
		"ca.crt: x509: ": {secretCerts: good[secretKeys], secretKeys: good[secretKeys]},
	} {
		_, err := parseAuthorities(data)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
		if err != nil && strings.Contains(err.Error(), "BEGIN") {
			t.Errorf("an error shows a key: %v", err)
		}
	}
	if none, err := parseAuthorities(nil); len(none) != 0 || err != nil {
		t.Error(none, err)
	}
}

func FuzzParseAuthorities(f *testing.F) {
	list, _, err := authorities(nil).advance(time.Now(), time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	data, err := list.data()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[secretCerts], data[secretKeys])
	f.Add([]byte("x"), []byte(nil))
	f.Fuzz(func(t *testing.T, certs, keys []byte) {
		list, err := parseAuthorities(map[string][]byte{secretCerts: certs, secretKeys: keys})
		if err == nil {
			if _, err := list.data(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
