#!/usr/bin/env bash
# Checks a package: what is in it, then the life of an installation in a root directory of its own.
# deploy/debian/check.sh PACKAGE.deb
set -euo pipefail
cd "$(dirname "$0")/../.."
package=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "deploy/debian/check.sh: $*" >&2
    exit 1
}

contents=$(dpkg-deb --contents "$package")
while read -r mode path; do
    grep -Eq "^$mode root/root .* \./$path\$" <<<"$contents" || fail "no $path with $mode: $contents"
done <<'WANTED'
-rwxr-xr-x usr/bin/respmux
-rw-r--r-- usr/lib/systemd/system/respmux.service
-rw-r--r-- usr/lib/systemd/system/respmux.socket
-rw-r--r-- etc/respmux/respmux.toml
-rw-r--r-- usr/share/man/man1/respmux.1.gz
-rw-r--r-- usr/share/bash-completion/completions/respmux
-rw-r--r-- usr/share/zsh/vendor-completions/_respmux
-rw-r--r-- usr/share/fish/vendor_completions.d/respmux.fish
-rw-r--r-- usr/share/doc/respmux/copyright
-rw-r--r-- usr/share/doc/respmux/changelog.Debian.gz
-rw-r--r-- usr/share/doc/respmux/config.example.toml
-rw-r--r-- usr/share/doc/respmux/sbom.cdx.json.gz
WANTED
if grep -Ev '^[-d]' <<<"$contents"; then fail 'neither files nor directories'; fi
[ "$(dpkg-deb --field "$package" Package)" = respmux ]
[ "$(dpkg-deb --info "$package" conffiles)" = /etc/respmux/respmux.toml ] || fail 'conffiles'

# In a root of its own; scripts are told by DPKG_ROOT, and start nothing there.
root=$work/root
mkdir -p "$root/var/lib/dpkg/info" "$root/var/lib/dpkg/updates"
touch "$root/var/lib/dpkg/status"
manage() {
    dpkg --root="$root" --force-script-chrootless --force-depends --force-not-root --force-confold \
        --log="$work/log" "$@" >"$work/said" 2>&1 || { cat "$work/said" >&2; fail "dpkg $*"; }
}
manage --install "$package"
"$root/usr/bin/respmux" check --config "$root/etc/respmux/respmux.toml" >/dev/null || fail 'the packaged configuration'
"$root/usr/bin/respmux" check --config "$root/usr/share/doc/respmux/config.example.toml" >/dev/null || fail 'the example'
(cd "$root" && md5sum --quiet -c "$root/var/lib/dpkg/info/respmux.md5sums")
gunzip -t "$root/usr/share/man/man1/respmux.1.gz"
gunzip -c "$root/usr/share/doc/respmux/sbom.cdx.json.gz" >"$work/sbom.json"
python3 deploy/sbom.py --check "$work/sbom.json"
bash -n "$root/usr/share/bash-completion/completions/respmux"
# An update keeps what somebody wrote; so does a removal; a purge leaves nothing.
echo '# mine' >>"$root/etc/respmux/respmux.toml"
manage --install "$package"
grep -q '^# mine' "$root/etc/respmux/respmux.toml" || fail 'an update overwrote the configuration'
manage --remove respmux
[ -f "$root/etc/respmux/respmux.toml" ] && [ ! -e "$root/usr/bin/respmux" ] || fail 'after the removal'
manage --purge respmux
left=$(find "$root" -path "$root/var" -prune -o ! -type d -print)
[ -z "$left" ] || fail "a purge leaves $left"
if command -v lintian >/dev/null; then
    # Built outside of the archive: no bug number to close.
    lintian --fail-on error --suppress-tags initial-upload-closes-no-bugs "$package"
    linted=true
fi
echo "{\"package\":\"$(basename "$package")\",\"bytes\":$(stat -c %s "$package"),\"installed_kib\":$(dpkg-deb --field "$package" Installed-Size),\"depends\":\"$(dpkg-deb --field "$package" Depends)\",\"lintian\":${linted:-false}}"
