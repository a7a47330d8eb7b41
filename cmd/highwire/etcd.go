package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"os"

	"github.com/spf13/pflag"

	"highwire/controlplane/registry"
)

// etcd says where an etcd is that agents share as their registry.
type etcd struct {
	endpoints     []string
	prefix        string
	ca, cert, key string
}

func (e *etcd) add(flags *pflag.FlagSet) {
	flags.StringSliceVar(&e.endpoints, "etcd", nil, "share an etcd as the registry, repeatable for its members: http://host:port or https://host:port")
	flags.StringVar(&e.prefix, "etcd-prefix", registry.DefaultEtcdPrefix, "what our keys in etcd begin with; agents with the same share a registry")
	flags.StringVar(&e.ca, "etcd-ca", "", "PEM file of the authorities that etcd's certificate may be from (default: the system's)")
	flags.StringVar(&e.cert, "etcd-cert", "", "PEM file of the certificate to show to etcd")
	flags.StringVar(&e.key, "etcd-key", "", "PEM file of its key")
}

func (e *etcd) check() error {
	secure := false
	for _, endpoint := range e.endpoints {
		u, err := url.Parse(endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" {
			return usagef("--etcd %q: want http://host:port or https://host:port", endpoint)
		}
		secure = secure || u.Scheme == "https"
	}
	switch {
	case (e.cert == "") != (e.key == ""):
		return usagef("--etcd-cert and --etcd-key: one is of no use without the other")
	case e.ca+e.cert != "" && !secure:
		return usagef("--etcd-ca, --etcd-cert: none of --etcd begins with https://")
	}
	return nil
}

func (e *etcd) open() (*registry.Etcd, error) {
	c := registry.EtcdConfig{Endpoints: e.endpoints, Prefix: e.prefix, TLS: &tls.Config{MinVersion: tls.VersionTLS12}}
	if e.ca != "" {
		pem, err := os.ReadFile(e.ca)
		if err != nil {
			return nil, fmt.Errorf("--etcd-ca: %w", err)
		}
		c.TLS.RootCAs = x509.NewCertPool()
		if !c.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--etcd-ca: %s holds no certificate in PEM", e.ca)
		}
	}
	if e.cert != "" {
		if _, err := tls.LoadX509KeyPair(e.cert, e.key); err != nil {
			return nil, fmt.Errorf("--etcd-cert, --etcd-key: %w", err)
		}
		// Read for each connection, so that it can be renewed in place.
		c.TLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(e.cert, e.key)
			return &pair, err
		}
	}
	return registry.OpenEtcd(c)
}
