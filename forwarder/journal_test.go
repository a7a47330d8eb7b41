package forwarder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

var quiet = slog.New(slog.DiscardHandler)

// wires are n of them for a journal.
func wires(n int) map[string]*VWire {
	m := make(map[string]*VWire)
	for i := range n {
		id := fmt.Sprintf("w%03d", i)
		end := mechanisms.End{VWire: id, Type: mechanisms.Kernel, Payload: mechanisms.IP, Params: map[string]string{mechanisms.ParamName: "nsm-1"}}
		m[id] = &VWire{ID: id, Client: end, Endpoint: end, Record: bytes.Repeat([]byte{byte(i)}, 100)}
	}
	return m
}

// journalOf are the bytes of a journal that holds the vWires.
func journalOf(t *testing.T, vwires map[string]*VWire) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	j, list, err := openJournal(path, quiet)
	if err != nil || len(list) > 0 {
		t.Fatal(list, err)
	}
	for id, v := range vwires { // one by one, so that pages are freed and used again
		if err := j.write(map[string]*VWire{id: v}); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestJournal gives back what it was given, in the file's mode.
func TestJournal(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sub", "journal")
	want := wires(20)
	for round := range 3 {
		j, list, err := openJournal(path, quiet)
		if err != nil {
			t.Fatal(err)
		}
		if round > 0 && len(list) != len(want) {
			t.Errorf("round %d: %d vWires, want %d", round, len(list), len(want))
		}
		for _, v := range list {
			if w := want[v.ID]; w == nil || !v.same(*w) {
				t.Errorf("round %d: %+v, want %+v", round, v, w)
			}
		}
		changes := want
		if round == 1 {
			delete(want, "w007")
			changes = map[string]*VWire{"w007": nil, "never": nil}
		}
		if err := j.write(changes); err != nil {
			t.Fatal(err)
		}
		if err := j.close(); err != nil {
			t.Fatal(err)
		}
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

// damaged opens a journal of these bytes and checks that the agent survives them, whatever they are.
func damaged(t *testing.T, data []byte) (list []VWire, aside bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	j, list, err := openJournal(path, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(path + ".corrupt-*")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) > 0 {
		kept, err := os.ReadFile(files[0])
		if err != nil || len(kept) < len(data) || !strings.Contains(log.String(), files[0]) {
			t.Errorf("set aside as %s: %d of %d bytes, %v; log %s", files[0], len(kept), len(data), err, &log)
		}
		if err := j.write(wires(3)); err != nil {
			t.Errorf("the new one cannot be written: %v", err)
		}
	}
	if err := j.close(); err != nil {
		t.Error(err)
	}
	return list, len(files) > 0
}

// TestDamagedValue: wrong bytes within a value cost that vWire only, and a copy is set aside; one that is missing is noticed.
func TestDamagedValue(t *testing.T) {
	t.Parallel()
	want := wires(20)
	for name, change := range map[string][2]string{
		"its name": {`"ID":"w007"`, `"ID":"w008"`}, "syntax": {`{"ID":"w007"`, `["ID":"w007"`}, "a parameter": {`nsm-1`, `nsm-2`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad := journalOf(t, want)
			// Pages of old may hold it too.
			for at := 0; ; {
				i := bytes.Index(bad[at:], []byte(`{"ID":"w007"`))
				if i < 0 {
					break
				}
				at += i
				copy(bad[at:], bytes.Replace(bad[at:], []byte(change[0]), []byte(change[1]), 1))
				at++
			}
			list, aside := damaged(t, bad)
			if !aside {
				t.Fatal("not noticed")
			}
			for _, v := range list {
				if w := want[v.ID]; w == nil || !v.same(*w) {
					t.Errorf("believed: %+v, want %+v", v, w)
				}
			}
			if len(list) != len(want)-1 {
				t.Errorf("%d vWires kept of %d", len(list), len(want))
			}
		})
	}
	path := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(path, journalOf(t, want), 0o600); err != nil {
		t.Fatal(err)
	}
	j, _, err := openJournal(path, quiet)
	if err == nil {
		err = errors.Join(j.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(vwires).Delete([]byte("w003")) }), j.close())
	}
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if list, aside := damaged(t, data); !aside || len(list) != len(want)-1 {
		t.Errorf("a missing value: set aside %v, %d kept", aside, len(list))
	}
}

// TestTornJournal: a file cut off anywhere is read completely or set aside.
func TestTornJournal(t *testing.T) {
	t.Parallel()
	want := wires(50)
	data := journalOf(t, want)
	page := os.Getpagesize()
	cuts := []int{0, 1, 15, 16, 17, 100, len(data) - 1, len(data)}
	for at := page; at < len(data); at += page {
		cuts = append(cuts, at-1, at, at+1, at+page/2)
	}
	for _, at := range cuts {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			at := min(at, len(data))
			list, aside := damaged(t, data[:at])
			if !aside && at > 0 && len(list) != len(want) {
				t.Errorf("cut after %d of %d bytes: %d vWires of %d, and not set aside", at, len(data), len(list), len(want))
			}
			if at == len(data) && aside {
				t.Error("a whole file is set aside")
			}
		})
	}
}

// TestJournalInUse: of two agents on one journal the second is told.
func TestJournalInUse(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	j, _, err := openJournal(path, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Journal: path}); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v: %v", fault.KindOf(err), err)
	}
	if err := j.close(); err != nil {
		t.Error(err)
	}
	j, _, err = openJournal(path, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.close(); err != nil {
		t.Error(err)
	}
}

// TestJournalDenied: a directory or a file without permission is told as such, and the file is not set aside.
func TestJournalDenied(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, closed := filepath.Join(dir, "journal"), filepath.Join(dir, "closed")
	if err := os.WriteFile(file, nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(closed, 0o500); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"file": file, "directory": filepath.Join(closed, "journal"), "above": filepath.Join(closed, "sub", "journal")} {
		done := make(chan error)
		go func() {
			// Root may do everything; a thread without that right may not. It ends with this goroutine.
			runtime.LockOSThread()
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var none [2]unix.CapUserData
			if err := unix.Capset(&header, &none[0]); err != nil {
				done <- err
				return
			}
			j, _, err := openJournal(path, quiet)
			if err == nil {
				_ = j.close()
			}
			done <- err
		}()
		if err := <-done; !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), path) && !strings.Contains(err.Error(), closed) {
			t.Errorf("%s: %v: %v", name, fault.KindOf(err), err)
		}
	}
	if files, _ := filepath.Glob(file + ".corrupt*"); len(files) > 0 {
		t.Errorf("set aside: %q", files)
	}
}

// TestJournalUnrestorable: what cannot be built again is forgotten, for whatever is named like that later is something else.
func TestJournalUnrestorable(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(path, journalOf(t, wires(3)), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, err := New(Config{Journal: path, Dialer: vppapi.Dialer{Socket: filepath.Join(t.TempDir(), "none")}})
	if err != nil {
		t.Fatal(err)
	}
	if list := r.List(); len(list) > 0 {
		t.Errorf("restored without a mechanism: %v", list)
	}
	_ = r.Run(ctx)
	j, list, err := openJournal(path, quiet)
	if err != nil || len(list) > 0 {
		t.Errorf("%d vWires are in the journal for ever, %v", len(list), err)
	}
	_ = j.close()
}
