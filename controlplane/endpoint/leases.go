package endpoint

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// leaseFile keeps in a bbolt file which client has which pairs: the client's name as key, the lower addresses as value, separated by
// blanks.
type leaseFile struct{ db *bolt.DB }

var leaseBucket = []byte("leases")

// openLeases opens the file at path and makes it where there is none.
func openLeases(path string) (*leaseFile, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("leases %s: %w; does another endpoint use it?", path, err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(leaseBucket)
		return err
	})
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("leases %s: %w", path, err)
	}
	return &leaseFile{db}, nil
}

// load leaves out what cannot be read.
func (l *leaseFile) load() (map[string][]netip.Addr, error) {
	known := map[string][]netip.Addr{}
	err := l.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(leaseBucket).ForEach(func(client, value []byte) error {
			var pairs []netip.Addr
			for text := range strings.FieldsSeq(string(value)) {
				a, err := netip.ParseAddr(text)
				if err != nil {
					return nil
				}
				pairs = append(pairs, a)
			}
			known[string(client)] = pairs
			return nil
		})
	})
	return known, err
}

func (l *leaseFile) save(client string, pairs []netip.Addr) error {
	return l.db.Update(func(tx *bolt.Tx) error {
		if len(pairs) == 0 {
			return tx.Bucket(leaseBucket).Delete([]byte(client))
		}
		var value bytes.Buffer
		for _, a := range pairs {
			fmt.Fprintln(&value, a)
		}
		return tx.Bucket(leaseBucket).Put([]byte(client), value.Bytes())
	})
}

// Close lets others use the file.
func (l *leaseFile) Close() error { return l.db.Close() }
