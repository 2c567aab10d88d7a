#!/usr/bin/env bash
# Builds target/debian/respmux_VERSION_ARCH.deb. The same commit and compiler give the same bytes.
#
# BINARY=path takes a program that is built already; else the release is built. PACKAGE_REVISION is the part of the
# version after the dash.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
.ci/need dpkg-deb=dpkg objdump=binutils gzip=gzip

if [ -z "${BINARY:-}" ]; then
    cargo build --release --locked --bin respmux
    BINARY=$target/release/respmux
fi
version=$(sed -n '0,/^version = /s/^version = "\(.*\)"/\1/p' Cargo.toml)-${PACKAGE_REVISION:-1}
arch=$(dpkg --print-architecture)
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
maintainer='respmux authors <respmux@users.noreply.github.com>'

root=$target/debian/root
package=$target/debian/respmux_${version}_$arch.deb
rm -rf "$root"
mkdir -p "$root/DEBIAN"

put() { install -D -m "$1" "$2" "$root/$3"; }
# From standard input.
write() {
    mkdir -p "$(dirname "$root/$1")"
    cat >"$root/$1"
}

mkdir -p "$root/usr/bin"
strip --strip-unneeded -o "$root/usr/bin/respmux" "$BINARY"
chmod 755 "$root/usr/bin/respmux"
"$BINARY" man | gzip -9n | write usr/share/man/man1/respmux.1.gz
"$BINARY" completions bash | write usr/share/bash-completion/completions/respmux
"$BINARY" completions zsh | write usr/share/zsh/vendor-completions/_respmux
"$BINARY" completions fish | write usr/share/fish/vendor_completions.d/respmux.fish
put 644 deploy/systemd/respmux.service usr/lib/systemd/system/respmux.service
put 644 deploy/systemd/respmux.socket usr/lib/systemd/system/respmux.socket
put 644 deploy/debian/respmux.toml etc/respmux/respmux.toml

doc=usr/share/doc/respmux
"$BINARY" config example | write $doc/config.example.toml
put 644 deploy/systemd/README.md $doc/README.systemd.md
put 644 deploy/prometheus/rules.yml $doc/examples/prometheus/rules.yml
put 644 deploy/grafana/respmux.json $doc/examples/grafana/respmux.json
cargo metadata --locked --format-version 1 --filter-platform "$(rustc --print host-tuple)" |
    python3 deploy/sbom.py | gzip -9n | write $doc/sbom.cdx.json.gz
{
    echo 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/'
    echo 'Upstream-Name: respmux'
    echo 'Source: https://github.com/respmux/respmux'
    echo 'Comment: What is linked into the program, with licences: sbom.cdx.json.gz beside this file.'
    printf '\nFiles: *\n'
    sed -n 's/^Copyright (c) /Copyright: /p' LICENSE
    echo 'License: Expat'
    # An empty line is a dot in this format. The title and the line above are left out.
    sed -e '1,/^Copyright/d' LICENSE | sed -e '1{/^$/d}' -e 's/^$/./' -e 's/^/ /'
} | write $doc/copyright
printf 'respmux (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md of the source.\n\n -- %s  %s\n' \
    "$version" "$maintainer" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n | write $doc/changelog.Debian.gz

# What the program asks of the C library, by its symbols.
glibc=$(objdump -T "$BINARY" | sed -n 's/.*(\?GLIBC_\([0-9.]*\)).*/\1/p' | sort -V | tail -1)
depends=
for library in $(objdump -p "$BINARY" | awk '/NEEDED/ { print $2 }'); do
    case $library in
    libc.so.* | libm.so.* | ld-linux*) wants="libc6 (>= $glibc)" ;;
    libgcc_s.so.1) wants='libgcc-s1 (>= 4.2)' ;;
    *)
        echo "deploy/debian/build.sh: no package is known for $library" >&2
        exit 1
        ;;
    esac
    [[ $depends == *"$wants"* ]] || depends="${depends:+$depends, }$wants"
done

write DEBIAN/control <<CONTROL
Package: respmux
Version: $version
Architecture: $arch
Maintainer: $maintainer
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
${depends:+Depends: $depends
}Suggests: redis-server | valkey-server
Section: net
Priority: optional
Homepage: https://github.com/respmux/respmux
Description: Redis-aware connection-multiplexing proxy
 respmux carries thousands of Redis or Valkey clients over a small, fixed set of
 upstream connections. Clients notice nothing of it: transactions, blocking
 commands, subscriptions and scripts work, and a reply never reaches the wrong
 client.
CONTROL
(cd "$root" && find etc -type f -printf '/%p\n') | write DEBIAN/conffiles
(cd "$root" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum) | write DEBIAN/md5sums
for script in postinst prerm postrm; do
    put 755 "deploy/debian/$script" "DEBIAN/$script"
done
chmod -R u=rwX,go=rX "$root"
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group -Zxz --build "$root" "$package" >/dev/null
echo "$package"
