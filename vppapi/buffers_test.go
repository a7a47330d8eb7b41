package vppapi

import "testing"

func TestRingBuffers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		o       Object
		workers int
		want    int
	}{
		"tap":                 {Tap{}, 0, 1024},
		"tap, two workers":    {Tap{}, 2, 2048},
		"tap, one queue":      {Tap{Queues: 1}, 4, 1024},
		"memif master":        {Memif{Master: true, RingSize: 1024, Queues: 1}, 0, 0},
		"memif slave, copies": {Memif{RingSize: 1024, Queues: 1}, 0, 0},
		"memif slave":         {Memif{RingSize: 512, Queues: 2, ZeroCopy: true}, 0, 2048},
		"af_packet":           {AFPacket{}, 0, 0},
		"tag":                 {Tag{}, 0, 0},
	} {
		if got := RingBuffers(c.o, c.workers); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestParseBuffers(t *testing.T) {
	t.Parallel()
	const text = `Pool Name            Index NUMA  Size  Data Size  Total  Avail  Cached   Used  
default-numa-0         0     0   2304     2048    5978   5000      70    908   
default-numa-1         1     1   2304     2048    4000   3000       0   1000   
`
	for name, c := range map[string]struct {
		text        string
		total, free int
	}{"two": {text, 4000, 3000}, "one": {text[:160], 5978, 5070}, "none": {"", 0, 0}, "garbage": {"a b c d e f g h i\n", 0, 0}} {
		if total, free := parseBuffers(c.text); total != c.total || free != c.free {
			t.Errorf("%s: %d, %d", name, total, free)
		}
	}
}
