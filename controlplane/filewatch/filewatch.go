// Package filewatch follows small files that an operator changes while the agent runs.
package filewatch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"

	"highwire/vppapi/fault"
)

// File is a file that is read whenever it changes.
type File struct {
	path    string
	load    func([]byte) error
	log     *slog.Logger
	watcher *fsnotify.Watcher
	data    []byte // as read last, good or not
}

// Open hands the file at path to load, which keeps what it makes of it, and fails if load does. Run then hands over every later
// version; one that load refuses is told in the log and changes nothing. End with Run or Close.
func Open(path string, log *slog.Logger, load func(data []byte) error) (*File, error) {
	return open(path, log, load, false)
}

// Await is Open for a file that need not be there yet; its directory must.
func Await(path string, log *slog.Logger, load func(data []byte) error) (*File, error) {
	return open(path, log, load, true)
}

func open(path string, log *slog.Logger, load func(data []byte) error, later bool) (*File, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	f := &File{path: path, load: load, log: log.With("file", path)}
	if f.watcher, err = fsnotify.NewWatcher(); err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	// The directory is watched, from before the file is read: editors and Kubernetes put another file in its place.
	if err = f.watcher.Add(filepath.Dir(path)); err == nil {
		f.data, err = os.ReadFile(path)
		if err == nil {
			err = load(f.data)
		} else if later && errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		_ = f.watcher.Close()
		return nil, fault.New(fault.KindOf(err), "%s: %w", path, err)
	}
	return f, nil
}

// Run follows the file until ctx ends.
func (f *File) Run(ctx context.Context) error {
	defer f.watcher.Close()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-f.watcher.Errors:
			f.log.Warn("a change may have been missed", "reason", err)
		case <-f.watcher.Events:
			f.read()
		}
	}
}

// read loads the file's present version where it is a new one.
func (f *File) read() {
	data, err := os.ReadFile(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return // it is being replaced, or was removed: what it said stays
	case err == nil && bytes.Equal(data, f.data):
		return
	case err == nil:
		f.data = data
		err = f.load(data)
	}
	if err != nil {
		f.log.Error("the new version is refused, the one before it stays in force", "reason", err)
		return
	}
	f.log.Info("the new version is in force")
}

// Close stops watching where Run never ran.
func (f *File) Close() error { return f.watcher.Close() }
