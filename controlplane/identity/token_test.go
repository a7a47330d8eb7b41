package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"highwire/vppapi/fault"
)

func TestChecks(t *testing.T) {
	dir := t.TempDir()
	a, b := source(t, "mesh.test", dir, "/a"), source(t, "mesh.test", dir, "/b")
	token := func(s *Source, audience string) string {
		t.Helper()
		token, err := s.Token(audience)
		if err != nil {
			t.Fatal(err)
		}
		return token.JWT
	}
	svid, err := a.svid()
	if err != nil {
		t.Fatal(err)
	}
	forge := func(method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
		t.Helper()
		token, err := jwt.NewWithClaims(method, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	aud, later := []string{b.ID()}, time.Now().Add(time.Hour).Unix()
	good, certificate := token(a, b.ID()), svid.Certificates[0]
	other, err := b.svid()
	if err != nil {
		t.Fatal(err)
	}
	otherCertificate := other.Certificates[0]
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}

	for _, c := range []struct {
		name string
		err  error
		rule string // "" where the check must pass
	}{
		{"valid", CheckValid([]string{good}, time.Now()), ""},
		{"valid, nothing", CheckValid(nil, time.Now()), ""},
		{"not a JWT", CheckValid([]string{good, "x.y.z"}, time.Now()), `"valid": path segment 1`},
		{"empty", CheckValid([]string{""}, time.Now()), `"valid": path segment 0`},
		{"too long", CheckValid([]string{strings.Repeat("a", maxToken+1)}, time.Now()), `"valid"`},
		{"audience as text", CheckValid([]string{forge(jwt.SigningMethodES256, svid.PrivateKey, jwt.MapClaims{"sub": a.ID(), "aud": b.ID(), "exp": later})}, time.Now()), `"valid"`},
		{"two audiences", CheckValid([]string{forge(jwt.SigningMethodES256, svid.PrivateKey, jwt.MapClaims{"sub": a.ID(), "aud": []string{"x", "y"}, "exp": later})}, time.Now()), `"valid"`},
		{"no subject", CheckValid([]string{forge(jwt.SigningMethodES256, svid.PrivateKey, jwt.MapClaims{"aud": aud, "exp": later})}, time.Now()), `"valid"`},
		{"no expiry", CheckValid([]string{forge(jwt.SigningMethodES256, svid.PrivateKey, jwt.MapClaims{"sub": a.ID(), "aud": aud})}, time.Now()), `"valid"`},
		{"not signed", CheckValid([]string{forge(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"sub": a.ID(), "aud": aud, "exp": later})}, time.Now()), `"valid"`},
		{"expired", CheckValid([]string{good}, time.Now().Add(2*DefaultTokenLifetime)), `"not expired"`},
		{"chained", CheckChained([]string{good, token(b, a.ID()), token(a, "spiffe://mesh.test/c")}), ""},
		{"chained, one", CheckChained([]string{good}), ""},
		{"chained, none", CheckChained(nil), ""},
		{"chain broken", CheckChained([]string{good, token(a, b.ID())}), `"chained": path segment 1`},
		{"chain unreadable", CheckChained([]string{good, "x"}), `"chained": path segment 1`},
		{"signed", CheckSigned(good, certificate), ""},
		{"signed, again", CheckSigned(good, certificate), ""},
		{"known, but signed by another", CheckSigned(good, otherCertificate), `"signed"`},
		{"signed by another", CheckSigned(token(b, a.ID()), certificate), `"signed"`},
		{"signature damaged", CheckSigned(good[:len(good)-4]+"AAAA", certificate), `"signed"`},
		{"HMAC with the public key", CheckSigned(forge(jwt.SigningMethodHS256, certificate.RawSubjectPublicKeyInfo, jwt.MapClaims{"sub": a.ID(), "aud": aud, "exp": later}), certificate), `"signed"`},
		{"no signature", CheckSigned(forge(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"sub": a.ID(), "aud": aud, "exp": later}), certificate), `"signed"`},
		{"RSA certificate", CheckSigned(good, &x509.Certificate{PublicKey: rsaKey.Public()}), `"signed"`},
	} {
		switch {
		case c.rule == "" && c.err != nil:
			t.Errorf("%s: %v", c.name, c.err)
		case c.rule != "" && (!fault.Is(c.err, fault.Denied) || !strings.Contains(c.err.Error(), c.rule)):
			t.Errorf("%s: got %v, want denied by rule %s", c.name, c.err, c.rule)
		case c.err != nil && strings.Contains(c.err.Error(), strings.Split(good, ".")[2]):
			t.Errorf("%s: the error shows the token", c.name)
		}
	}
}

func TestTokenLifetime(t *testing.T) {
	dir := t.TempDir()
	long := source(t, "mesh.test", dir, "/a")
	token, err := long.Token("spiffe://mesh.test/b")
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(token.Expires); left > DefaultTokenLifetime || left < DefaultTokenLifetime-5*time.Second {
		t.Errorf("default: %v left", left)
	}
	if c, err := parse(token.JWT); err != nil || !c.Expires.Equal(token.Expires) {
		t.Errorf("exp %v, Expires %v, %v", c.Expires, token.Expires, err)
	}
	// The certificate ends first.
	short := source(t, "mesh.test", dir, "/a", WithSVIDLifetime(time.Minute))
	if token, err = short.Token("spiffe://mesh.test/b"); err != nil || time.Until(token.Expires) > time.Minute {
		t.Errorf("short certificate: %v, %v", token, err)
	}
	if text := fmt.Sprint(token) + fmt.Sprintf("%v %s", token, token); strings.Contains(text, token.JWT) {
		t.Errorf("the JWT shows in %q", text)
	}
}

// Tokens of one second are the same, but never for two audiences or of two SVIDs.
func TestTokensOfOneSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var made tokens
		a, b := svidOf(t, "spiffe://mesh.test/a"), svidOf(t, "spiffe://mesh.test/a")
		make := func(svid *x509svid.SVID, audience string) string {
			t.Helper()
			token, err := made.make(svid, audience, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(token.Expires); left > time.Minute || left <= time.Minute-time.Second {
				t.Errorf("good for %v", left)
			}
			return token.JWT
		}
		first := make(a, "x")
		if make(a, "x") != first {
			t.Error("two tokens within a second")
		}
		if make(a, "y") == first || make(b, "x") == first {
			t.Error("one token for two audiences, or of two SVIDs")
		}
		time.Sleep(time.Second)
		if make(a, "x") == first {
			t.Error("the same token a second later")
		}
		if n := len(made.made); n != 1 {
			t.Errorf("%d tokens are kept, want those of one second: 1", n)
		}
	})
}

// svidOf makes an SVID that no authority has signed.
func svidOf(t *testing.T, id string) *x509svid.SVID {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &x509svid.SVID{ID: spiffeid.RequireFromString(id), PrivateKey: key, Certificates: []*x509.Certificate{{NotAfter: time.Now().Add(time.Hour)}}}
}

func FuzzToken(f *testing.F) {
	f.Add("")
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJzcGlmZmU6Ly9hL2IiLCJhdWQiOlsic3BpZmZlOi8vYS9jIl0sImV4cCI6MTg5MzQ1NjAwMH0.AAAA")
	f.Add("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIiwiYXVkIjoiYiIsImV4cCI6MX0.")
	f.Add("eyJhbGciOiJFUzI1NiJ9.eyJhdWQiOm51bGwsImV4cCI6MWU5OTk5fQ.AA")
	cert := &x509.Certificate{}
	f.Fuzz(func(t *testing.T, token string) {
		c, err := parse(token)
		if err == nil && (c.Subject == "" || len(c.Audience) != 1 || c.Expires == nil) {
			t.Errorf("accepted without its claims: %+v", c)
		}
		if valid := CheckValid([]string{token}, time.Unix(0, 0)); err != nil && valid == nil {
			t.Error("valid though it cannot be read")
		}
		_ = CheckChained([]string{token, token})
		if CheckSigned(token, cert) == nil {
			t.Error("signed by nobody's key")
		}
	})
}
