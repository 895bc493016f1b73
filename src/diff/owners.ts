import { type IdMaps, toHost } from '../base/id-map.ts';
import type { TarEntry } from '../tar/types.ts';
import type { Place } from './layer-tree.ts';

/** Who owns what is unpacked: the archive's ids as the host's, and where the kernel gives them by itself. */
export class Owners {
  readonly #ids: IdMaps;
  // Of this thread: what it makes is theirs.
  readonly #uid = process.geteuid?.();
  readonly #gid = process.getegid?.();

  constructor(ids: IdMaps) {
    this.#ids = ids;
  }

  uid({ uid }: TarEntry): number {
    return toHost(uid, this.#ids.uid, 'user');
  }

  gid({ gid }: TarEntry): number {
    return toHost(gid, this.#ids.gid, 'group');
  }

  /** Whether what is made in that place has the entry's owner: its group is the thread's or the directory's, which are the same there. */
  given({ looks }: Place, entry: TarEntry): boolean {
    const gid = this.gid(entry);
    return looks?.gid === gid && gid === this.#gid && this.uid(entry) === this.#uid;
  }
}
