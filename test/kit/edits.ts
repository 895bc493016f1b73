import {
  appendFileSync,
  chmodSync,
  closeSync,
  lchownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import fc from 'fast-check';
import { type ByteString, fromBytes, fromText, toBytes } from '../../src/base/bytes.ts';
import { isStorageError } from '../../src/base/errors.ts';
import { AT_FDCWD, mknodat, S_IFBLK, S_IFCHR, S_IFIFO, S_IFSOCK, utimensat } from '../../src/linux/inode.ts';
import { lremovexattr, lsetxattr } from '../../src/linux/xattr.ts';

/**
 * One change of a tree. Paths are relative, as `bytesOf` reads them. What cannot be done there (no such file, it exists…)
 * does nothing.
 */
export type Edit =
  | { readonly do: 'create' | 'append' | 'overwrite'; readonly path: string; readonly seed: number }
  /** Other bytes, same size and times: what only a comparison of contents finds. */
  | { readonly do: 'forge'; readonly path: string }
  /** Written with what it held: copied up, but no change. */
  | { readonly do: 'rewrite'; readonly path: string }
  | { readonly do: 'delete' | 'mkdir' | 'fifo' | 'socket' | 'touch'; readonly path: string }
  | { readonly do: 'device'; readonly path: string; readonly block: boolean; readonly minor: number }
  /** `relink` takes the place of what is there. */
  | { readonly do: 'rename' | 'link' | 'relink'; readonly path: string; readonly to: string }
  /** A file with holes before and behind a few bytes. */
  | { readonly do: 'sparse'; readonly path: string; readonly sizeBytes: number }
  | { readonly do: 'symlink'; readonly path: string; readonly target: string }
  | { readonly do: 'chmod'; readonly path: string; readonly mode: number }
  | { readonly do: 'chown'; readonly path: string; readonly uid: number; readonly gid: number }
  | { readonly do: 'xattr'; readonly path: string; readonly name: string; readonly value: string | undefined }
  /** The name becomes another type, with nothing between. */
  | { readonly do: 'replace'; readonly path: string; readonly by: 'file' | 'directory' | 'symlink' };

/** A capability (VFS_CAP_REVISION_2, cap_net_raw) as `security.capability` holds it. */
export const CAP_NET_RAW = '\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0';

/** ACLs (version 2, include/uapi/linux/posix_acl_xattr.h), each with a named user, as `system.posix_acl_access` and `_default` hold them. */
export const ACLS: readonly string[] = [1, 70_000].map((user) => {
  const entries = [
    [0x01, 6, -1],
    [0x02, 5, user],
    [0x04, 4, -1],
    [0x10, 5, -1],
    [0x20, 4, -1],
  ] as const;
  const acl = Buffer.alloc(4 + 8 * entries.length);
  acl.writeUInt32LE(2, 0);
  for (const [i, [tag, permissions, id]] of entries.entries()) {
    acl.writeUInt16LE(tag, 4 + 8 * i);
    acl.writeUInt16LE(permissions, 6 + 8 * i);
    acl.writeInt32LE(id, 8 + 8 * i);
  }
  return acl.toString('latin1');
});

/** A text's bytes: UTF-8, and where it has U+DC80 to U+DCFF (as Python writes what is no UTF-8) those of their last byte. */
export function bytesOf(text: string): ByteString {
  const parts = text.split(/([\udc80-\udcff])/);
  return parts
    .map((part, i) => (i % 2 === 0 ? fromText(part) : String.fromCharCode(part.charCodeAt(0) & 0xff)))
    .join('') as ByteString;
}

/** What `touch` sets, and `create` of an even seed: files that look equal. */
const OLD_NS = 1_600_000_000_123_456_789n;

/** Does `edits` below `root` one after another. */
export function applyEdits(root: string, edits: readonly Edit[]): void {
  for (const edit of edits) {
    try {
      applyEdit(root, edit);
    } catch (error) {
      // The language is total: an impossible edit is none.
      if (!isStorageError(error) && (error as NodeJS.ErrnoException).syscall === undefined) throw error;
    }
  }
}

function applyEdit(root: string, edit: Edit): void {
  const at = (relative: string): Buffer => toBytes(`${fromText(root)}/${bytesOf(relative)}` as ByteString);
  const path = at(edit.path);
  const bytes = fromBytes(path);
  switch (edit.do) {
    case 'create':
      writeFileSync(path, content(edit.seed), { flag: 'wx' });
      if (edit.seed % 2 === 0) utimensat(AT_FDCWD, bytes, undefined, OLD_NS);
      break;
    case 'append':
      if (lstatSync(path).isFile()) appendFileSync(path, content(edit.seed));
      break;
    case 'overwrite':
      if (lstatSync(path).isFile()) writeFileSync(path, content(edit.seed));
      break;
    case 'forge':
    case 'rewrite': {
      const before = lstatSync(path, { bigint: true });
      if (!before.isFile()) return;
      const data = readFileSync(path);
      if (edit.do === 'forge' && data.length > 0) data[0] = (data[0] as number) ^ 1;
      writeFileSync(path, data, { flag: 'r+' });
      utimensat(AT_FDCWD, bytes, before.atimeNs, before.mtimeNs);
      break;
    }
    case 'delete':
      rmSync(path, { recursive: true });
      break;
    case 'mkdir':
      mkdirSync(path);
      break;
    case 'fifo':
      mknodat(AT_FDCWD, bytes, S_IFIFO | 0o640, 0, 0);
      break;
    case 'socket':
      mknodat(AT_FDCWD, bytes, S_IFSOCK | 0o640, 0, 0);
      break;
    case 'touch':
      utimensat(AT_FDCWD, bytes, undefined, OLD_NS);
      break;
    case 'device':
      mknodat(AT_FDCWD, bytes, (edit.block ? S_IFBLK : S_IFCHR) | 0o600, 7, edit.minor);
      break;
    case 'rename':
      renameSync(path, at(edit.to));
      break;
    case 'relink':
      if (edit.path === edit.to || !lstatSync(path).isFile()) return;
      rmSync(at(edit.to), { recursive: true, force: true });
      linkSync(path, at(edit.to));
      break;
    case 'link':
      linkSync(path, at(edit.to));
      break;
    case 'sparse':
      writeFileSync(path, '', { flag: 'wx' });
      truncateSync(path, edit.sizeBytes);
      writeAt(path, 'data', Math.floor(edit.sizeBytes / 2));
      break;
    case 'symlink':
      symlinkSync(toBytes(bytesOf(edit.target)), path);
      break;
    case 'chmod':
      if (!lstatSync(path).isSymbolicLink()) chmodSync(path, edit.mode);
      break;
    case 'chown':
      lchownSync(path, edit.uid, edit.gid);
      break;
    case 'xattr': {
      const name = bytesOf(edit.name);
      if (edit.value === undefined) lremovexattr(bytes, name);
      else lsetxattr(bytes, name, Buffer.from(edit.value, 'latin1'));
      break;
    }
    case 'replace':
      rmSync(path, { recursive: true, force: true });
      if (edit.by === 'file') writeFileSync(path, 'replaced');
      else if (edit.by === 'directory') mkdirSync(path);
      else symlinkSync('replaced', path);
  }
}

function writeAt(path: Buffer, text: string, position: number): void {
  const fd = openSync(path, 'r+');
  try {
    writeSync(fd, text, position);
  } finally {
    closeSync(fd);
  }
}

function content(seed: number): Buffer {
  return Buffer.alloc(seed % 7 === 0 ? 0 : 1 + (seed % 5000), `content ${seed} `);
}

const NAMES = ['a', 'b', 'a.b', 'ä'] as const;
/** No UTF-8, what tools quote, what looks like something else, as long as a name can be. */
export const STRANGE_NAMES: readonly string[] = ['\udcff\udcfe', 'new\nline \\n', 'ä\udc80"', '-.wh.', 'x'.repeat(255)];
const name = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom(...NAMES) },
  { weight: 1, arbitrary: fc.constantFrom(...STRANGE_NAMES) },
);
const path = fc.array(name, { minLength: 1, maxLength: 3, size: 'max' }).map((names) => names.join('/'));
const seed = fc.oneof(fc.constantFrom(0, 1, 2, 4), fc.nat({ max: 100_000 }));

/** One edit over a small universe of names, so that edits meet. No sockets: archives cannot hold them. */
export const edit: fc.Arbitrary<Edit> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ do: fc.constant('create' as const), path, seed }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('mkdir' as const), path }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constantFrom('append' as const, 'overwrite' as const), path, seed }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constantFrom('delete' as const, 'touch' as const), path }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constantFrom('forge' as const, 'rewrite' as const), path }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('fifo' as const), path }) },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('device' as const), path, block: fc.boolean(), minor: fc.nat({ max: 9 }) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('sparse' as const), path, sizeBytes: fc.constantFrom(20_000, 1_100_000) }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constantFrom('rename' as const, 'link' as const, 'relink' as const),
      path,
      to: path,
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('symlink' as const),
      path,
      target: fc.constantFrom('a', '../b', '/nowhere', '\udcff', 'long'.repeat(60)),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('chmod' as const),
      path,
      mode: fc.constantFrom(0o600, 0o755, 0o4711, 0o1777, 0),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('chown' as const),
      path,
      uid: fc.nat({ max: 3 }),
      gid: fc.constantFrom(0, 5, 70_000),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.oneof(
      fc.record({
        do: fc.constant('xattr' as const),
        path,
        name: fc.constantFrom('user.a', 'user.b', 'user.\udcff'),
        value: fc.constantFrom('1', '\0\xff', '', '\n=', undefined),
      }),
      fc.record({
        do: fc.constant('xattr' as const),
        path,
        name: fc.constantFrom('system.posix_acl_access', 'system.posix_acl_default'),
        value: fc.constantFrom(...ACLS, undefined),
      }),
      fc.record({
        do: fc.constant('xattr' as const),
        path,
        name: fc.constant('security.capability'),
        value: fc.constantFrom(CAP_NET_RAW, undefined),
      }),
    ),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('replace' as const),
      path,
      by: fc.constantFrom('file' as const, 'directory' as const, 'symlink' as const),
    }),
  },
);

/** A sequence of edits that makes, or changes, a tree. */
export function edits(max: number): fc.Arbitrary<Edit[]> {
  return fc.array(edit, { minLength: Math.floor(max / 3), maxLength: max, size: 'max' });
}

/** As `edits`, from nothing: first a few directories and files, so that the rest meets something. */
export function making(max: number): fc.Arbitrary<Edit[]> {
  const first: Edit[] = ['a', 'b', 'a/a', 'a/b', 'b/a', 'b/ä', STRANGE_NAMES[1] as string].map((path) => ({
    do: 'mkdir',
    path,
  }));
  const files: Edit[] = ['a/ä', `a/${STRANGE_NAMES[0]}`, 'a/a/a', 'a/a/b', 'a/b/a', 'b/a/b', 'ä'].map((path) => ({
    do: 'create',
    path,
    seed: 2,
  }));
  return edits(max).map((more) => [...first, ...files, ...more]);
}
