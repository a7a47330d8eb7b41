package names

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// cache keeps results while they hold. The one used least recently goes when it is full.
type cache struct {
	clock func() time.Time
	size  int

	mu      sync.Mutex
	entries map[question]*list.Element
	recent  list.List // of *entry, the latest first
}

type entry struct {
	question
	result
	from, until time.Time
}

// maxEntry is how large an answer may be to be kept, in bytes on the wire.
const maxEntry = 4096

func newCache(size int, clock func() time.Time) *cache {
	return &cache{clock: clock, size: size, entries: map[question]*list.Element{}}
}

// get is what is known about a question; its records' time is what is left of it.
func (c *cache) get(q question) (result, bool) {
	c.mu.Lock()
	e, ok := c.find(q)
	c.mu.Unlock()
	if !ok {
		return result{}, false
	}
	r, age := e.result, uint32(c.clock().Sub(e.from)/time.Second)
	r.records = make([]dns.RR, len(e.records))
	for i, rr := range e.records {
		r.records[i] = dns.Copy(rr)
		r.records[i].Header().Ttl -= min(age, rr.Header().Ttl)
	}
	if e.soa != nil {
		r.soa = dns.Copy(e.soa).(*dns.SOA)
		r.soa.Hdr.Ttl = e.ttl() - min(age, e.ttl())
	}
	return r, true
}

// find runs under the lock.
func (c *cache) find(q question) (*entry, bool) {
	at, ok := c.entries[q]
	if !ok {
		return nil, false
	}
	e := at.Value.(*entry)
	if !c.clock().Before(e.until) {
		c.remove(at)
		return nil, false
	}
	c.recent.MoveToFront(at)
	return e, true
}

// put keeps a result as long as it holds; nobody may change it any more.
func (c *cache) put(q question, r result) {
	holds := time.Duration(r.ttl()) * time.Second
	if holds == 0 || (&dns.Msg{Answer: r.records}).Len() > maxEntry {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.entries[q]; ok {
		c.remove(old)
	}
	if c.recent.Len() == c.size {
		c.remove(c.recent.Back())
	}
	now := c.clock()
	c.entries[q] = c.recent.PushFront(&entry{q, r, now, now.Add(holds)})
}

func (c *cache) remove(at *list.Element) {
	c.recent.Remove(at)
	delete(c.entries, at.Value.(*entry).question)
}
