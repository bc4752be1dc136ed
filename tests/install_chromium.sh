#!/usr/bin/env bash
# Sees to it that a Chromium without windows is there, for the tests of the page: if there is none,
# the system's package manager installs it, without what only a desktop needs.
set -euo pipefail

for name in chromium-headless-shell chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && exit 0
done

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo -n)
fi

if command -v apt-get >/dev/null; then
    install() {
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -q --no-install-recommends chromium-headless-shell >/dev/null
    }
    # A fresh system has no list of packages yet.
    install || { "${as_root[@]}" apt-get update -q && install; } || true
fi

if ! command -v chromium-headless-shell >/dev/null; then
    echo "The tests of the page need Chromium, which could not be had: they are skipped." >&2
fi
