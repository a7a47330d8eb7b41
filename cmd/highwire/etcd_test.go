package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	registryapi "highwire/controlplane/api/registry"
)

// An etcd that talks to nobody without a certificate of its authority takes ours.
func TestEtcdTLS(t *testing.T) {
	bin, err := exec.LookPath("etcd")
	if err != nil {
		t.Skip("no etcd on PATH (Debian's package is etcd-server)")
	}
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	certificate(t, file("cert.pem"), file("key.pem"))
	address, peers := "https://"+freeAddress(t), "http://"+freeAddress(t)
	cmd := exec.Command(bin, "--data-dir", file("data"), "--name", "test", "--logger", "zap", "--log-level", "error",
		"--listen-client-urls", address, "--advertise-client-urls", address, "--client-cert-auth",
		"--cert-file", file("cert.pem"), "--key-file", file("key.pem"), "--trusted-ca-file", file("cert.pem"),
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "test="+peers)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()

	e := etcd{endpoints: []string{address}, prefix: "/test", ca: file("cert.pem"), cert: file("cert.pem"), key: file("key.pem")}
	if err := e.check(); err != nil {
		t.Fatal(err)
	}
	store, err := e.open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	select {
	case <-store.Settled():
	case <-time.After(time.Minute):
		t.Fatal("etcd cannot be reached")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := store.PutService(ctx, &registryapi.NetworkService{Name: "s"}); err != nil {
		t.Fatal(err)
	}
	if list, err := store.Services(ctx); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	e.key = file("none.pem")
	if _, err := e.open(); err == nil {
		t.Error("opened without its key")
	}
}

// certificate makes one that is its own authority.
func certificate(t *testing.T, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
