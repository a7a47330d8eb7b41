package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
)

// TestKindOf: the outermost kind counts, and what others have made has the kind it deserves.
func TestKindOf(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	for _, c := range []struct {
		err  error
		kind Kind
	}{
		{cause, Internal},
		{New(NotFound, "no %s", "x"), NotFound},
		{fmt.Errorf("where: %w", New(Denied, "x")), Denied},
		{New(Unavailable, "outer: %w", New(Invalid, "inner")), Unavailable},
		{errors.Join(cause, New(Conflict, "x")), Conflict},
		{Wrap(Exhausted, cause), Exhausted},
		{context.DeadlineExceeded, Timeout},
		{fmt.Errorf("where: %w", context.Canceled), Canceled},
		{Wrap(Unavailable, context.DeadlineExceeded), Unavailable},
		{&os.PathError{Op: "open", Path: "x", Err: os.ErrPermission}, Denied},
		{os.ErrNotExist, Internal},
	} {
		if k := KindOf(c.err); k != c.kind || !Is(c.err, c.kind) || Is(c.err, c.kind+1) {
			t.Errorf("%v: %v, want %v", c.err, k, c.kind)
		}
	}
	if k := KindOr(cause, Unavailable); k != Unavailable {
		t.Errorf("unclassified or %v: %v", Unavailable, k)
	}
	if k := KindOr(context.Canceled, Unavailable); k != Canceled {
		t.Errorf("canceled or %v: %v", Unavailable, k)
	}
	if Wrap(Invalid, nil) != nil || Is(nil, Internal) {
		t.Error("no error has no kind")
	}
	if w := Wrap(Invalid, cause); !errors.Is(w, cause) || w.Error() != "cause" {
		t.Errorf("%v", w)
	}
	if w := New(Invalid, "more: %w", cause); !errors.Is(w, cause) || w.Error() != "more: cause" {
		t.Errorf("%v", w)
	}
	for k, want := range map[Kind]string{Internal: "internal", Canceled: "canceled", -1: "kind -1", 99: "kind 99"} {
		if k.String() != want {
			t.Errorf("%d is %q", int(k), k)
		}
	}
}
