// Package kubetest gives a test a Kubernetes API of its own: a real kube-apiserver and etcd on the loopback, without nodes or
// controllers. make test-k8s builds the kube-apiserver.
package kubetest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"
	"k8s.io/client-go/rest"
)

// ServerEnv names the kube-apiserver's executable.
const ServerEnv = "HIGHWIRE_KUBE_APISERVER"

// startTime is how long a server may take until it answers, on a machine that has much else to do.
const startTime = 2 * time.Minute

// Cluster is a Kubernetes API that can be stopped and started again.
type Cluster struct {
	t         testing.TB
	dir       string
	etcd, api string // addresses
	authority *authority
	stop      func()
}

// Start runs a cluster until the test ends; where there is no kube-apiserver or no etcd the test is skipped.
func Start(t testing.TB) *Cluster {
	t.Helper()
	if os.Getenv(ServerEnv) == "" {
		t.Skip("no kube-apiserver: make test-k8s builds one, " + ServerEnv + " names one")
	}
	etcd, err := exec.LookPath("etcd")
	if err != nil {
		t.Skip("no etcd on PATH (Debian's package is etcd-server)")
	}
	c := &Cluster{t: t, dir: t.TempDir(), etcd: freePort(t), api: freePort(t)}
	c.authority = newAuthority(t, c.dir)
	peer := "http://" + freePort(t)
	stop := c.run(etcd, "--data-dir", filepath.Join(c.dir, "etcd"), "--logger", "zap", "--log-level", "error", "--name", "test",
		"--listen-client-urls", "http://"+c.etcd, "--advertise-client-urls", "http://"+c.etcd,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "test="+peer,
		"--unsafe-no-fsync")
	t.Cleanup(stop)
	c.StartAPI()
	t.Cleanup(func() { c.StopAPI() })
	return c
}

// StartAPI starts the kube-apiserver, which Start has done already, and waits until it is ready.
func (c *Cluster) StartAPI() {
	c.t.Helper()
	_, port, _ := net.SplitHostPort(c.api)
	c.stop = c.run(os.Getenv(ServerEnv), "--etcd-servers", "http://"+c.etcd,
		"--bind-address", "127.0.0.1", "--secure-port", port, "--cert-dir", c.dir,
		"--tls-cert-file", c.authority.file("server.pem"), "--tls-private-key-file", c.authority.file("server.key"),
		"--client-ca-file", c.authority.file("ca.pem"), "--authorization-mode", "RBAC", "--anonymous-auth=false", "--allow-privileged",
		"--service-account-issuer", "https://"+c.api, "--service-account-key-file", c.authority.file("server.pem"),
		"--service-account-signing-key-file", c.authority.file("server.key"),
		"--service-cluster-ip-range", "10.96.0.0/16", "--endpoint-reconciler-type", "none")
	c.await()
}

// StopAPI ends the kube-apiserver; what it knew stays in the etcd.
func (c *Cluster) StopAPI() { c.stop() }

// Config is how a client reaches the API as the user, who is in the groups: "admin" in "system:masters" may all, and
// "system:serviceaccount:NAMESPACE:NAME" is a service account.
func (c *Cluster) Config(user string, groups ...string) *rest.Config {
	c.t.Helper()
	cert, key := c.authority.issue(c.t, user, groups...)
	return &rest.Config{Host: "https://" + c.api, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: c.authority.pem, CertData: cert, KeyData: key}}
}

// Admin is the Config of a user who may all.
func (c *Cluster) Admin() *rest.Config {
	c.t.Helper()
	return c.Config("admin", "system:masters")
}

// ServiceAccount is the Config of a service account.
func (c *Cluster) ServiceAccount(namespace, name string) *rest.Config {
	c.t.Helper()
	return c.Config("system:serviceaccount:"+namespace+":"+name, "system:serviceaccounts", "system:serviceaccounts:"+namespace)
}

// await returns when the API is ready.
func (c *Cluster) await() {
	c.t.Helper()
	cert, key := c.authority.issue(c.t, "admin", "system:masters")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		c.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.authority.pem)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}}}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	_, err = backoff.Retry(ctx, func() (struct{}, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.api+"/readyz", nil)
		if err != nil {
			return struct{}{}, backoff.Permanent(err)
		}
		answer, err := client.Do(request)
		if err != nil {
			return struct{}{}, err
		}
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return struct{}{}, errors.New(answer.Status)
		}
		return struct{}{}, nil
	}, backoff.WithBackOff(backoff.NewConstantBackOff(200*time.Millisecond)), backoff.WithMaxElapsedTime(startTime))
	if err != nil {
		c.t.Fatalf("kube-apiserver is not ready: %v", err)
	}
}

// run starts a server; what it said is logged when the test has failed.
func (c *Cluster) run(bin string, args ...string) (stop func()) {
	c.t.Helper()
	cmd := exec.Command(bin, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	return sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if c.t.Failed() {
			c.t.Logf("%s said:\n%s", filepath.Base(bin), complaints(output.String()))
		}
	})
}

// complaints leaves out what a kube-apiserver tells of its ordinary life.
func complaints(said string) string {
	lines := strings.SplitAfter(said, "\n")
	return strings.Join(slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "I") }), "")
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(fmt.Errorf("no port on the loopback: %w", err))
	}
	defer l.Close()
	return l.Addr().String()
}
