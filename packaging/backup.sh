#!/bin/sh
# Copies a workspace while commands are at work in it:  backup.sh WORKSPACE TARGET
# TARGET must not exist yet; with a "/" at its end it is a folder of backups, in which a new one gets the time as its name. Private keys (the sibling folder WORKSPACE.keys) are not copied: keep them apart, encrypted.
# A lake outside of the workspace (`lake` in fleetloop.toml) is copied by the same two steps, by hand.
set -eu
workspace=${1:?the folder of the workspace} target=${2:?the folder of the backup, which must not exist}
[ -f "$workspace/fleetloop.toml" ] || { echo "$workspace is no workspace: it has no fleetloop.toml" >&2; exit 2; }
umask 077
case $target in */) mkdir -p "$target"; target=$target$(date -u +%Y%m%dT%H%M%SZ) ;; esac
[ ! -e "$target" ] || { echo "$target exists already" >&2; exit 2; }
mkdir -p "$target.part"
# 1. The logs of the lake's tables. Every data file that a log names was written before the log named it, so what is
#    copied afterwards is never less than the logs say. Do not run `fleetloop lake vacuum` at the same time.
if [ -d "$workspace/lake" ]; then
    #    `_last_checkpoint` is a hint that may be newer than the list of entries: a reader does without it.
    (cd "$workspace" && find lake -path '*/_delta_log/[0-9]*' \( -name '*.json' -o -name '*.parquet' \) -print) |
        sort > "$target.part/.entries"
    while read -r file; do
        mkdir -p "$target.part/$(dirname "$file")"
        cp -a "$workspace/$file" "$target.part/$file"
    done < "$target.part/.entries"
    # 2. The data files.
    (cd "$workspace" && find lake -type f ! -path '*/_delta_log/*' ! -path '*/_staging/*' -print) | while read -r file; do
        mkdir -p "$target.part/$(dirname "$file")"
        cp -a "$workspace/$file" "$target.part/$file"
    done
fi
# 3. All else: git, DVC's cache and remote, settings, locks, the registry, the signed repository.
for entry in "$workspace"/* "$workspace"/.[!.]*; do
    [ -e "$entry" ] && [ "$(basename "$entry")" != lake ] && cp -a "$entry" "$target.part/"
done
rm -f "$target.part/.entries"
sync "$target.part"
mv "$target.part" "$target"
