import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { type ByteString, quote, toBytes } from '../../base/bytes.ts';
import { StorageError } from '../../base/errors.ts';

/** Opens a record or a kept tar for reading. What stands there and is no ordinary file is not of our making: `corrupt`. */
export function openOwn(path: ByteString): number {
  // Without waiting: a fifo in its place would keep the thread for ever.
  const fd = openSync(toBytes(path), constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW);
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw new StorageError('corrupt', `Cannot read ${quote(path)}: it is no ordinary file`, { path });
}
