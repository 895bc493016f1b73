#!/usr/bin/env python3
"""Writes archives with Python's tarfile: python.py DIRECTORY"""
import io, sys, tarfile

LONG = "long-directory/" * 14 + "n" * 120


def write(name, form, extra):
    with tarfile.open(f"{sys.argv[1]}/python-{name}.tar", "w", format=form, encoding="utf-8",
                      pax_headers={"comment": "a global header", "uid": "77"} if name == "pax" else None) as out:
        def add(path, kind=tarfile.REGTYPE, body=b"", **fields):
            info = tarfile.TarInfo(path)
            info.type, info.size, info.mtime = kind, len(body), 1700000000
            for key, value in fields.items():
                setattr(info, key, value)
            out.addfile(info, io.BytesIO(body))

        add("dir", tarfile.DIRTYPE, mode=0o1777)
        add("dir/file", body=b"hello\n", mode=0o640, uid=12, gid=13)
        add("dir/contiguous", tarfile.CONTTYPE, body=b"seven\n")
        add("dir/link", tarfile.SYMTYPE, linkname="file")
        add("dir/hard", tarfile.LNKTYPE, linkname="dir/file")
        add("dir/tty", tarfile.CHRTYPE, devmajor=5, devminor=1)
        add("dir/fifo", tarfile.FIFOTYPE)
        add("p/" * 60 + "split", body=b"x" * 1024)
        if extra:
            add(LONG, body=b"long\n", mtime=-5 if name == "gnu" else 1700000000.25)
            add("grüße", tarfile.SYMTYPE, linkname=LONG)


write("ustar", tarfile.USTAR_FORMAT, False)
write("gnu", tarfile.GNU_FORMAT, True)
write("pax", tarfile.PAX_FORMAT, True)
