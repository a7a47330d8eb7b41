package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"
)

// outputs are the values of -o.
var outputs = []string{"table", "json", "yaml"}

// encode writes the messages as a list in JSON (ProtoJSON field names) or YAML.
func encode[T proto.Message](w io.Writer, format string, items []T) error {
	list := make([]json.RawMessage, len(items))
	for i, item := range items {
		var err error
		if list[i], err = protojson.Marshal(item); err != nil {
			return err
		}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return write(w, format, text)
}

// encodeOne writes one message.
func encodeOne(w io.Writer, format string, m proto.Message) error {
	text, err := protojson.Marshal(m)
	if err != nil {
		return err
	}
	return write(w, format, text)
}

// write lays JSON out anew: protojson varies its spaces on purpose.
func write(w io.Writer, format string, text []byte) error {
	var out []byte
	if format == "yaml" {
		var err error
		if out, err = yaml.JSONToYAML(text); err != nil {
			return err
		}
	} else {
		var b bytes.Buffer
		if err := json.Indent(&b, text, "", "  "); err != nil {
			return err
		}
		b.WriteByte('\n')
		out = b.Bytes()
	}
	_, err := fmt.Fprintf(w, "%s", out)
	return err
}
