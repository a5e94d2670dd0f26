#!/usr/bin/env bash
# Builds the images of the cluster tests without Docker and without a registry: images.sh ARCHIVE
#
# The script writes ARCHIVE, an OCI archive to load into the node. It holds a stand-in for an Agent Server
# (sandbox.local/stub:1), this checkout built from k8s/Dockerfile (registry.test/agentplane:checkout) and, if git has it,
# the previous commit (registry.test/agentplane:earlier). A second archive, node.tar in the cache, holds the images of
# the node itself and a real Agent Server (sandbox.local/hello:1). The cache is TESTS_IMAGE_CACHE, by default
# ~/.cache/agentplane-images; it also keeps unchanged layers.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/../.." && pwd)
tools=${TESTS_KUBERNETES_TOOLS:-$checkout/../shared/tools/kubernetes}
cache=${TESTS_IMAGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/agentplane-images}
archive=$(realpath -m "$1")
mkdir -p "$cache"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The tool $tools/images also builds k8s/Dockerfile, which we build below: give it a checkout with a trivial one.
mkdir -p "$work/staging/k8s" "$work/staging/sandbox/apps"
cp -r "$checkout/sandbox/apps/hello" "$work/staging/sandbox/apps/"
echo 'FROM docker.io/library/python:3.11.12-slim-bookworm' > "$work/staging/k8s/Dockerfile"
[ -e "$cache/node.tar" ] || CACHE=$cache "$tools/images" "$cache/node.tar" "$work/staging"

export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=overlay
b() { buildah --root "$cache/storage" --runroot "$cache/run" "$@"; }
# Settings and certificates that pip needs to reach its package index.
pip=(--env PIP_CERT="${PIP_CERT:-}")
for file in /etc/pip.conf /etc/ssl/certs; do [ -e $file ] && pip+=(--volume "$file:$file:ro"); done
build() { # tag dockerfile folder
  b build --quiet --layers --pull-never "${pip[@]}" --build-arg PYTHON_IMAGE=localhost/base -f "$2" -t "$1" "$3" \
    > "$work/log" 2>&1 || { tail -30 "$work/log" >&2; exit 1; }
  b push --quiet --disable-compression "$1" "oci:$work/oci:$1"
}

mkdir -p "$work/oci" "$work/earlier"
build sandbox.local/stub:1 "$checkout/tests/cluster/images/stub/Dockerfile" "$checkout/tests/cluster/images/stub"
build registry.test/agentplane:checkout "$checkout/k8s/Dockerfile" "$checkout"
if git -C "$checkout" rev-parse --quiet --verify HEAD~1 > /dev/null; then
  git -C "$checkout" archive HEAD~1 | tar -C "$work/earlier" -x
  build registry.test/agentplane:earlier "$work/earlier/k8s/Dockerfile" "$work/earlier"
fi
tar -C "$work/oci" -cf "$archive" .
echo "images are in $archive ($(du -h "$archive" | cut -f1)) and $cache/node.tar ($(du -h "$cache/node.tar" | cut -f1))"
