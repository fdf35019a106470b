#!/bin/sh
# SPDX-License-Identifier: MIT
# The King James Bible as plain text: one verse a line, an empty line between chapters; then its SHA-256.
#
#   examples/fetch_bible.sh FILE.txt
#
# The translation is of 1611 and in the public domain (the package's /usr/share/doc/bible-kjv-text/copyright says so).
# The text is packed in Debian's package bible-kjv-text; the program `bible` of package bible-kjv unpacks it (it is run,
# none of it is copied).  Packages that are not installed are downloaded and unpacked into a folder that goes away again.
set -eu
[ $# -eq 1 ] || { sed -n 's/^# \{0,1\}//; 2,9p' "$0" | sed 1d >&2; exit 2; }

known=82a24e4e23c644fe579ed387b20e54eb529cc0a87a25e0810064edb2216780c2  # of bible-kjv-text 4.38

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if ! [ -r /usr/lib/bible.data ] || ! command -v bible > "$folder/where"; then
  (cd "$folder" && apt-get download bible-kjv bible-kjv-text >&2 && for deb in *.deb; do dpkg-deb -x "$deb" .; done)
  PATH="$folder/usr/bin:$PATH"
  set -- "$1" -p "$folder/usr/lib/"
fi

out=$1
shift
# "Ge1:1 In the beginning ...": the reference says where chapters end, and goes.  COLUMNS would break the lines.
env -u COLUMNS bible "$@" -f genesis1:1-revelation22:21 > "$folder/verses"
awk '{
  chapter = $1
  sub(/:.*/, "", chapter)
  if (NR > 1 && chapter != before) print ""
  before = chapter
  sub(/^[^ ]+ +/, "")
  print
}' "$folder/verses" > "$folder/text"

found=$(sha256sum < "$folder/text" | cut -d" " -f1)
mv "$folder/text" "$out"
echo "$found  $out"
[ "$found" = "$known" ] || { echo "fetch_bible: not the text that was expected ($known): another version of the package?" >&2; exit 1; }
