package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestRedact(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a\n-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----\nb": "a\n(private key)\nb",
		"-----BEGIN PRIVATE KEY-----\nMHcC (cut":                                   "(private key)",
		"token eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln, next":                    "token (token), next",
		`"private_key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="`:             `"private_key":"(secret)"`,
		"private-key: AAAAAAAAAAAAAAAAAAAAAAAA":                                    "private-key: (secret)",
		"secret = hunter2hunter2":                                                  "secret = (secret)",
		"public key BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB= stays":            "public key BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB= stays",
		"spiffe://highwire.local/agent 172.16.1.1/32":                              "spiffe://highwire.local/agent 172.16.1.1/32",
	} {
		if got := string(Redact([]byte(text))); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	err := Write(t.Context(), &b, "root", []Collector{
		{"a/one", func(context.Context) ([]byte, error) { return []byte("secret: 0123456789"), nil }},
		{"two", func(context.Context) ([]byte, error) { return []byte("part"), errors.New("no more") }},
		{"big", func(context.Context) ([]byte, error) { return make([]byte, most+1), nil }},
	})
	if err != nil {
		t.Fatal(err)
	}
	zip, err := gzip.NewReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil || h.Mode != 0o600 {
			t.Fatal(err, h.Mode)
		}
		files[h.Name] = string(text)
	}
	if files["root/a/one"] != "secret: (secret)" || files["root/two"] != "part\ncould not be gathered: no more\n" || !strings.HasSuffix(files["root/big"], "(cut off)\n") {
		t.Errorf("%.200v", files)
	}
	for _, want := range []string{"a/one\t", "two\t", "FAILED: no more", "bytes\n"} {
		if !strings.Contains(files["root/MANIFEST"], want) {
			t.Errorf("MANIFEST has no %q:\n%s", want, files["root/MANIFEST"])
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = Write(ctx, &b, "root", []Collector{{"x", func(context.Context) ([]byte, error) { cancel(); return nil, nil }}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
}
