package policy

import (
	"context"
	"log/slog"
	"sync/atomic"

	"highwire/controlplane/filewatch"
)

// File is a policy that follows its file: a new version is in force at once, a broken one never is.
type File struct {
	file    *filewatch.File
	current atomic.Pointer[Policy]
}

// Open reads the policy at path. End it with Run or Close.
func Open(path string, log *slog.Logger) (*File, error) {
	f := &File{}
	var err error
	f.file, err = filewatch.Open(path, log, func(data []byte) error {
		p, err := Parse(data)
		if err == nil {
			f.current.Store(p)
		}
		return err
	})
	return f, err
}

// Run follows the file until ctx ends.
func (f *File) Run(ctx context.Context) error { return f.file.Run(ctx) }

// Close stops following where Run never ran.
func (f *File) Close() error { return f.file.Close() }

// Check asks the version in force; see Policy.Check.
func (f *File) Check(s Subject) error { return f.current.Load().Check(s) }
