package pocketvpp

import (
	"reflect"
	"strings"
	"testing"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T any](t testing.TB, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) && !(reflect.ValueOf(got).Kind() == reflect.Slice && reflect.ValueOf(got).Len()+reflect.ValueOf(want).Len() == 0) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

func values[T any](pointers []*T) (all []T) {
	for _, p := range pointers {
		all = append(all, *p)
	}
	return all
}

func contains(s, part string) bool { return strings.Contains(s, part) }
