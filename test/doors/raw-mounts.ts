import { truncateSync, writeFileSync } from 'node:fs';
import { fromText } from '../../src/base/bytes.ts';
import type { RawMount } from '../../src/index.ts';
import { lsetxattr } from '../../src/linux/xattr.ts';

// Mounts as snapshotters hand them out, and what overlayfs writes into a layer, by hand.

/** An attribute. */
export function mark(path: string, name: string, value: string): void {
  lsetxattr(fromText(path), fromText(name), Buffer.from(value));
}

/** How a mount follows redirects and metacopy. */
export const FOLLOW: readonly string[] = ['redirect_dir=follow', 'metacopy=on'];

export function overlay(...options: string[]): RawMount {
  return { type: 'overlay', source: fromText('overlay'), options: options.map(fromText) };
}

export function bind(source: string): RawMount {
  return { type: 'bind', source: fromText(source), options: [] };
}

/** As the command line takes them. */
export function sides(lower: readonly RawMount[], upper: readonly RawMount[]): string[] {
  const texts = (name: string, raw: readonly RawMount[]): string[] => raw.flatMap((one) => [name, JSON.stringify(one)]);
  return [...texts('--lower', lower), ...texts('--upper', upper)];
}

/** A file of 5000 bytes whose data are elsewhere: in the same path below, or at `redirect`. */
export function metadataAlone(path: string, redirect?: string): void {
  writeFileSync(path, '');
  truncateSync(path, 5000);
  mark(path, 'trusted.overlay.metacopy', '');
  if (redirect !== undefined) mark(path, 'trusted.overlay.redirect', redirect);
}
