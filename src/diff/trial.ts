import type { ByteString } from '../base/bytes.ts';
import type { InodeType } from '../fs/stat.ts';
import { ACL_ACCESS, ACL_DEFAULT, type Xattrs } from '../fs/xattrs.ts';
import { close, fchmod, fstat, futimens, O_RDWR, O_TMPFILE, openat } from '../linux/inode.ts';
import { EDQUOT, EINVAL, EISDIR, ENOSPC, EOPNOTSUPP, EPERM, EROFS } from '../linux/libc.ts';
import { fgetxattr, fsetxattr } from '../linux/xattr.ts';
import type { TarEntry } from '../tar/types.ts';

const HERE = '.' as ByteString;
/** Where no trial is possible. */
const NO_TRIAL = [EOPNOTSUPP, EISDIR, EINVAL, EROFS, ENOSPC, EDQUOT, EPERM] as const;
/** As unpacking does, which then leaves the attribute out and says so. */
const REFUSED = [EOPNOTSUPP, EPERM, EINVAL] as const;

/**
 * What this filesystem makes of an entry's mode, time and attributes: it may refuse some, cut times, and make a mode of an
 * access list. Tried on files without a name, and only when something differs; where there are none nothing is known.
 */
export class Trial {
  readonly #dirFd: number;
  readonly #entry: TarEntry;
  readonly #wanted: Xattrs;

  constructor(dirFd: number, entry: TarEntry, wanted: Xattrs) {
    this.#dirFd = dirFd;
    this.#entry = entry;
    this.#wanted = wanted;
  }

  get made(): { readonly mode: number; readonly mtimeNs: bigint } | undefined {
    return this.#on((fd) => {
      const { mode, mtimeNs } = this.#entry;
      fchmod(fd, mode);
      const acl = this.#wanted.get(ACL_ACCESS);
      if (acl !== undefined) fsetxattr(fd, ACL_ACCESS, acl, ...REFUSED);
      futimens(fd, mtimeNs, mtimeNs);
      const stat = fstat(fd);
      return { mode: stat.mode & 0o7777, mtimeNs: stat.mtimeNs };
    });
  }

  xattr(key: ByteString, type: InodeType): Buffer | undefined {
    const value = this.#wanted.get(key) as Buffer;
    if (type !== 'file' && type !== 'directory') return undefined; // user.* is for these two only (xattr(7))
    // A file has no default list; the same bytes are refused or taken as an access list.
    const as = key === ACL_DEFAULT ? ACL_ACCESS : key;
    return this.#on((fd) => {
      if (fsetxattr(fd, as, value, ...REFUSED) < 0) return undefined;
      return key === ACL_DEFAULT ? value : fgetxattr(fd, key);
    });
  }

  #on<T>(task: (fd: number) => T): T | undefined {
    const fd = openat(this.#dirFd, HERE, O_TMPFILE | O_RDWR, 0o600, ...NO_TRIAL);
    if (fd < 0) return undefined;
    try {
      return task(fd);
    } finally {
      close(fd);
    }
  }
}
