package identity

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"highwire/vppapi/fault"
)

// chain is the certificates that a peer shows, and the bundle they were checked against. A bundle is never changed, only
// replaced by another one.
type chain struct {
	bundle *x509bundle.Bundle
	hash   [sha256.Size]byte
}

// checkPeer admits any identity of a known trust domain (§4.1). What it found good stays good until a certificate ends or
// the trust domain has another bundle: clients connect anew for each call and show the same certificate.
func (s *Source) checkPeer(c tls.ConnectionState) error {
	if len(c.PeerCertificates) == 0 {
		return fault.New(fault.Denied, "the peer showed no certificate")
	}
	id, err := x509svid.IDFromCert(c.PeerCertificates[0])
	if err != nil {
		return fault.Wrap(fault.Denied, err)
	}
	bundle, err := s.x509.GetX509BundleForTrustDomain(id.TrustDomain())
	if err != nil {
		return fault.New(fault.Denied, "%s is of a trust domain that is not known here: %w", id, err)
	}
	h := sha256.New()
	for _, cert := range c.PeerCertificates {
		h.Write(cert.Raw)
	}
	seen := chain{bundle: bundle, hash: [sha256.Size]byte(h.Sum(nil))}
	if end, known := s.chains.get(seen); known && time.Now().Before(end) {
		return nil
	}
	_, verified, err := x509svid.Verify(c.PeerCertificates, bundle)
	if err != nil {
		return fault.Wrap(fault.Denied, err)
	}
	s.chains.put(seen, endOf(verified[0]))
	return nil
}

// endOf is when the first of the certificates ends.
func endOf(list []*x509.Certificate) time.Time {
	end := list[0].NotAfter
	for _, cert := range list {
		if cert.NotAfter.Before(end) {
			end = cert.NotAfter
		}
	}
	return end
}
