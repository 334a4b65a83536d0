#!/usr/bin/env bash
# Build the image with buildah, for machines without Docker: scripts/build_image.sh IMAGE [BASE]
#
# BASE `debian` is made from Debian's packages by debootstrap, where no registry of images can be reached; root is needed
# then. Anything else is handed to the Dockerfile; unset is the Dockerfile's own.
# Isolation is chroot, because a container that builds containers may not make namespaces; what is built is the same.
set -eu
image=$1
base=${2:-}
cd "$(dirname "$0")/.."

if [ "$base" = debian ]; then
  base=localhost/authsvc-base:bookworm
  if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    debootstrap --variant=minbase --include=python3-venv,libpython3.11,ca-certificates bookworm "$root" >"$root.log" \
      || { tail -5 "$root.log"; exit 1; }
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root.log"
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$root" / >/dev/null
    buildah commit --quiet "$container" "$base" >/dev/null
    buildah rm "$container" >/dev/null
    rm -rf "$root"
  fi
fi

options=(--isolation chroot --network host --format docker --layers --tag "$image")
[ -z "$base" ] || options+=(--build-arg "BASE=$base")
# A network with its own authority or index: pip in the build trusts and asks what pip outside does.
if [ -n "${PIP_CERT:-}" ]; then
  options+=(--volume "$PIP_CERT:/etc/ssl/certs/build-ca.pem:ro" --build-arg PIP_CERT=/etc/ssl/certs/build-ca.pem)
fi
[ -z "${PIP_INDEX_URL:-}" ] || options+=(--build-arg "PIP_INDEX_URL=$PIP_INDEX_URL")
exec buildah bud "${options[@]}" .
