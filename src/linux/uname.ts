import { judge, libc } from './libc.ts';

/** Of each field of struct utsname (sys/utsname.h); the third is the release. */
const FIELD_BYTES = 65;
const FIELDS = 6;

/** As `uname -r`. (`node:os` has it too, and takes a command 0.5 ms to load.) */
export function kernelRelease(): string {
  const names = Buffer.alloc(FIELDS * FIELD_BYTES);
  judge(libc.uname(names), 'ask for', 'the name of the kernel', []);
  const [release = ''] = names.toString('latin1', 2 * FIELD_BYTES, 3 * FIELD_BYTES).split('\0');
  return release;
}

/** Major and minor of the running kernel. */
export function kernelVersion(text: string = kernelRelease()): readonly [number, number] {
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(text) ?? [];
  return [Number(major ?? 0), Number(minor ?? 0)];
}
