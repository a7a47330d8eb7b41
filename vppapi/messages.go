package vppapi

import (
	"bytes"
	"encoding/json"
	"strings"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/interface_types"
)

// Messages are what it takes to make an object, or to remove it: messages of VPP's binary API with their fields as JSON, one a
// line, without secrets. An index that VPP is yet to give shows as 4294967295. What the kernel holds takes none. An object that
// cannot be made says why.
func Messages(o Object, create bool, have Realized) []string {
	h, ok := o.(held)
	if !ok {
		return nil
	}
	at := func(k Key) (interface_types.InterfaceIndex, error) {
		if _, exists := have[k]; !exists && k.Kind == KindInterface {
			return every, nil
		}
		return have.at(k)
	}
	build := h.remove
	if create {
		build = h.create
	}
	calls, err := build(at)
	if err != nil {
		return []string{"none: " + err.Error()}
	}
	lines := make([]string, len(calls))
	for i, c := range calls {
		lines[i] = c.req.GetMessageName() + " " + fields(c.req)
	}
	return lines
}

// fields are a message's, as JSON.
func fields(m api.Message) string {
	text, err := json.Marshal(m)
	if err != nil {
		return err.Error()
	}
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		return err.Error()
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(withoutSecrets(tree)); err != nil {
		return err.Error()
	}
	return strings.TrimSpace(out.String())
}

func withoutSecrets(tree any) any {
	switch v := tree.(type) {
	case map[string]any:
		for name, value := range v {
			if strings.Contains(name, "private") || strings.Contains(name, "secret") || strings.Contains(name, "preshared") {
				v[name] = redacted
			} else {
				v[name] = withoutSecrets(value)
			}
		}
	case []any:
		for i := range v {
			v[i] = withoutSecrets(v[i])
		}
	}
	return tree
}
