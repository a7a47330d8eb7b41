// Package bundle gathers what helps to find a fault into one archive, without secrets.
package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

// Collector gathers one file.
type Collector struct {
	// Name is the path in the archive.
	Name string
	// Collect returns its text. It has to end when its context does.
	Collect func(context.Context) ([]byte, error)
}

// each bounds one collector, most one file.
const (
	each = 10 * time.Second
	most = 1 << 20
)

// secrets are what no file of a bundle may hold: PEM keys, tokens (JWT), and values that are called private or secret.
var secrets = []struct {
	// mark is in every text that has one, empty where nothing is.
	mark    string
	pattern *regexp.Regexp
	instead string
}{
	{"PRIVATE KEY", regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----`), "(private key)"},
	{"PRIVATE KEY", regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*`), "(private key)"},
	{"eyJ", regexp.MustCompile(`eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*`), "(token)"},
	{"", regexp.MustCompile(`(?i)((?:private|preshared|secret|passw(?:or)?d|token|bearer)[a-z_-]*["']?\s*[:= ]\s*["']?)[A-Za-z0-9+/_.-]{8,}=*`), "${1}(secret)"},
}

// Redact takes secrets out of a text.
func Redact(text []byte) []byte {
	for _, s := range secrets {
		if bytes.Contains(text, []byte(s.mark)) {
			text = s.pattern.ReplaceAll(text, []byte(s.instead))
		}
	}
	return text
}

// Write runs the collectors one after the other and writes what they gather, without secrets, as a gzipped tar. What could not
// be gathered is in its place with the reason; MANIFEST lists all. The error is that of the writer or of ctx.
func Write(ctx context.Context, w io.Writer, root string, collectors []Collector) error {
	zip := gzip.NewWriter(w)
	out := tar.NewWriter(zip)
	now := time.Now()
	var manifest strings.Builder
	add := func(name string, text []byte) error {
		if text = Redact(text[:min(len(text), 2*most)]); len(text) > most {
			text = append(text[:most], "\n(cut off)\n"...)
		}
		if err := out.WriteHeader(&tar.Header{Name: root + "/" + name, Mode: 0o600, Size: int64(len(text)), ModTime: now}); err != nil {
			return err
		}
		_, err := out.Write(text)
		return err
	}
	for _, c := range collectors {
		begun := time.Now()
		text, err := collect(ctx, c)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		note := fmt.Sprintf("%d bytes", len(text))
		if err != nil {
			note = "FAILED: " + err.Error()
			text = append(text, "\ncould not be gathered: "+err.Error()+"\n"...)
		}
		fmt.Fprintf(&manifest, "%s\t%s\t%s\n", c.Name, time.Since(begun).Round(time.Millisecond), note)
		if err := add(c.Name, text); err != nil {
			return err
		}
	}
	if err := add("MANIFEST", []byte(manifest.String())); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return zip.Close()
}

func collect(ctx context.Context, c Collector) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, each)
	defer cancel()
	return c.Collect(ctx)
}
