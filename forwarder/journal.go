package forwarder

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"hash/fnv"
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
//
// Each value begins with a checksum of it and its key, and the bucket's sequence number is the checksums of all values taken
// together by exclusive or: so wrong bytes within a value are noticed, and also that a value is missing.
type journal struct {
	db *bbolt.DB
}

var vwires = []byte("vwires")

// openJournal opens or makes the file and returns what it holds. A damaged file is set aside under a name of its own and told
// in the log; values that can still be vouched for begin the new one. For the others the agent goes on with what VPP and the
// clients' refreshes give it.
func openJournal(path string, log *slog.Logger) (*journal, []VWire, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, nil, fmt.Errorf("journal: %w", err)
	}
	j, f, err := readJournal(path)
	switch {
	case err == nil && f.damage == nil:
		return j, f.list, nil
	case err == nil:
		err = f.damage
		old := j
		defer func() { _ = old.close() }() // and its lock, once there is a new one
	case errors.Is(err, bbolterrors.ErrTimeout):
		return nil, nil, fault.New(fault.Conflict, "journal %s is in use: is another agent running with the same --data directory?", path)
	case errors.Is(err, fs.ErrPermission):
		return nil, nil, fault.New(fault.Denied, "journal: %w", err)
	}
	aside := fmt.Sprintf("%s.corrupt-%d", path, time.Now().Unix())
	if e := os.Rename(path, aside); e != nil {
		return nil, nil, fmt.Errorf("journal %s cannot be read (%w) nor set aside: %w", path, err, e)
	}
	log.Error("the journal is damaged and was set aside; vWires that are missing now come back with their clients' refreshes",
		"reason", err, "file", aside, "kept", len(f.list))
	j, _, err = readJournal(path)
	if err != nil {
		return nil, nil, fmt.Errorf("journal: %w", err)
	}
	kept := make(map[string]*VWire)
	for _, v := range f.list {
		kept[v.ID] = &v
	}
	if err := j.write(kept); err != nil {
		return nil, nil, errors.Join(err, j.close())
	}
	return j, f.list, nil
}

// found is what a journal holds.
type found struct {
	list []VWire
	sum  uint64 // of their checksums
	// damage says what is wrong with the rest.
	damage error
}

func (f *found) add(key, value []byte) {
	var v VWire
	sum, data, err := unseal(key, value)
	if err == nil {
		if err = json.Unmarshal(data, &v); err == nil && v.ID != string(key) {
			err = fmt.Errorf("it says it is %.60q", v.ID)
		}
	}
	if err != nil {
		f.damage = errors.Join(f.damage, fmt.Errorf("vWire %.60q: %w", key, err))
		return
	}
	f.list, f.sum = append(f.list, v), f.sum^sum
}

var polynomial = crc64.MakeTable(crc64.ECMA)

const sumBytes = 8

func checksum(key, data []byte) uint64 {
	return crc64.Update(crc64.Checksum(key, polynomial), polynomial, data)
}

// seal makes the value of a key out of its data.
func seal(key, data []byte) (value []byte, sum uint64) {
	sum = checksum(key, data)
	return append(binary.BigEndian.AppendUint64(nil, sum), data...), sum
}

func unseal(key, value []byte) (sum uint64, data []byte, err error) {
	if len(value) < sumBytes {
		return 0, nil, fmt.Errorf("%d bytes, no checksum", len(value))
	}
	sum, data = binary.BigEndian.Uint64(value), value[sumBytes:]
	if checksum(key, data) != sum {
		return 0, nil, errors.New("wrong checksum")
	}
	return sum, data, nil
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

// readJournal makes a journal of a file that is empty or not there. What could be read without doubt is returned also when the
// file is of no more use. After a panic bbolt may hold locks of its own and is left alone.
func readJournal(path string) (j *journal, f found, err error) {
	st, err := os.Stat(path)
	fresh := err != nil || st.Size() == 0
	err = survive(func() error {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 2 * time.Second, FreelistType: bbolt.FreelistMapType})
		if err != nil {
			return err
		}
		if !fresh {
			var all found
			if err = db.View(all.read); err == nil {
				f = all
			}
		}
		if err == nil && f.damage == nil {
			// Writing shows whether the list of free pages makes sense.
			err = db.Update(func(tx *bbolt.Tx) error {
				b, err := tx.CreateBucketIfNotExists(vwires)
				if err != nil {
					return err
				}
				return b.SetSequence(f.sum)
			})
		}
		if err != nil {
			return errors.Join(err, db.Close())
		}
		j = &journal{db}
		return nil
	})
	if err != nil {
		return nil, f, fmt.Errorf("open %s: %w", path, err)
	}
	return j, f, nil
}

// read takes everything there is.
func (f *found) read(tx *bbolt.Tx) error {
	if err := checkPages(tx); err != nil {
		return err
	}
	f.damage = checkMeta(tx)
	b := tx.Bucket(vwires)
	if b == nil {
		return errors.New("it holds something else")
	}
	err := b.ForEach(func(k, value []byte) error {
		f.add(k, value)
		return nil
	})
	if f.damage == nil && f.sum != b.Sequence() {
		f.damage = errors.New("a value is missing")
	}
	return err
}

// checkMeta finds damage in the two pages of which the newer one that is whole tells where all others are: with the newest
// damaged, bbolt goes back one change and says nothing.
func checkMeta(tx *bbolt.Tx) error {
	const header, length = 16, 56 // of the page and of what the checksum is taken of
	file, err := os.Open(tx.DB().Path())
	if err != nil {
		return err
	}
	defer file.Close()
	for i := range 2 {
		var b [header + length + 8]byte
		if _, err := file.ReadAt(b[:], int64(i*tx.DB().Info().PageSize)); err != nil {
			return err
		}
		sum := fnv.New64a()
		_, _ = sum.Write(b[header : header+length]) // never fails
		if sum.Sum64() != binary.NativeEndian.Uint64(b[header+length:]) {
			return fmt.Errorf("page %d, and perhaps the last change, is damaged", i)
		}
	}
	return nil
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
			total := b.Sequence()
			for id, v := range changes {
				key := []byte(id)
				if old := b.Get(key); len(old) >= sumBytes {
					total ^= binary.BigEndian.Uint64(old)
				}
				if v == nil {
					if err := b.Delete(key); err != nil {
						return err
					}
					continue
				}
				data, err := json.Marshal(v)
				if err != nil {
					return err
				}
				value, sum := seal(key, data)
				total ^= sum
				if err := b.Put(key, value); err != nil {
					return err
				}
			}
			return b.SetSequence(total)
		})
	})
	if err != nil {
		return fault.New(fault.Unavailable, "write the journal: %w", err)
	}
	return nil
}

func (j *journal) close() error { return j.db.Close() }
