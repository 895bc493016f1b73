// Other systems' differs on directories that are mounted already: prints "A /path\x00", M and D, in their own order.
//
//	differ-peer buildkit UPPER VIEW-OF-UPPER BASE
//	differ-peer continuity BASE VIEW
//	differ-peer docker BASE VIEW
//	differ-peer containerd-tar BASE VIEW                  (a layer tar)
//	differ-peer buildkit-tar UPPER VIEW-OF-UPPER BASE     (a layer tar)
//	differ-peer upperdir LOWER-MOUNTS UPPER-MOUNTS        (JSON; BuildKit's rules: the directory)
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/core/mount"
	containerd "github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/continuity/fs"
	"github.com/moby/buildkit/util/overlay"
	docker "github.com/moby/go-archive"
)

func main() {
	out := bufio.NewWriter(os.Stdout)
	if err := run(out, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := out.Flush(); err != nil {
		os.Exit(1)
	}
}

func run(out *bufio.Writer, args []string) error {
	want := map[string]int{"buildkit": 4, "buildkit-tar": 4, "continuity": 3, "containerd-tar": 3, "docker": 3, "upperdir": 3}
	if len(args) == 0 || want[args[0]] != len(args) {
		return fmt.Errorf("differ-peer: not so many arguments: %q", args)
	}
	ctx := context.Background()
	record := func(kind fs.ChangeKind, path string, _ os.FileInfo, err error) error {
		letters := map[fs.ChangeKind]string{fs.ChangeKindAdd: "A", fs.ChangeKindModify: "M", fs.ChangeKindDelete: "D"}
		if letter, known := letters[kind]; known && err == nil {
			fmt.Fprintf(out, "%s %s\x00", letter, path)
		}
		return err
	}
	switch args[0] {
	case "buildkit":
		return overlay.Changes(ctx, record, args[1], args[2], args[3])
	case "continuity":
		return fs.Changes(ctx, args[1], args[2], record)
	case "containerd-tar":
		return containerd.WriteDiff(ctx, out, args[1], args[2])
	case "docker":
		changes, err := docker.ChangesDirs(args[2], args[1])
		letters := map[docker.ChangeType]string{docker.ChangeAdd: "A", docker.ChangeModify: "M", docker.ChangeDelete: "D"}
		for _, change := range changes {
			fmt.Fprintf(out, "%s %s\x00", letters[change.Kind], change.Path)
		}
		return err
	case "buildkit-tar":
		writer := containerd.NewChangeWriter(out, args[2])
		if err := overlay.Changes(ctx, writer.HandleChange, args[1], args[2], args[3]); err != nil {
			return err
		}
		return writer.Close()
	case "upperdir":
		var lower, upper []mount.Mount
		if err := json.Unmarshal([]byte(args[1]), &lower); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(args[2]), &upper); err != nil {
			return err
		}
		directory, err := overlay.GetUpperdir(lower, upper)
		fmt.Fprint(out, directory)
		return err
	}
	return nil
}
