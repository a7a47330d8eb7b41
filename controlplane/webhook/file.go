package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"highwire/controlplane/client"
	"highwire/vppapi/fault"
)

// Verdict is what becomes of one object of a file.
type Verdict struct {
	// Name is kind, namespace and name.
	Name string
	// Line and Column are where the object begins, or where the fault of its annotation is.
	Line, Column int
	Decision     Decision
	// Err is why it is refused.
	Err error
}

// CheckFile decides about each object of a YAML or JSON file. The file's own namespaces count for the pods in it. The error is
// about a file that cannot be read.
func (s *Settings) CheckFile(data []byte) ([]Verdict, error) {
	objects, err := readObjects(data)
	if err != nil {
		return nil, err
	}
	namespaces := map[string]*yaml.Node{}
	for _, o := range objects {
		if o.kind == "Namespace" {
			namespaces[o.name] = o.annotation("metadata")
		}
	}
	lines := strings.Split(string(data), "\n")
	var list []Verdict
	for _, o := range objects {
		v := Verdict{Name: o.kind + " " + o.name, Line: o.node.Line, Column: o.node.Column}
		above := namespaces[o.namespace]
		if o.kind != "Namespace" {
			v.Name = o.kind + " " + o.namespace + "/" + o.name
		}
		v.Decision, v.Err = s.Decide(Object{Kind: o.kind, Raw: o.raw, Namespace: value(above)})
		var syntax *client.SyntaxError
		if errors.As(v.Err, &syntax) {
			// Of the annotations that may be at fault, it is one with the text that is.
			template := strings.Split(strings.TrimPrefix(templates[o.kind], "/"), "/")
			for _, n := range []*yaml.Node{o.annotation("metadata"), o.annotation(append(template, "metadata")...), above} {
				if n != nil && n.Value == syntax.Text {
					v.Line, v.Column = place(n, syntax.Offset, lines)
					break
				}
			}
		}
		list = append(list, v)
	}
	return list, nil
}

// object is one of a file.
type object struct {
	node                  *yaml.Node
	kind, namespace, name string
	raw                   []byte
}

func readObjects(data []byte) ([]object, error) {
	var list []object
	d := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var document yaml.Node
		switch err := d.Decode(&document); {
		case errors.Is(err, io.EOF):
			return list, nil
		case err != nil:
			return nil, fault.Wrap(fault.Invalid, err)
		case len(document.Content) == 0:
			continue
		}
		roots := document.Content
		if root := roots[0]; strings.HasSuffix(value(find(root, "kind")), "List") {
			roots = nil
			if items := find(root, "items"); items != nil {
				roots = items.Content
			}
		}
		for _, root := range roots {
			if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
				continue // an empty document
			}
			o, err := newObject(root)
			if err != nil {
				return nil, err
			}
			list = append(list, o)
		}
	}
}

func newObject(n *yaml.Node) (object, error) {
	o := object{node: n, kind: value(find(n, "kind")), namespace: value(find(n, "metadata", "namespace")), name: value(find(n, "metadata", "name"))}
	invalid := func(err error) (object, error) {
		return object{}, fault.New(fault.Invalid, "line %d: not an object of Kubernetes: %w", n.Line, err)
	}
	if o.kind == "" {
		return invalid(errors.New("it has no kind"))
	}
	if o.namespace == "" {
		o.namespace = "default"
	}
	if o.name == "" {
		o.name = value(find(n, "metadata", "generateName")) + "*"
	}
	var content any
	if err := n.Decode(&content); err != nil {
		return invalid(err)
	}
	var err error
	if o.raw, err = json.Marshal(content); err != nil {
		return invalid(fmt.Errorf("it is no JSON: %w", err))
	}
	return o, nil
}

// annotation is ours in the metadata at the path, nil if there is none.
func (o object) annotation(path ...string) *yaml.Node {
	return find(o.node, append(path, "annotations", Annotation)...)
}

// find follows keys of mappings; nil if there is nothing.
func find(n *yaml.Node, path ...string) *yaml.Node {
	for _, key := range path {
		var next *yaml.Node
		for i := 0; n != nil && n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				next = n.Content[i+1]
			}
		}
		n = next
	}
	return n
}

// value is a scalar's, empty for nothing.
func value(n *yaml.Node) string {
	if n == nil {
		return ""
	}
	return n.Value
}

// place is where an offset of a scalar's value is in the file. What is written in another form than it is meant (over several
// lines, with escapes) is given the place of its beginning.
func place(n *yaml.Node, offset int, lines []string) (line, column int) {
	line, column = n.Line, n.Column
	if line < 1 || line > len(lines) {
		return line, column
	}
	runes := []rune(lines[line-1])
	begin := column - 1
	if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		begin++
	}
	if begin < 0 || begin > len(runes) || !strings.HasPrefix(string(runes[begin:]), n.Value) {
		return line, column
	}
	return line, begin + 1 + utf8.RuneCountInString(n.Value[:offset])
}
