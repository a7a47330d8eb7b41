package webhook

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// Keys of the Secret that the replicas share. Both are PEM, one block for each authority, in the same order, the oldest first.
const (
	secretCerts = "ca.crt"
	secretKeys  = "ca.key"
)

// How a lifetime is spent: an authority is followed by the next one when a third of its life is left. That one is published at
// once and signs after a hundredth, when every API server has heard of it. A certificate lives for a twelfth of an authority's
// life and is renewed when a third of it is left.
const (
	leftPart    = 3
	settlePart  = 100
	servingPart = 12
)

// skew is how far the clocks of a cluster may be apart.
const skew = 5 * time.Minute

// authority is one that signs the certificates of replicas.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// authorities are those of one moment, the oldest first. Every replica makes the same of the same Secret, so that they agree
// without a leader: whoever writes first wins, and the others read what it wrote.
type authorities []authority

// begin is when an authority was made.
func (a authority) begin() time.Time { return a.cert.NotBefore.Add(skew) }

// life is how long it lives in all.
func (a authority) life() time.Duration { return a.cert.NotAfter.Sub(a.begin()) }

// renewal is when the next one is to be made.
func (a authority) renewal() time.Time { return a.cert.NotAfter.Add(-a.life() / leftPart) }

// settled is when every API server knows it.
func (a authority) settled() time.Time { return a.begin().Add(a.life() / settlePart) }

// parseAuthorities reads a Secret; an empty one has none.
func parseAuthorities(data map[string][]byte) (authorities, error) {
	var list authorities
	certs, keys := data[secretCerts], data[secretKeys]
	for {
		var c, k *pem.Block
		c, certs = pem.Decode(certs)
		k, keys = pem.Decode(keys)
		if c == nil && k == nil {
			return list, nil
		}
		if c == nil || k == nil {
			return nil, errors.New("it has not as many certificates as keys")
		}
		cert, err := x509.ParseCertificate(c.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", secretCerts, err)
		}
		key, err := x509.ParseECPrivateKey(k.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s holds what is no key", secretKeys)
		}
		if !key.PublicKey.Equal(cert.PublicKey) {
			return nil, errors.New("a certificate and its key do not belong together")
		}
		list = append(list, authority{cert, key})
	}
}

// data is what is kept in the Secret.
func (l authorities) data() (map[string][]byte, error) {
	var keys bytes.Buffer
	for _, a := range l {
		der, err := x509.MarshalECPrivateKey(a.key)
		if err != nil {
			return nil, err
		}
		if err := pem.Encode(&keys, &pem.Block{Type: "EC PRIVATE KEY", Bytes: der}); err != nil {
			return nil, err
		}
	}
	return map[string][]byte{secretCerts: l.bundle(), secretKeys: keys.Bytes()}, nil
}

// bundle is what API servers are to trust.
func (l authorities) bundle() []byte {
	var b bytes.Buffer
	for _, a := range l {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
	}
	return b.Bytes()
}

// advance is the list as it should be now: without what has expired, and with a new one where that is due.
func (l authorities) advance(now time.Time, life time.Duration) (next authorities, changed bool, err error) {
	for _, a := range l {
		if now.Before(a.cert.NotAfter) {
			next = append(next, a)
		}
	}
	changed = len(next) != len(l)
	if len(next) > 0 && now.Before(next[len(next)-1].renewal()) {
		return next, changed, nil
	}
	a, err := newAuthority(now, life)
	if err != nil {
		return nil, false, err
	}
	return append(next, a), true, nil
}

// signer is the one that signs now: the newest that everybody knows, or else the oldest. There has to be one.
func (l authorities) signer(now time.Time) authority {
	for i := len(l) - 1; i > 0; i-- {
		if !now.Before(l[i].settled()) {
			return l[i]
		}
	}
	return l[0]
}

// due is when something is to be done about the list next.
func (l authorities) due(now time.Time) time.Time {
	at := l[len(l)-1].renewal()
	sooner := func(t time.Time) {
		if t.After(now) && t.Before(at) {
			at = t
		}
	}
	for i, a := range l {
		sooner(a.cert.NotAfter)
		if i > 0 {
			sooner(a.settled())
		}
	}
	return at
}

func newAuthority(now time.Time, life time.Duration) (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "highwire webhook " + now.UTC().Format(time.DateOnly)},
		NotBefore: now.Add(-skew), NotAfter: now.Add(life),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	cert, err := sign(template, template, &key.PublicKey, key)
	return authority{cert, key}, err
}

// serving makes a certificate for the names, DNS ones or addresses.
func (a authority) serving(now time.Time, names []string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "highwire webhook"},
		NotBefore: now.Add(-skew), NotAfter: now.Add(a.life() / servingPart),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	cert, err := sign(template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}

func sign(template, parent *x509.Certificate, public *ecdsa.PublicKey, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	var err error
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
