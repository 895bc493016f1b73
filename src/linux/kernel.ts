import { existsSync, readFileSync, readlinkSync } from 'node:fs';

/** The value of a module parameter, or undefined where the kernel has none of that name. */
export function moduleParameter(module: string, name: string): string | undefined {
  const file = `/sys/module/${module}/parameters/${name}`;
  return existsSync(file) ? readFileSync(file, 'utf8').trim() : undefined;
}

/** True where /proc/filesystems lists the type. */
export function hasFilesystem(type: string): boolean {
  return readFileSync('/proc/filesystems', 'utf8')
    .split('\n')
    .some((line) => line.split('\t')[1] === type);
}

/** Changes with every boot. */
export function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}

/** True inside a user namespace that does not map every id to itself. */
export function inUserNamespace(): boolean {
  return readFileSync('/proc/self/uid_map', 'utf8').trim().split(/\s+/).join(' ') !== '0 0 4294967295';
}

/** What this process may do, as the kernel writes it: 16 hexadecimal digits. */
export function effectiveCapabilities(): string {
  return /^CapEff:\t(\w+)$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1] ?? '';
}

/** The thread's mount namespace, as `mnt:[number]`. */
export function mountNamespace(): string {
  return readlinkSync('/proc/thread-self/ns/mnt');
}

/** Start time of a process in clock ticks since boot, or undefined when there is none: with the pid, its identity. */
export function processStart(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // Fields after the command, which may itself hold spaces and parentheses; starttime is field 22 (proc(5)).
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]);
  } catch {
    return undefined; // no such process is an answer here, not an error
  }
}
