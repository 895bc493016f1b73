import type { ByteString } from '../base/bytes.ts';
import { Root } from '../fs/rooted.ts';
import { isFile } from '../fs/stat.ts';
import { close, fstat, O_NONBLOCK, O_RDONLY } from '../linux/inode.ts';
import { ELOOP, ENOENT, ENOTDIR, ENXIO } from '../linux/libc.ts';

/** An ordinary file of a layer, open for reading until disposal. */
export interface LayerFile extends Disposable {
  /** Read it at offsets (`node:fs`); nobody else uses it. */
  readonly fd: number;
  readonly sizeBytes: number;
}

/**
 * A layer's own files by the names that its archive gives them, for exact re-export: with the split record (`SplitReader`
 * of `layerstore/tar`) they give the archive back. Names are resolved inside the layer, whatever they hold. Where a layer is
 * a full copy, files of the layers below are found as well. Disposal lets go of the directory; open files stay open.
 */
export interface LayerFiles extends Disposable {
  /** Opens one; `not-found` where the layer itself has no ordinary file of that name. */
  open(name: ByteString): LayerFile;
}

/** The files below `root`. `refuse` makes the error where one is not there. */
export function layerFiles(root: ByteString, refuse: (name: ByteString, why: string) => Error): LayerFiles {
  const within = Root.open(root);
  return {
    open(name) {
      const fd = within.open(name, O_RDONLY | O_NONBLOCK, 0, ENOENT, ENOTDIR, ELOOP, ENXIO);
      if (fd < 0) throw refuse(name, fd === -ENOENT || fd === -ENOTDIR ? 'it is not there' : 'it is no ordinary file');
      try {
        const stat = fstat(fd);
        if (!isFile(stat)) throw refuse(name, 'it is no ordinary file');
        return { fd, sizeBytes: stat.sizeBytes, [Symbol.dispose]: () => close(fd) };
      } catch (error) {
        close(fd);
        throw error;
      }
    },
    [Symbol.dispose]: () => within[Symbol.dispose](),
  };
}
