package forwarder

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

func TestEvents(t *testing.T) {
	t.Parallel()
	var none *Events
	none.Add(Event{})
	if list, _ := none.Since(0, ""); list != nil || none.Last() != 0 {
		t.Error("no memory remembers")
	}
	e := NewEvents()
	for i := range kept + 10 {
		e.Add(Event{Kind: Changed, VWire: fmt.Sprint("w", i%2), Took: 1})
	}
	all, more := e.Since(0, "")
	if len(all) != kept || all[0].Seq != 11 || all[kept-1].Seq != kept+10 || all[0].Time.IsZero() {
		t.Errorf("%d events from %d on", len(all), all[0].Seq)
	}
	if one, _ := e.Since(kept, "w1"); len(one) != 5 || one[0].VWire != "w1" {
		t.Errorf("of one vWire: %+v", one)
	}
	heard := 0
	e.Listen(func(Event) { heard++ })
	if heard != kept {
		t.Errorf("%d remembered events heard", heard)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	last := e.Last()
	followed, done := make(chan uint64), make(chan error)
	go func() {
		done <- e.Follow(ctx, last, "w0", func(x Event) error { followed <- x.Seq; return nil })
	}()
	for range 3 {
		e.Add(Event{VWire: "w1"})
		e.Add(Event{VWire: "w0"})
		if seq := <-followed; seq != last+2 {
			t.Errorf("followed %d, want %d", seq, last+2)
		}
		last += 2
	}
	<-more
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
