package identity

import (
	"bytes"
	"encoding/pem"
	"log/slog"
	"os"
	"strconv"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"highwire/vppapi/fault"
)

// WithFederation has whoever gets an SVID trust the members of other trust domains too: files are those domains' bundles in PEM,
// by the domains' names. They are read again with every SVID that is issued.
func WithFederation(files map[string]string) CAOption {
	return func(ca *CA) { ca.federated = files }
}

// bundles reads the bundles of other trust domains, as the Workload API gives them: DER certificates one after the other, by
// trust domain id. A name that is none, or our own, and a file that is no bundle are fault.Invalid.
func (ca *CA) bundles() (map[string][]byte, error) {
	bundles := map[string][]byte{}
	for name, file := range ca.federated {
		domain, err := spiffeid.TrustDomainFromString(name)
		if err != nil || domain == ca.domain {
			return nil, fault.New(fault.Invalid, "federated trust domain %q: want the name of another one than %s: %w", name, ca.domain.Name(), err)
		}
		bundle, err := x509bundle.Load(domain, file)
		if err != nil {
			return nil, fault.New(fault.Invalid, "bundle of trust domain %s: %w", name, err)
		}
		var der bytes.Buffer
		for _, cert := range bundle.X509Authorities() {
			der.Write(cert.Raw)
		}
		bundles[domain.IDString()] = der.Bytes()
	}
	return bundles, nil
}

// others are the bundles as far as they can be read: they were when the CA was opened.
func (ca *CA) others() map[string][]byte {
	bundles, err := ca.bundles()
	if err != nil {
		slog.Error("no other trust domain is trusted until this is mended", "error", err)
		return map[string][]byte{}
	}
	return bundles
}

// export writes our own bundle into file for other trust domains, where it is not there yet.
func (ca *CA) export(file string) error {
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
	if have, err := os.ReadFile(file); err == nil && bytes.Equal(have, bundle) {
		return nil
	}
	temp := file + "." + strconv.Itoa(os.Getpid())
	if err := os.WriteFile(temp, bundle, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, file)
}
