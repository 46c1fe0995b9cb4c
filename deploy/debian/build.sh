#!/bin/sh
# Builds a Debian package of agent, controller and embedded switch: deploy/debian/build.sh [FOLDER], or `make deb`.
#
# It carries the Python packages in a virtual environment at /opt/mfs: Debian 12 has them older than needed, and nothing is fetched
# when it is installed. Compiled modules tie it to the minor version of the Python that builds it (PYTHON, /usr/bin/python3 by
# default), on which the package depends.
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-/usr/bin/python3}
out=$(realpath -m "${1:-dist}")
series=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
version=$("$python" -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')
architecture=$(dpkg --print-architecture)
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
root=$folder/root
site=$root/opt/mfs/lib/$series/site-packages
mkdir -p "$root/DEBIAN" "$root/opt/mfs/bin" "$root/usr/bin" "$root/usr/share/doc/mfs" "$root/etc/mfs" "$root/usr/lib"

# What `python -m venv` makes, of the Python on the target.
printf 'home = /usr/bin\ninclude-system-site-packages = false\n' > "$root/opt/mfs/pyvenv.cfg"
ln -s "/usr/bin/$series" "$root/opt/mfs/bin/python"
# From a copy: setuptools also packs what an earlier build left in build/.
mkdir "$folder/source"
cp -r pyproject.toml README.md LICENSE host_agent p4src soft_switch topologies mfs_ctrl mfs_eval "$folder/source"
"$python" -m venv "$folder/tools"
"$folder/tools/bin/pip" --disable-pip-version-check install --quiet --no-compile --target "$site" "$folder/source[ctrl,net]"
rm -rf "$site/bin"
# Units cannot write byte code, so it is in the package; it does not look at the times of files.
"$python" -m compileall -q -s "$root" --invalidation-mode unchecked-hash "$site"
cat > "$root/opt/mfs/bin/mfs" <<'MFS'
#!/opt/mfs/bin/python -I
import sys

from mfs_ctrl.cli import main

sys.exit(main())
MFS
chmod 755 "$root/opt/mfs/bin/mfs"
ln -s /opt/mfs/bin/mfs "$root/usr/bin/mfs"

for shell in bash zsh fish; do
    PYTHONPATH=$site "$python" -c 'from mfs_ctrl.cli import main; main()' completion $shell > "$folder/$shell"
done
share=$root/usr/share
install -Dm 644 "$folder/bash" "$share/bash-completion/completions/mfs"
install -Dm 644 "$folder/zsh" "$share/zsh/vendor-completions/_mfs"
install -Dm 644 "$folder/fish" "$share/fish/vendor_completions.d/mfs.fish"

mkdir -p "$root/usr/lib/systemd/system" "$root/usr/lib/sysusers.d" "$root/usr/lib/tmpfiles.d"
install -m 644 deploy/systemd/*.service "$root/usr/lib/systemd/system"
install -m 644 deploy/systemd/mfs.sysusers "$root/usr/lib/sysusers.d/mfs.conf"
install -m 644 deploy/systemd/mfs.tmpfiles "$root/usr/lib/tmpfiles.d/mfs.conf"
install -m 644 deploy/debian/agent.env deploy/debian/ctrl.env deploy/debian/switch.env "$root/etc/mfs"
install -m 644 LICENSE "$root/usr/share/doc/mfs/copyright"
install -m 644 CHANGELOG.md examples/rack.toml deploy/monitoring/*.yml deploy/monitoring/dashboard.json "$root/usr/share/doc/mfs"

printf '/etc/mfs/%s.env\n' agent ctrl switch > "$root/DEBIAN/conffiles"
install -m 755 deploy/debian/postinst deploy/debian/prerm deploy/debian/postrm "$root/DEBIAN"
cat > "$root/DEBIAN/control" <<CONTROL
Package: mfs
Version: $version
Architecture: $architecture
Maintainer: The MFS project
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Depends: $series, libc6, libstdc++6, systemd | systemd-standalone-sysusers
Recommends: gcc, libc6-dev
Section: net
Priority: optional
Description: Multi-stage flow scheduling for LLM serving
 Host agent, controller and embedded switch, with units for systemd.
 The switch compiles its program if there is a C compiler, and runs it
 as Python otherwise.
CONTROL
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$out"
dpkg-deb --root-owner-group -Zxz --build "$root" "$out/mfs_${version}_$architecture.deb"
