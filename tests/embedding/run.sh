#!/usr/bin/env bash
# Install the library from a build folder, build the program of this folder against it with find_package, and run it.
#   tests/embedding/run.sh BUILD_FOLDER MODEL_FOLDER TOKEN_ID...
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$1
model=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake --install "$build" --component quire --prefix "$work/prefix" > "$work/install.log"
cmake -S "$here" -B "$work/build" -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_BUILD_TYPE=Release > "$work/configure.log"
cmake --build "$work/build" > "$work/build.log"
text=$("$work/build/embedding" "$model" "$@")
echo "embedding: $text"
[ "${#text}" -ge 40 ] || { echo "embedding: too little text" >&2; exit 1; }
