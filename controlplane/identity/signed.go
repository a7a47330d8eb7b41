package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"

	"github.com/golang-jwt/jwt/v5"

	"highwire/vppapi/fault"
)

// CheckSigned is the rule "signed": the token carries an ES256 signature made with the key of cert. Time is not looked at.
func CheckSigned(token string, cert *x509.Certificate) error {
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return fault.New(fault.Denied, "rule \"signed\": the peer's certificate has a %T key, want ECDSA P-256", cert.PublicKey)
	}
	if _, err := parse(token); err != nil {
		return fault.New(fault.Denied, "rule \"signed\": %w", err)
	}
	proven := sha256.Sum256(append(append([]byte(token), 0), cert.RawSubjectPublicKeyInfo...))
	if _, known := signatures.get(proven); known {
		return nil
	}
	parser := jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}), jwt.WithoutClaimsValidation())
	if _, err := parser.ParseWithClaims(token, &claims{}, func(*jwt.Token) (any, error) { return key, nil }); err != nil {
		return fault.New(fault.Denied, "rule \"signed\": not by the key of the peer's certificate: %w", err)
	}
	signatures.put(proven, struct{}{})
	return nil
}

// signatures are those that were found good lately, by the hash of token and key: hops that talk to each other much show the
// same tokens again and again.
var signatures recent[[sha256.Size]byte, struct{}]
