package pocketvpp

import "iter"

// pool hands out indices as VPP's pools do: the one freed last is given out first, and new ones count up from zero.
type pool[T any] struct {
	slots []slot[T]
	free  []uint32
}

type slot[T any] struct {
	value T
	used  bool
}

// add stores v and returns its index.
func (p *pool[T]) add(v T) uint32 {
	if n := len(p.free); n > 0 {
		index := p.free[n-1]
		p.free = p.free[:n-1]
		p.slots[index] = slot[T]{v, true}
		return index
	}
	p.slots = append(p.slots, slot[T]{v, true})
	return uint32(len(p.slots) - 1)
}

// get returns the value at index; ok is false where there is none.
func (p *pool[T]) get(index uint32) (v T, ok bool) {
	if uint64(index) >= uint64(len(p.slots)) {
		return v, false
	}
	return p.slots[index].value, p.slots[index].used
}

// remove frees index.
func (p *pool[T]) remove(index uint32) {
	if _, ok := p.get(index); ok {
		p.slots[index] = slot[T]{}
		p.free = append(p.free, index)
	}
}

// all walks the used indices, ascending.
func (p *pool[T]) all() iter.Seq2[uint32, T] {
	return func(yield func(uint32, T) bool) {
		for i := range p.slots {
			if p.slots[i].used && !yield(uint32(i), p.slots[i].value) {
				return
			}
		}
	}
}

// values walks what is stored, by ascending index.
func (p *pool[T]) values() iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, v := range p.all() {
			if !yield(v) {
				return
			}
		}
	}
}
