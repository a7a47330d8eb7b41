// Package fault gives every error of highwire a kind that survives wrapping.
//
// A layer that finds the cause names the kind; the layers above add where and what to do with fmt.Errorf and %w.
// Only controlplane/server turns a kind into a gRPC code, so the mapping stands in one place.
package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Kind classifies an error by what its receiver can do about it.
type Kind int

const (
	// Internal is the kind of an error nobody classified: a defect of ours or an unforeseen answer.
	Internal Kind = iota
	// Invalid is input that can never succeed as it is.
	Invalid
	// NotFound is a thing named by the caller that does not exist.
	NotFound
	// Conflict is a name or resource that somebody else holds.
	Conflict
	// Denied is a caller without the right to do this.
	Denied
	// Exhausted is a limit reached; the text says which and its value.
	Exhausted
	// Unavailable is a part that does not answer now; trying again later can succeed.
	Unavailable
	// Timeout is work that was not finished before its deadline.
	Timeout
	// Canceled is work whose caller gave up.
	Canceled
)

var names = [...]string{"internal", "invalid", "not found", "conflict", "denied", "exhausted", "unavailable", "timeout", "canceled"}

// String names the kind in lower case.
func (k Kind) String() string {
	if k < 0 || int(k) >= len(names) {
		return fmt.Sprintf("kind %d", int(k))
	}
	return names[k]
}

type fault struct {
	kind Kind
	err  error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// New makes an error of the kind; format and args are those of fmt.Errorf, %w included.
func New(kind Kind, format string, args ...any) error {
	return &fault{kind, fmt.Errorf(format, args...)}
}

// Wrap gives err a kind without changing its text. A nil err stays nil.
func Wrap(kind Kind, err error) error {
	if err == nil {
		return nil
	}
	return &fault{kind, err}
}

// KindOf returns the outermost kind in err's chain. Errors of context and of file permissions have theirs without being
// wrapped; what nobody classified is Internal.
func KindOf(err error) Kind {
	var f *fault
	switch {
	case errors.As(err, &f):
		return f.kind
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, os.ErrPermission):
		return Denied
	}
	return Internal
}

// KindOr is KindOf, and other for what nobody classified.
func KindOr(err error, other Kind) Kind {
	if kind := KindOf(err); kind != Internal {
		return kind
	}
	return other
}

// Is tells whether err is of the kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }
