package filewatch

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"highwire/vppapi/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A file is followed however it is changed: in place, by another one put there, by a link set anew as Kubernetes does it.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f.yaml")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("f.yaml", "one")
	loaded := make(chan string, 100)
	f, err := Open(path, slog.New(slog.DiscardHandler), func(data []byte) error {
		if string(data) == "broken" {
			return errors.New("broken")
		}
		loaded <- string(data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	want := func(text string) {
		t.Helper()
		late := time.After(30 * time.Second)
		for {
			select {
			case got := <-loaded:
				if got == text {
					return
				}
				// Written in place, a file is empty for a moment.
				if got != "" {
					t.Fatalf("loaded %q, want %q", got, text)
				}
			case <-late:
				t.Fatalf("%q was not loaded", text)
			}
		}
	}
	want("one")
	write("f.yaml", "two")
	want("two")
	write("f.yaml", "broken")
	write("new", "three")
	if err := os.Rename(filepath.Join(dir, "new"), path); err != nil {
		t.Fatal(err)
	}
	want("three")
	write("target", "four")
	if err := errors.Join(os.Symlink("target", filepath.Join(dir, "link")), os.Rename(filepath.Join(dir, "link"), path)); err != nil {
		t.Fatal(err)
	}
	want("four")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write("f.yaml", "five")
	want("five")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestOpenErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	load := func([]byte) error { return fault.New(fault.Invalid, "no") }
	for _, p := range []string{path, filepath.Join(path, "below", "f")} {
		if _, err := Open(p, slog.New(slog.DiscardHandler), load); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is not there: %v", p, err)
		}
	}
	if f, err := Await(path, slog.New(slog.DiscardHandler), load); err != nil || f.Close() != nil {
		t.Errorf("it may come later: %v", err)
	}
	if _, err := Await(filepath.Join(path, "below"), slog.New(slog.DiscardHandler), load); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory is not there: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, slog.New(slog.DiscardHandler), load); !fault.Is(err, fault.Invalid) {
		t.Errorf("it is refused: %v", err)
	}
	f, err := Open(path, slog.New(slog.DiscardHandler), func([]byte) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
