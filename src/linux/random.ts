import { judge, libc } from './libc.ts';

// From the kernel itself, also in a jail, where a path would lead to something of the layer's. node:crypto, which takes
// its own from there, takes 8 ms to load.

/** random(4) as getrandom(2) gives it: waits until the kernel has enough, at the machine's start. */
export function randomBytes(size: number): Buffer {
  const bytes = Buffer.alloc(size);
  for (let at = 0; at < size; ) {
    const rest = at === 0 ? bytes : bytes.subarray(at);
    at += judge(libc.getrandom(rest, rest.length, 0), 'get', 'random bytes', []);
  }
  return bytes;
}

/** RFC 9562, version 4. */
export function randomUUID(): string {
  const bytes = randomBytes(16);
  bytes[6] = ((bytes[6] as number) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] as number) & 0x3f) | 0x80;
  const digits = bytes.toString('hex');
  return [digits.slice(0, 8), digits.slice(8, 12), digits.slice(12, 16), digits.slice(16, 20), digits.slice(20)].join(
    '-',
  );
}
