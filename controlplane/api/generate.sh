#!/bin/sh
# Generates the Go packages under this folder from proto/. Needs protoc (3.21 or newer); the plugins are pinned in go.mod.
set -eu
cd "$(dirname "$0")/proto"
command -v protoc >/dev/null || { echo "generate.sh: protoc not found; install protobuf-compiler" >&2; exit 1; }
protoc --proto_path=. \
  --plugin=protoc-gen-go="$(go tool -n protoc-gen-go)" --go_out=.. --go_opt=module=highwire/controlplane/api \
  --plugin=protoc-gen-go-grpc="$(go tool -n protoc-gen-go-grpc)" --go-grpc_out=.. --go-grpc_opt=module=highwire/controlplane/api \
  nsm/*.proto highwire/v1/*.proto
