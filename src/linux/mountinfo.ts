import { readFileSync } from 'node:fs';
import { type ByteString, fromBytes } from '../base/bytes.ts';

/** One line of /proc/PID/mountinfo (proc_pid_mountinfo(5)), octal escapes undone. */
export interface MountEntry {
  readonly id: number;
  readonly parent: number;
  readonly device: string;
  /** The directory of the filesystem that is the root of this mount. */
  readonly root: ByteString;
  readonly mountPoint: ByteString;
  readonly options: string;
  readonly type: string;
  readonly source: ByteString;
  readonly superOptions: ByteString;
}

/** Lines that are not mountinfo's are left out: the kernel may add fields, never take them away. */
export function parseMountInfo(text: ByteString): MountEntry[] {
  const entries: MountEntry[] = [];
  for (const line of text.split('\n')) {
    const fields = line.split(' ');
    const dash = fields.indexOf('-', 6);
    const [id, parent, device, root, mountPoint, options] = fields;
    const [type, source, superOptions] = dash < 0 ? [] : fields.slice(dash + 1);
    if (mountPoint === undefined || root === undefined || type === undefined) continue;
    entries.push({
      id: Number(id),
      parent: Number(parent),
      device: device ?? '',
      root: unoctal(root),
      mountPoint: unoctal(mountPoint),
      options: options ?? '',
      type,
      source: unoctal(source ?? ''),
      superOptions: unoctal(superOptions ?? ''),
    });
  }
  return entries;
}

function unoctal(field: string): ByteString {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  ) as ByteString;
}

/** The mounts that a process (default: this thread) sees, in the order they were stacked. */
export function readMountInfo(pid: number | 'thread-self' = 'thread-self'): MountEntry[] {
  return parseMountInfo(fromBytes(readFileSync(`/proc/${pid}/mountinfo`)));
}
