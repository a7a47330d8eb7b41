package identity

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"highwire/vppapi/fault"
)

// maxToken bounds, in bytes, what is parsed at all. Real ones have some 400.
const maxToken = 8 << 10

// Token is a JWT with the time it is good until. The JWT is a secret towards everybody but its audience: no logs.
type Token struct {
	JWT     string
	Expires time.Time
}

// String keeps the JWT out of logs and errors.
func (t Token) String() string { return "token until " + t.Expires.Format(time.RFC3339) }

// claims are all that a path token says. The array of exactly one audience is a rule of the wire.
type claims struct {
	Subject  string           `json:"sub"`
	Audience []string         `json:"aud"`
	Expires  *jwt.NumericDate `json:"exp"`
}

func (c claims) GetSubject() (string, error)                  { return c.Subject, nil }
func (c claims) GetAudience() (jwt.ClaimStrings, error)       { return c.Audience, nil }
func (c claims) GetExpirationTime() (*jwt.NumericDate, error) { return c.Expires, nil }
func (claims) GetNotBefore() (*jwt.NumericDate, error)        { return nil, nil }
func (claims) GetIssuedAt() (*jwt.NumericDate, error)         { return nil, nil }
func (claims) GetIssuer() (string, error)                     { return "", nil }

// tokens makes tokens, and hands the same one out again within a second: another would say the same, as exp has that
// resolution. Where many connections are made at once it saves most signatures. The zero value is ready to use.
type tokens struct {
	mu      sync.Mutex
	expires time.Time // of all in made
	made    map[tokenFor]Token
}

// tokenFor is all that tokens of one second differ in.
type tokenFor struct {
	svid     *x509svid.SVID
	audience string
}

// make makes a token with the SVID's key; it never outlives the SVID.
func (t *tokens) make(svid *x509svid.SVID, audience string, lifetime time.Duration) (Token, error) {
	expires := time.Now().Add(lifetime)
	if end := svid.Certificates[0].NotAfter; end.Before(expires) {
		expires = end
	}
	expires = expires.Truncate(time.Second) // the resolution of exp
	key := tokenFor{svid, audience}
	t.mu.Lock()
	if !t.expires.Equal(expires) {
		t.expires, t.made = expires, map[tokenFor]Token{}
	}
	token, ok := t.made[key]
	t.mu.Unlock()
	if ok {
		return token, nil
	}
	token, err := newToken(svid, audience, expires)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil && t.expires.Equal(expires) {
		t.made[key] = token
	}
	return token, err
}

func newToken(svid *x509svid.SVID, audience string, expires time.Time) (Token, error) {
	c := claims{Subject: svid.ID.String(), Audience: []string{audience}, Expires: jwt.NewNumericDate(expires)}
	signed, err := jwt.NewWithClaims(jwt.SigningMethodES256, c).SignedString(svid.PrivateKey)
	if err != nil {
		return Token{}, fault.New(fault.Internal, "token of %s for %s: %w", svid.ID, audience, err)
	}
	return Token{JWT: signed, Expires: expires}, nil
}

// claimed is what tokens say that were read lately, by their hash: each hop reads those of a path for every rule, and again
// at every refresh.
var claimed recent[[sha256.Size]byte, claims]

// parse reads a token without checking its signature.
func parse(token string) (claims, error) {
	hash := sha256.Sum256([]byte(token))
	if c, known := claimed.get(hash); known {
		return c, nil
	}
	c, err := read(token)
	if err == nil {
		claimed.put(hash, c)
	}
	return c, err
}

func read(token string) (claims, error) {
	var c claims
	if len(token) > maxToken {
		return c, fault.New(fault.Denied, "the token has %d bytes; at most %d are read", len(token), maxToken)
	}
	t, _, err := jwt.NewParser().ParseUnverified(token, &c)
	switch {
	case err != nil:
		return c, fault.Wrap(fault.Denied, err)
	case t.Method.Alg() != jwt.SigningMethodES256.Alg():
		return c, fault.New(fault.Denied, "the token is signed with %s, want ES256", t.Method.Alg())
	case c.Subject == "":
		return c, fault.New(fault.Denied, "the token has no subject")
	case len(c.Audience) != 1:
		return c, fault.New(fault.Denied, "the token has %d audiences, want one", len(c.Audience))
	case c.Expires == nil:
		return c, fault.New(fault.Denied, "the token never expires")
	}
	return c, nil
}

// Subject is the SPIFFE id a token claims to be from; what cannot be read is fault.Denied. The signature is not checked.
func Subject(token string) (string, error) {
	c, err := parse(token)
	return c.Subject, err
}

// CheckValid is the rules "valid" and "not expired": every token of the path can be read and is good at the time now.
// Errors of all three checks are fault.Denied and name the rule and the place in the path.
func CheckValid(tokens []string, now time.Time) error {
	for i, token := range tokens {
		c, err := parse(token)
		if err != nil {
			return denied("valid", i, err)
		}
		if !now.Before(c.Expires.Time) {
			return denied("not expired", i, fault.New(fault.Denied, "token of %s expired at %s", c.Subject, c.Expires.Format(time.RFC3339)))
		}
	}
	return nil
}

// CheckChained is the rule "chained": the audience of each token is the subject of the next one.
func CheckChained(tokens []string) error {
	var before claims
	for i, token := range tokens {
		c, err := parse(token)
		if err != nil {
			return denied("chained", i, err)
		}
		if i > 0 && before.Audience[0] != c.Subject {
			return denied("chained", i, fault.New(fault.Denied, "token is of %s, the one before it is for %s", c.Subject, before.Audience[0]))
		}
		before = c
	}
	return nil
}

func denied(rule string, segment int, err error) error {
	return fault.New(fault.Denied, "rule %q: path segment %d: %w", rule, segment, err)
}
