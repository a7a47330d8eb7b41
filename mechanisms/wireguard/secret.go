package wireguard

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"highwire/vppapi/fault"
)

// LoadSecret reads the node's secret, or makes one, mode 0600. A file that others may read or that holds anything else is
// fault.Denied or fault.Invalid: with a new secret every far side would have to be told new keys, so that is left to people.
func LoadSecret(path string) (Secret, error) {
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return makeSecret(path)
	case err != nil:
		return Secret{}, fmt.Errorf("WireGuard secret: %w", err)
	case len(data) != secretLen:
		return Secret{}, fault.New(fault.Invalid, "WireGuard secret %s has %d bytes: want %d; remove it to get a new one, and all tunnels new keys", path, len(data), secretLen)
	}
	st, err := os.Stat(path)
	if err == nil && st.Mode().Perm()&0o077 != 0 {
		err = fault.New(fault.Denied, "WireGuard secret %s has mode %04o: others may have read it; remove it to get a new one", path, st.Mode().Perm())
	}
	return NewSecret([secretLen]byte(data)), err
}

const secretLen = 32

// makeSecret writes it under another name first, so that a crash leaves none or a whole one.
func makeSecret(path string) (Secret, error) {
	var data [secretLen]byte
	_, _ = rand.Read(data[:]) // never fails
	fresh := path + "~"
	_ = os.Remove(fresh)
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Secret{}, fmt.Errorf("WireGuard secret: %w", err)
	}
	_, err = f.Write(data[:])
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return Secret{}, fmt.Errorf("WireGuard secret: %w", err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return Secret{}, fmt.Errorf("WireGuard secret: %w", err)
	}
	return NewSecret(data), nil
}
