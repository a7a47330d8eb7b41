//go:build !race

// With the race detector comes a check of unsafe pointers that ends the process where bbolt trusts a length in a damaged
// page; without it, the same damage is an error.

package forwarder

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"
)

// TestFlippedJournal: wrong bytes anywhere do not end the agent, and nothing wrong is believed.
func TestFlippedJournal(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	want := wires(30)
	data := journalOf(t, want)
	for n := range 150 {
		bad := bytes.Clone(data)
		for range 1 + r.IntN(4) {
			at := r.IntN(len(bad))
			if n%2 == 0 { // heads of pages
				at = at/os.Getpagesize()*os.Getpagesize() + r.IntN(80)
			}
			bad[at] ^= byte(1 + r.IntN(255))
		}
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			list, aside := damaged(t, bad)
			for _, v := range list {
				if w := want[v.ID]; w == nil || !v.same(*w) {
					t.Errorf("believed: %+v, want %+v", v, w)
				}
			}
			if !aside && len(list) != len(want) {
				t.Errorf("%d vWires of %d, and nothing set aside", len(list), len(want))
			}
		})
	}
}
