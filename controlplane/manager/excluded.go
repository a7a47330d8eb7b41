package manager

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"

	"sigs.k8s.io/yaml"

	"highwire/controlplane/filewatch"
	"highwire/vppapi/fault"
)

// maxExcluded bounds the prefixes of a file: each Request carries them.
const maxExcluded = 512

// Excluded are prefixes that no endpoint may hand out, from a file that is followed when it changes: YAML with the key
// "prefixes", a list of CIDR (§3.8). NSM keeps the cluster's pods and services there.
type Excluded struct {
	file     *filewatch.File
	prefixes atomic.Pointer[[]string]
}

// OpenExcluded reads the file at path, which need not be there yet; its directory must (fs.ErrNotExist). End it with Run or Close.
func OpenExcluded(path string, log *slog.Logger) (*Excluded, error) {
	e := &Excluded{}
	var err error
	e.file, err = filewatch.Await(path, log, func(data []byte) error {
		list, err := parseExcluded(data)
		if err == nil {
			e.prefixes.Store(&list)
		}
		return err
	})
	return e, err
}

func parseExcluded(data []byte) ([]string, error) {
	var text struct {
		Prefixes []string `json:"prefixes"`
	}
	if err := yaml.Unmarshal(data, &text); err != nil {
		return nil, fault.New(fault.Invalid, "excluded prefixes: %w", err)
	}
	if n := len(text.Prefixes); n > maxExcluded {
		return nil, fault.New(fault.Invalid, "excluded prefixes: there are %d; the limit is %d", n, maxExcluded)
	}
	for i, s := range text.Prefixes {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fault.New(fault.Invalid, "excluded prefixes: prefixes[%d]: %w", i, err)
		}
		text.Prefixes[i] = p.Masked().String()
	}
	return text.Prefixes, nil
}

// Run follows the file until ctx ends.
func (e *Excluded) Run(ctx context.Context) error { return e.file.Run(ctx) }

// Close stops following where Run never ran.
func (e *Excluded) Close() error { return e.file.Close() }

// Prefixes are those of the file's latest good version. Never change the list.
func (e *Excluded) Prefixes() []string {
	if list := e.prefixes.Load(); list != nil {
		return *list
	}
	return nil
}
