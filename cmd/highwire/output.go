package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"
)

// outputs are the values of -o.
var outputs = []string{"table", "wide", "json", "yaml"}

// outputFlag is the -o of the commands that show something.
type outputFlag struct{ format string }

func (o *outputFlag) add(flags *pflag.FlagSet) {
	flags.StringVarP(&o.format, "output", "o", "table", strings.Join(outputs, ", "))
}

func (o *outputFlag) check() error {
	if !slices.Contains(outputs, o.format) {
		return usagef("-o %q: want %s", o.format, strings.Join(outputs, ", "))
	}
	return nil
}

// table tells whether people read it.
func (o *outputFlag) table() bool { return o.format == "table" || o.format == "wide" }
func (o *outputFlag) wide() bool  { return o.format == "wide" }

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

// encodeAny writes what is no protobuf message.
func encodeAny(w io.Writer, format string, v any) error {
	text, err := json.Marshal(v)
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
