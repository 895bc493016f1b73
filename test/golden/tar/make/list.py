#!/usr/bin/env python3
"""Lists a tar with Python's tarfile, a reader that shares nothing with ours: list.py ARCHIVE > LISTING.json

Names are latin1 text of their bytes; times are nanoseconds as text; digests are of the whole file, holes included.
"""
import base64, hashlib, json, sys, tarfile
from urllib.parse import unquote_to_bytes
from decimal import Decimal, ROUND_FLOOR

TYPES = {b"0": "file", b"\0": "file", b"7": "file", b"S": "file", b"1": "hardlink", b"2": "symlink",
         b"3": "character-device", b"4": "block-device", b"5": "directory", b"6": "fifo"}


def raw(text):
    return text.encode("utf-8", "surrogateescape")


def attribute(key, headers):
    # libarchive percent-encodes names and says so by a twin record; GNU tar encodes two characters; Go none.
    if f"LIBARCHIVE.xattr.{key}" in headers:
        return unquote_to_bytes(raw(key))
    return raw(key).replace(b"%3D", b"=").replace(b"%25", b"%")


def member(archive, info):
    kind = TYPES[info.type]
    out = {"type": kind, "name": raw(info.name).rstrip(b"/").decode("latin1"),
           "linkName": raw(info.linkname).decode("latin1") if kind in ("hardlink", "symlink") else "",
           "mode": info.mode & 0o7777, "uid": info.uid, "gid": info.gid, "sizeBytes": info.size if kind == "file" else 0}
    time = Decimal(info.pax_headers.get("mtime", str(info.mtime)))
    out["mtimeNs"] = str(int((time * 10**9).to_integral_value(ROUND_FLOOR)))
    device = kind.endswith("device")
    out["devMajor"], out["devMinor"] = (info.devmajor, info.devminor) if device else (0, 0)
    out["xattrs"] = {attribute(key[13:], info.pax_headers).decode("latin1"): base64.b64encode(raw(value)).decode()
                     for key, value in sorted(info.pax_headers.items()) if key.startswith("SCHILY.xattr.")}
    if info.sparse is not None:
        out["sparse"] = [[offset, length] for offset, length in info.sparse if length > 0]
    if kind == "file":
        out["sha256"] = hashlib.sha256(archive.extractfile(info).read()).hexdigest()
    return out


with tarfile.open(sys.argv[1], encoding="utf-8", errors="surrogateescape") as archive:
    json.dump([member(archive, info) for info in archive], sys.stdout, indent=1)
    print()
