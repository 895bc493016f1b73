import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { encodeEntry, fromBytes, fromText, paddingFor, type TarEntry, trailer } from '../../src/tar/index.ts';

/** A fixed time, so that what is written here has the same bytes in every run. */
const WRITTEN_NS = 1_767_225_600n * 1_000_000_000n;

/** A small layer tar, made in memory with layerstore's own writer. */
export class LayerTar {
  readonly #parts: Uint8Array[] = [];

  /** Files of this machine with their mode, owner and time, under the same path or below `to`. */
  copy(paths: readonly string[], place: (path: string) => string = (path) => path): this {
    for (const path of paths) {
      const stat = lstatSync(path, { bigint: true });
      const common = {
        mode: Number(stat.mode & 0o7777n),
        uid: Number(stat.uid),
        gid: Number(stat.gid),
        mtimeNs: stat.mtimeNs,
      };
      const name = place(path);
      if (stat.isDirectory()) this.#put({ ...common, type: 'directory', name });
      else if (stat.isSymbolicLink())
        this.#put({ ...common, type: 'symlink', name, link: readlinkSync(path, 'buffer') });
      else if (stat.isFile()) this.#put({ ...common, type: 'file', name }, readFileSync(path));
    }
    return this;
  }

  /** A whole directory of this machine, owned by root, as `to`. */
  copyTree(from: string, to: string): this {
    this.directory(to);
    for (const entry of readdirSync(from, { withFileTypes: true })) {
      const [path, name] = [join(from, entry.name), join(to, entry.name)];
      if (entry.isDirectory()) this.copyTree(path, name);
      else if (entry.isFile()) this.file(name, readFileSync(path), lstatSync(path).mode & 0o777);
    }
    return this;
  }

  directory(name: string, mode = 0o755): this {
    return this.#put({ ...MINE, type: 'directory', name, mode });
  }

  file(name: string, content: string | Uint8Array, mode = 0o644): this {
    return this.#put({ ...MINE, type: 'file', name, mode }, Buffer.from(content));
  }

  symlink(name: string, target: string): this {
    return this.#put({ ...MINE, type: 'symlink', name, mode: 0o777, link: Buffer.from(target) });
  }

  hardLink(name: string, to: string): this {
    return this.#put({ ...MINE, type: 'hardlink', name, mode: 0o644, link: Buffer.from(to) });
  }

  /** What makes a layer delete `directory/name` of the layers below. */
  whiteout(directory: string, name: string): this {
    return this.file(`${directory}/.wh.${name}`, '', 0);
  }

  /** What makes a layer hide all that the layers below have in `directory`. */
  opaque(directory: string): this {
    return this.file(`${directory}/.wh..wh..opq`, '', 0);
  }

  bytes(): Buffer {
    return Buffer.concat([...this.#parts, trailer()]);
  }

  #put(member: Member, content: Buffer = Buffer.alloc(0)): this {
    const { type, name, link, mode, uid, gid, mtimeNs } = member;
    const header = encodeEntry({
      type,
      name: fromText(name.replace(/^\//, '')),
      linkName: fromBytes(link ?? Buffer.alloc(0)),
      mode,
      uid,
      gid,
      mtimeNs,
      sizeBytes: content.length,
      devMajor: 0,
      devMinor: 0,
      xattrs: new Map(),
    });
    this.#parts.push(header, content, paddingFor(content.length));
    return this;
  }
}

interface Member extends Pick<TarEntry, 'type' | 'mode' | 'uid' | 'gid' | 'mtimeNs'> {
  readonly name: string;
  readonly link?: Buffer;
}

const MINE = { uid: 0, gid: 0, mtimeNs: WRITTEN_NS } as const;
