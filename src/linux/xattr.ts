import type { ByteString } from '../base/bytes.ts';
import { cstring, ENODATA, EOPNOTSUPP, ERANGE, judge, libc } from './libc.ts';

const NONE: readonly ByteString[] = [];
const VALUE_MAX = 64 * 1024; // XATTR_SIZE_MAX, include/uapi/linux/limits.h; names altogether: XATTR_LIST_MAX, the same

/** The value, or undefined where the attribute (ENODATA) or the whole mechanism (EOPNOTSUPP) is absent. */
export function lgetxattr(path: ByteString, name: ByteString): Buffer | undefined {
  const p = cstring(path);
  const n = cstring(name);
  return value((buffer) => libc.lgetxattr(p, n, buffer, buffer.length), path);
}

/** As `lgetxattr`, of an open descriptor (not an O_PATH one: EBADF). */
export function fgetxattr(fd: number, name: ByteString): Buffer | undefined {
  const n = cstring(name);
  return value((buffer) => libc.fgetxattr(fd, n, buffer, buffer.length), fd);
}

function value(read: (buffer: Buffer) => number, of: ByteString | number): Buffer | undefined {
  let buffer = Buffer.allocUnsafe(256);
  for (;;) {
    const length = judge(Number(read(buffer)), 'read attribute of', of, [ENODATA, EOPNOTSUPP, ERANGE]);
    if (length >= 0) return Buffer.from(buffer.subarray(0, length));
    if (length !== -ERANGE) return undefined;
    buffer = Buffer.allocUnsafe(VALUE_MAX);
  }
}

/** The names, in the filesystem's order; none where the filesystem has no attributes. */
export function llistxattr(path: ByteString): readonly ByteString[] {
  const p = cstring(path);
  return names((buffer) => libc.llistxattr(p, buffer, buffer.length), path);
}

/** As `llistxattr`, of an open descriptor (not an O_PATH one: EBADF). */
export function flistxattr(fd: number): readonly ByteString[] {
  return names((buffer) => libc.flistxattr(fd, buffer, buffer.length), fd);
}

/** Read at once, as in inode.ts. */
const NAMES = Buffer.allocUnsafeSlow(512);

function names(read: (buffer: Buffer) => number, of: ByteString | number): readonly ByteString[] {
  let buffer = NAMES;
  for (;;) {
    const length = judge(Number(read(buffer)), 'list attributes of', of, [EOPNOTSUPP, ERANGE]);
    if (length === -ERANGE) {
      buffer = Buffer.allocUnsafe(VALUE_MAX);
      continue;
    }
    if (length <= 0) return NONE;
    return buffer.toString('latin1', 0, length - 1).split('\0') as ByteString[];
  }
}

export function lsetxattr(path: ByteString, name: ByteString, value: Uint8Array, ...tolerated: number[]): number {
  const result = libc.lsetxattr(cstring(path), cstring(name), value, value.length, 0);
  return judge(result, `set attribute ${JSON.stringify(name)} of`, path, tolerated);
}

export function fsetxattr(fd: number, name: ByteString, value: Uint8Array, ...tolerated: number[]): number {
  const result = libc.fsetxattr(fd, cstring(name), value, value.length, 0);
  return judge(result, `set attribute ${JSON.stringify(name)} of`, fd, tolerated);
}

export function lremovexattr(path: ByteString, name: ByteString, ...tolerated: number[]): number {
  const result = libc.lremovexattr(cstring(path), cstring(name));
  return judge(result, `remove attribute ${JSON.stringify(name)} of`, path, tolerated);
}

export function fremovexattr(fd: number, name: ByteString, ...tolerated: number[]): number {
  const result = libc.fremovexattr(fd, cstring(name));
  return judge(result, `remove attribute ${JSON.stringify(name)} of`, fd, tolerated);
}
