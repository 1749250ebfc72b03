#!/bin/sh
# VeilNet Conflux @VERSION@ for @PLATFORM@, in one file: this script, then an archive.
#
# The first start unpacks the archive into a folder of this version's own; every start then becomes
# the program in there, under the same process id. The folder is complete or not there. It is below
# /var/lib/veilnet-conflux for root, for others below ~/.cache/veilnet-conflux, or where
# CONFLUX_UNPACK_DIR says.
set -eu
if [ -n "${CONFLUX_UNPACK_DIR:-}" ]; then
  base=$CONFLUX_UNPACK_DIR
elif [ "$(id -u)" = 0 ]; then
  # Never a home: with a user's HOME, root would run what that user may write.
  base=/var/lib/veilnet-conflux
else
  cache=${XDG_CACHE_HOME:-${HOME:?is not set: name a folder in CONFLUX_UNPACK_DIR}/.cache}
  base=$cache/veilnet-conflux
fi
folder=$base/@ID@

fail() {
  echo "veilnet-conflux: cannot unpack into $base: $1; name a folder in CONFLUX_UNPACK_DIR" >&2
  exit 3
}

unpack() {
  reason=$(mkdir -p -m 755 "$base" 2>&1) || fail "$reason"
  new=$(mktemp -d "$base/.new-XXXXXX" 2>&1) || fail "$new"
  trap 'rm -rf "$new"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  reason=$(tail -c +@OFFSET@ "$0" | tar -xzf - -C "$new" 2>&1) || fail "$reason"
  chmod 755 "$new"
  # After a loss of power the folder must not be there with empty files in it.
  sync
  # Of two first starts one comes later: then this moves into the other's folder, and is removed.
  mv "$new" "$folder" 2>/dev/null || [ -d "$folder" ] || fail "$folder cannot be made"
  rm -rf "$folder/${new##*/}"
  trap - EXIT INT TERM HUP
}

if ! [ -x "$folder/veilnet-conflux" ]; then
  before=$(umask)
  umask 022
  unpack
  umask "$before"
fi
case $0 in
  /*) CONFLUX_EXECUTABLE=$0 ;;
  *) CONFLUX_EXECUTABLE=$PWD/$0 ;;
esac
export CONFLUX_EXECUTABLE
exec "$folder/veilnet-conflux" "$@"
