#!/bin/sh
# Makes all goldens anew, as root, with GNU tar, bsdtar, Go and Python in PATH: make.sh (writes to the directory above).
# The listings are Python's; ours is held against them.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/tree" "$work/out"
cd "$work/tree"

long=$(printf 'long-directory/%.0s' 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
mkdir -p dir/sub "$long"
echo hello >dir/file
: >dir/empty
head -c 1500 /dev/zero | tr '\0' x >dir/sub/block-and-more
ln dir/file dir/hard
ln -s ../file dir/sub/link
mknod dir/null c 1 3
mknod dir/disk b 259 70000
mkfifo dir/fifo
printf 'odd\n' >"$(printf 'dir/new\nline')"
printf 'odd\n' >"$(printf 'dir/\303\274\377')"
chmod 4755 dir/file
chown 1234:4321 dir/empty
touch -d '2023-11-14 22:13:20 UTC' dir/file
find . -name 'long*' -prune -o -type l -prune -o -exec touch -d '2023-11-14 22:13:20.123456789 UTC' {} +
cp -a . "$work/short"
echo long >"$long$(printf '%0120d' 0)"
ln -s "$long$(printf '%0120d' 0)" far
truncate -s 300000 holes
printf begin | dd of=holes conv=notrunc status=none
printf middle | dd of=holes bs=1 seek=131072 conv=notrunc status=none
truncate -s 5000000 many-holes
i=0
while [ $i -lt 30 ]; do
  printf "$i" | dd of=many-holes bs=1 seek=$((i * 131072)) conv=notrunc status=none
  i=$((i + 1))
done
truncate -s 100000 only-hole
touch -d '2023-11-14 22:13:20.123456789 UTC' holes many-holes only-hole

all="--sort=name --numeric-owner -b 2"
tar $all --format=gnu --exclude=*hole* -cf "$work/out/gnu-gnu.tar" .
tar $all --format=oldgnu --exclude=*hole* -cf "$work/out/gnu-oldgnu.tar" .
tar $all --format=pax --exclude=*hole* -cf "$work/out/gnu-pax.tar" .
tar $all --format=ustar -C "$work/short" -cf "$work/out/gnu-ustar.tar" .
tar $all --format=v7 -C "$work/short" --exclude=./dir/null --exclude=./dir/disk --exclude=./dir/fifo --exclude=./long-directory -cf "$work/out/gnu-v7.tar" .
tar $all --format=gnu -S -cf "$work/out/gnu-sparse-old.tar" holes many-holes only-hole dir/file
for version in 0.0 0.1 1.0; do
  tar $all --format=pax -S --sparse-version=$version -cf "$work/out/gnu-sparse-$version.tar" holes many-holes only-hole dir/file
done
tar $all --format=gnu --mtime=@-86400 --owner=:3000000 --group=:4000000000 -cf "$work/out/gnu-base256.tar" dir/file dir/empty
setfattr -n user.text -v plain dir/file
setfattr -n user.empty dir/file
setfattr -n user.binary -v 0x000aff3d0a00 dir/file
setfattr -n 'user.with=and%' -v x dir/empty
setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 dir/sub/block-and-more
tar $all --format=pax --xattrs --xattrs-include='*' -cf "$work/out/gnu-xattrs.tar" dir
setfattr -x 'user.with=and%' dir/empty
bsdtar --format=pax -b 2 --numeric-owner -cf "$work/out/bsd-pax.tar" dir far holes "$long"
setfattr -n 'user.with=and% blank' -v x dir/empty
bsdtar --format=pax -b 2 --numeric-owner -cf "$work/out/bsd-xattr-names.tar" dir/empty
bsdtar --format=gnutar -b 2 --numeric-owner --no-xattrs -cf "$work/out/bsd-gnutar.tar" dir far "$long"
bsdtar --format=ustar -b 2 --numeric-owner --no-xattrs -C "$work/short" -cf "$work/out/bsd-ustar.tar" .
python3 "$here/python.py" "$work/out"
(cd "$here/go" && GOFLAGS=-mod=mod go run . "$work/out")

for archive in "$work"/out/*.tar; do
  name=$(basename "$archive" .tar)
  python3 "$here/list.py" "$archive" >"$here/../$name.json"
  gzip -9n <"$archive" >"$here/../$name.tar.gz"
done
ls -l "$here/.."
