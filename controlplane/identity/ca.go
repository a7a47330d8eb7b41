package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"highwire/vppapi/fault"
)

const (
	caFile     = "ca.pem"
	bundleFile = "bundle.pem"
	caLifetime = 10 * 365 * 24 * time.Hour
	// clockSkew is how far certificates reach back, for hosts whose clocks differ.
	clockSkew = time.Minute
)

// CA is a certificate authority for development: whoever can connect to its socket gets an identity. It never proves more
// than "a process of that user on this host"; use SPIRE for anything else.
type CA struct {
	domain   spiffeid.TrustDomain
	cert     *x509.Certificate
	key      crypto.Signer
	lifetime time.Duration
	id       func(Process) string
	// federated are the files of other trust domains' bundles, by the domains' names.
	federated map[string]string
}

// CAOption changes what NewCA makes.
type CAOption func(*CA)

// WithSVIDLifetime sets how long SVIDs live, one hour by default. They are renewed after half of it.
func WithSVIDLifetime(d time.Duration) CAOption {
	return func(ca *CA) { ca.lifetime = d }
}

// WithIDs replaces how processes are named: path gives the path of the SPIFFE id, beginning with a slash.
func WithIDs(path func(Process) string) CAOption {
	return func(ca *CA) { ca.id = path }
}

// NewCA opens the authority of the trust domain (e.g. highwire.local) whose key is kept in dir, in a file that only its
// owner can read, and makes both where there are none; bundle.pem beside it is for other trust domains (WithFederation). A dir
// of another trust domain is fault.Conflict.
func NewCA(trustDomain, dir string, opts ...CAOption) (*CA, error) {
	domain, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		return nil, fault.New(fault.Invalid, "trust domain %q: %w", trustDomain, err)
	}
	ca := &CA{domain: domain, lifetime: time.Hour, id: Process.path}
	for _, o := range opts {
		o(ca)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.New(fault.KindOf(err), "directory of the development CA: %w", err)
	}
	file := filepath.Join(dir, caFile)
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = createCA(domain, file)
	}
	if err != nil {
		return nil, fault.New(fault.KindOf(err), "development CA: %w", err)
	}
	if ca.cert, ca.key, err = parseCA(data); err != nil {
		return nil, fault.New(fault.Invalid, "%s is damaged: %w; remove it to get a new CA, all SVIDs of the old one become void", file, err)
	}
	switch {
	case len(ca.cert.URIs) != 1 || ca.cert.URIs[0].String() != domain.IDString():
		return nil, fault.New(fault.Conflict, "%s belongs to another trust domain than %s: %v", file, domain, ca.cert.URIs)
	case time.Now().After(ca.cert.NotAfter):
		return nil, fault.New(fault.Invalid, "%s expired at %s; remove it to get a new CA", file, ca.cert.NotAfter)
	}
	if _, err := ca.bundles(); err != nil {
		return nil, err
	}
	if err := ca.export(filepath.Join(dir, bundleFile)); err != nil {
		return nil, fault.New(fault.KindOf(err), "development CA: %w", err)
	}
	return ca, nil
}

// createCA writes certificate and key into file, which appears complete or not at all.
func createCA(domain spiffeid.TrustDomain, file string) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := certificate(caLifetime, domain.ID().URL())
	if err != nil {
		return nil, err
	}
	template.Subject = pkix.Name{CommonName: "highwire development CA"}
	template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	template.MaxPathLenZero = true
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: cert})
	_ = pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: private})
	temp, err := os.CreateTemp(filepath.Dir(file), caFile+".*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(temp.Name()) }()
	_, err = temp.Write(b.Bytes())
	if err := errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return nil, err
	}
	// Link refuses to replace: of two that start at once the first one's CA stays.
	if err := os.Link(temp.Name(), file); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(file)
}

func parseCA(data []byte) (*x509.Certificate, crypto.Signer, error) {
	certBlock, rest := pem.Decode(data)
	keyBlock, _ := pem.Decode(rest)
	if certBlock == nil || keyBlock == nil {
		return nil, nil, errors.New("want a certificate and a private key in PEM")
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, nil, err
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok || !signer.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, errors.New("the private key does not belong to the certificate")
	}
	return cert, signer, nil
}

// issue makes an SVID with a new P-256 key: the DER of the leaf and of its PKCS#8 key, and when the leaf ends. The leaf
// keeps the X509-SVID rules: one URI SAN, digitalSignature only, not a CA.
func (ca *CA) issue(id spiffeid.ID) (leaf, private []byte, end time.Time, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, end, err
	}
	template, err := certificate(ca.lifetime, id.URL())
	if err != nil {
		return nil, nil, end, err
	}
	template.Subject = pkix.Name{Organization: []string{"highwire"}}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	leaf, err = x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return nil, nil, end, err
	}
	private, err = x509.MarshalPKCS8PrivateKey(key)
	return leaf, private, template.NotAfter, err
}

// certificate is what all our certificates have in common.
func certificate(lifetime time.Duration, id *url.URL) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(lifetime),
		URIs:                  []*url.URL{id},
		BasicConstraintsValid: true,
	}, nil
}
