package main

import (
	"context"
	"errors"
	"slices"
	"testing"
)

func TestParts(t *testing.T) {
	boom := errors.New("boom")
	for _, c := range []struct {
		name string
		fail error
		want error
	}{{"stopped from outside", nil, nil}, {"a part fails", boom, boom}} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			p := newParts(ctx)
			var ended []string
			for _, name := range []string{"first", "second"} {
				p.run(name, func(ctx context.Context) error {
					<-ctx.Done()
					ended = append(ended, name)
					return ctx.Err()
				})
			}
			p.onStop(func() { ended = append(ended, "done") })
			p.run("third", func(ctx context.Context) error {
				if c.fail != nil {
					return c.fail
				}
				cancel()
				<-ctx.Done()
				ended = append(ended, "third")
				return ctx.Err()
			})
			if err := p.wait(); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			want := []string{"third", "done", "second", "first"}
			if c.fail != nil {
				want = want[1:]
			}
			if !slices.Equal(ended, want) {
				t.Errorf("ended %v, want %v", ended, want)
			}
		})
	}
}
