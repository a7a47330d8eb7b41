package forwarder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"highwire/vppapi/fault"
)

// journal keeps the desired vWires on disk. A write is durable when it returns.
type journal struct {
	db *bbolt.DB
}

var vwires = []byte("vwires")

// openJournal opens or makes the file and returns what it holds. A file that cannot be read is set aside under a name of
// its own and told in the log; the agent then goes on with what VPP and the clients' refreshes give it.
func openJournal(path string, log *slog.Logger) (*journal, []VWire, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, nil, fmt.Errorf("journal: %w", err)
	}
	j, list, err := readJournal(path)
	switch {
	case err == nil:
		return j, list, nil
	case errors.Is(err, bbolterrors.ErrTimeout):
		return nil, nil, fault.New(fault.Conflict, "journal %s is in use: is another agent running with the same --data directory?", path)
	case errors.Is(err, fs.ErrPermission):
		return nil, nil, fault.New(fault.Denied, "journal: %w", err)
	}
	aside := fmt.Sprintf("%s.corrupt-%d", path, time.Now().Unix())
	if e := os.Rename(path, aside); e != nil {
		return nil, nil, fmt.Errorf("journal %s cannot be read (%w) nor set aside: %w", path, err, e)
	}
	log.Error("the journal cannot be read and was set aside; vWires come back with their clients' refreshes", "reason", err, "file", aside)
	j, list, err = readJournal(path)
	if err != nil {
		return nil, nil, fmt.Errorf("journal: %w", err)
	}
	return j, list, nil
}

// survive turns what bbolt does with a damaged file into an error. It panics on pages that make no sense, and as it maps the
// file, it faults on those that are promised but not there; without SetPanicOnFault a fault ends the process.
func survive(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("damaged: %v", r)
		}
	}()
	return fn()
}

// readJournal changes nothing in a file that holds a journal. After a panic bbolt may hold locks of its own and is left alone.
func readJournal(path string) (j *journal, list []VWire, err error) {
	err = survive(func() error {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 2 * time.Second, FreelistType: bbolt.FreelistMapType})
		if err != nil {
			return err
		}
		fresh := false
		err = db.View(func(tx *bbolt.Tx) error {
			if err := checkPages(tx); err != nil {
				return err
			}
			b := tx.Bucket(vwires)
			if fresh = b == nil; fresh {
				return nil
			}
			return b.ForEach(func(k, data []byte) error {
				var v VWire
				if err := json.Unmarshal(data, &v); err != nil {
					return fmt.Errorf("vWire %q: %w", k, err)
				}
				list = append(list, v)
				return nil
			})
		})
		if err == nil && fresh {
			err = db.Update(func(tx *bbolt.Tx) error {
				_, err := tx.CreateBucket(vwires)
				return err
			})
		}
		if err != nil {
			return errors.Join(err, db.Close())
		}
		j = &journal{db}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("open %s: %w", path, err)
	}
	return j, list, nil
}

// checkPages refuses a file with a page that claims to reach beyond the end: bbolt would count its parts, billions perhaps,
// when it frees it.
func checkPages(tx *bbolt.Tx) error {
	end := int(tx.Size()) / tx.DB().Info().PageSize
	for id := 0; id < end; id++ {
		p, err := tx.Page(id)
		if err != nil {
			return err
		}
		if p.Type == "free" {
			continue // what it says is of old
		}
		if p.OverflowCount >= end-id {
			return fmt.Errorf("page %d of %d claims %d more", id, end, p.OverflowCount)
		}
		id += p.OverflowCount
	}
	return nil
}

// write puts and deletes in one transaction. A nil value deletes.
func (j *journal) write(changes map[string]*VWire) error {
	if len(changes) == 0 {
		return nil
	}
	err := survive(func() error {
		return j.db.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket(vwires)
			for id, v := range changes {
				if v == nil {
					if err := b.Delete([]byte(id)); err != nil {
						return err
					}
					continue
				}
				data, err := json.Marshal(v)
				if err != nil {
					return err
				}
				if err := b.Put([]byte(id), data); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return fault.New(fault.Unavailable, "write the journal: %w", err)
	}
	return nil
}

func (j *journal) close() error { return j.db.Close() }
