package webhook

import (
	"strings"

	"gomodules.xyz/jsonpatch/v2"
)

// patch is a JSON Patch (RFC 6902) that grows.
type patch []jsonpatch.Operation

func (p *patch) add(path string, value any) {
	*p = append(*p, jsonpatch.NewOperation("add", path, value))
}

func (p *patch) remove(path string) {
	*p = append(*p, jsonpatch.NewOperation("remove", path, nil))
}

// key adds a member to an object that may be missing; has tells whether it was there before this patch.
func (p *patch) key(object string, has *bool, key string, value any) {
	if !*has {
		p.add(object, map[string]any{})
		*has = true
	}
	p.add(object+"/"+escape(key), value)
}

// escape makes a name a part of a JSON Pointer (RFC 6901).
func escape(s string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(s) }
