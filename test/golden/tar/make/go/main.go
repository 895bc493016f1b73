// Writes archives with Go's archive/tar, which Docker, containerd and BuildKit use: go run . DIRECTORY
package main

import (
	"archive/tar"
	"os"
	"path/filepath"
	"strings"
	"time"
)

type member struct {
	header tar.Header
	body   string
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func write(path string, format tar.Format, members []member) {
	file, err := os.Create(path)
	must(err)
	out := tar.NewWriter(file)
	for _, m := range members {
		m.header.Format = format
		m.header.Size = int64(len(m.body))
		must(out.WriteHeader(&m.header))
		_, err := out.Write([]byte(m.body))
		must(err)
	}
	must(out.Close())
	must(file.Close())
}

func main() {
	whole := time.Unix(1700000000, 0)
	fine := time.Unix(1700000000, 123456789)
	long := strings.Repeat("long-directory/", 14) + strings.Repeat("n", 120)
	plain := []member{
		{tar.Header{Typeflag: tar.TypeDir, Name: "dir/", Mode: 0o755, ModTime: whole}, ""},
		{tar.Header{Typeflag: tar.TypeReg, Name: "dir/file", Mode: 0o4644, Uid: 1000, Gid: 1001, ModTime: whole}, "hello\n"},
		{tar.Header{Typeflag: tar.TypeReg, Name: "dir/empty", Mode: 0o600, ModTime: whole}, ""},
		{tar.Header{Typeflag: tar.TypeSymlink, Name: "dir/link", Linkname: "../target", Mode: 0o777, ModTime: whole}, ""},
		{tar.Header{Typeflag: tar.TypeLink, Name: "dir/hard", Linkname: "dir/file", Mode: 0o644, ModTime: whole}, ""},
		{tar.Header{Typeflag: tar.TypeChar, Name: "dir/null", Mode: 0o666, Devmajor: 1, Devminor: 3, ModTime: whole}, ""},
		{tar.Header{Typeflag: tar.TypeBlock, Name: "dir/sda", Mode: 0o660, Devmajor: 8, Devminor: 1, ModTime: whole}, ""},
		{tar.Header{Typeflag: tar.TypeFifo, Name: "dir/fifo", Mode: 0o644, ModTime: whole}, ""},
		{tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("p/", 60) + "split", Mode: 0o644, ModTime: whole}, strings.Repeat("x", 513)},
	}
	pax := append(append([]member{}, plain...),
		member{tar.Header{Typeflag: tar.TypeReg, Name: long, Mode: 0o644, ModTime: fine}, "fine\n"},
		member{tar.Header{Typeflag: tar.TypeReg, Name: "old", Mode: 0o644, ModTime: time.Unix(-1, 500000000)}, ""},
		member{tar.Header{Typeflag: tar.TypeReg, Name: "grüße", Mode: 0o644, ModTime: whole, Uid: 3000000, Gid: 4294967294}, ""},
		member{tar.Header{Typeflag: tar.TypeSymlink, Name: "far", Linkname: long, Mode: 0o777, ModTime: whole}, ""},
		member{tar.Header{Typeflag: tar.TypeReg, Name: "attributes", Mode: 0o755, ModTime: whole, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
			"SCHILY.xattr.user.lines":          "a\nb=c\n\xff",
		}}, "x"})
	gnu := append(append([]member{}, plain...),
		member{tar.Header{Typeflag: tar.TypeReg, Name: long, Mode: 0o644, ModTime: whole, Uid: 3000000, Gid: 4294967294}, "fine\n"},
		member{tar.Header{Typeflag: tar.TypeReg, Name: "old", Mode: 0o644, ModTime: time.Unix(-100, 0)}, ""},
		member{tar.Header{Typeflag: tar.TypeSymlink, Name: long + "l", Linkname: long, Mode: 0o777, ModTime: whole}, ""})
	write(filepath.Join(os.Args[1], "go-ustar.tar"), tar.FormatUSTAR, plain)
	write(filepath.Join(os.Args[1], "go-pax.tar"), tar.FormatPAX, pax)
	write(filepath.Join(os.Args[1], "go-gnu.tar"), tar.FormatGNU, gnu)
}
