package memif

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"highwire/vppapi"
)

// File is a socket that VPP listens on and that is a file: VPP makes it, also over one that nobody uses any more, but leaves it
// when it is done.
type File struct {
	end, path string
}

// Key is {link, "<end> socket"}.
func (f File) Key() vppapi.Key { return vppapi.Key{Kind: vppapi.KindLink, Name: f.end + " socket"} }

// Uses nothing.
func (f File) Uses() []vppapi.Key { return nil }

func (f File) String() string { return "socket file " + f.path }

// Realize has nothing to do.
func (f File) Realize(context.Context) (bool, error) { return false, nil }

// Release removes the file, if it is a socket.
func (f File) Release(context.Context) error {
	st, err := os.Lstat(f.path)
	if err == nil && st.Mode().Type() == fs.ModeSocket {
		err = os.Remove(f.path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove memif socket: %w", err)
	}
	return nil
}
