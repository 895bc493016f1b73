import { mkdirSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { applyEdits, CAP_NET_RAW, type Edit } from '../kit/edits.ts';
import { tool } from './tool.ts';
import { type WrittenImage, writeLayout } from './write-layout.ts';

// Images with all that a layer tar can say, packed by GNU tar and put together without layerstore.

const WHITEOUT_SEED = 14;
const LONG = 'n'.repeat(255);
const DEEP = ['d'.repeat(120), 'e'.repeat(120), 'f'.repeat(120)];
const NAMES = ['with space', 'back\\slash', 'comma,colon:', 'new\nline', '-dash', 'quote"\'', 'grün', '#{}*?', LONG];

/** Every type of file, owners, modes, times in ns, attributes, hard links, devices, names that programs trip over. */
const BASE: readonly Edit[] = [
  ...['etc', 'bin', 'dev', 'data', 'data/old', 'data/old/deep', 'data/kept', 'names', 'app', 'app/lib', 'tmp'].map(
    (path): Edit => ({ do: 'mkdir', path }),
  ),
  ...DEEP.map((_, i): Edit => ({ do: 'mkdir', path: `names/${DEEP.slice(0, i + 1).join('/')}` })),
  ...NAMES.map((name): Edit => ({ do: 'create', path: `names/${name}`, seed: 2 })),
  { do: 'create', path: `names/${DEEP.join('/')}/file`, seed: 4 },
  { do: 'create', path: 'etc/passwd', seed: 10 },
  { do: 'create', path: 'etc/gone', seed: 11 },
  { do: 'create', path: 'etc/empty', seed: 7 },
  { do: 'create', path: 'etc/mode', seed: 16 },
  { do: 'chmod', path: 'etc/mode', mode: 0 },
  { do: 'create', path: 'bin/su', seed: 1000 },
  { do: 'chown', path: 'bin/su', uid: 3, gid: 70_000 },
  { do: 'chmod', path: 'bin/su', mode: 0o6711 },
  { do: 'create', path: 'bin/ping', seed: 4990 },
  { do: 'xattr', path: 'bin/ping', name: 'security.capability', value: CAP_NET_RAW },
  { do: 'xattr', path: 'bin/ping', name: 'user.bytes', value: '\0\xff=\n' },
  { do: 'xattr', path: 'data/kept', name: 'user.on-a-directory', value: 'yes' },
  { do: 'chmod', path: 'tmp', mode: 0o1777 },
  { do: 'symlink', path: 'etc/link', target: 'passwd' },
  { do: 'symlink', path: 'etc/absolute', target: '/data/kept' },
  { do: 'symlink', path: 'data/dangling', target: '../nowhere' },
  { do: 'chown', path: 'data/dangling', uid: 2, gid: 1 },
  { do: 'touch', path: 'data/dangling' },
  { do: 'device', path: 'dev/char', block: false, minor: 1 },
  { do: 'device', path: 'dev/block', block: true, minor: 9 },
  { do: 'fifo', path: 'dev/fifo' },
  { do: 'touch', path: 'dev/fifo' },
  { do: 'create', path: 'app/lib/a', seed: 22 },
  { do: 'link', path: 'app/lib/a', to: 'app/lib/b' },
  { do: 'link', path: 'app/lib/a', to: 'app/c' },
  { do: 'link', path: 'data/dangling', to: 'data/dangling-too' },
  { do: 'create', path: 'data/old/file', seed: 30 },
  { do: 'create', path: 'data/old/deep/file', seed: 31 },
  { do: 'create', path: 'data/kept/file', seed: 32 },
  { do: 'create', path: 'app/becomes-a-directory', seed: 33 },
  { do: 'mkdir', path: 'app/becomes-a-file' },
  { do: 'create', path: 'app/becomes-a-file/inside', seed: 34 },
  { do: 'symlink', path: 'app/becomes-a-real-directory', target: '../data/kept' },
  { do: 'touch', path: 'data' },
];

/** Whiteouts of a file, a directory, one name of several; an opaque directory; types that change. */
const MIDDLE: readonly Edit[] = [
  ...['etc', 'data', 'data/old', 'app', 'app/lib', 'app/becomes-a-directory', 'app/becomes-a-real-directory'].map(
    (path): Edit => ({ do: 'mkdir', path }),
  ),
  ...['etc/.wh.gone', 'etc/.wh.never-was', 'app/lib/.wh.b', 'data/old/.wh..wh..opq'].map(
    (path): Edit => ({ do: 'create', path, seed: WHITEOUT_SEED }),
  ),
  { do: 'create', path: 'data/old/new', seed: 40 },
  { do: 'create', path: 'app/becomes-a-directory/file', seed: 41 },
  { do: 'create', path: 'app/becomes-a-file', seed: 45 },
  { do: 'create', path: 'app/becomes-a-real-directory/file', seed: 43 },
  { do: 'create', path: 'etc/passwd', seed: 44 },
];

/** What differs in its owner, mode and attributes only; names that were deleted, back; a link among new files. */
const TOP: readonly Edit[] = [
  ...['etc', 'bin', 'data', 'data/kept', 'new'].map((path): Edit => ({ do: 'mkdir', path })),
  { do: 'chmod', path: 'data/kept', mode: 0o700 },
  { do: 'create', path: 'bin/su', seed: 1000 },
  { do: 'chown', path: 'bin/su', uid: 4, gid: 0 },
  { do: 'chmod', path: 'bin/su', mode: 0o2750 },
  { do: 'create', path: 'etc/gone', seed: 50 },
  { do: 'xattr', path: 'etc/gone', name: 'user.a', value: '1' },
  { do: 'create', path: 'new/a', seed: 51 },
  { do: 'link', path: 'new/a', to: 'new/b' },
  { do: 'create', path: '.wh.tmp', seed: WHITEOUT_SEED },
];

export interface StrangeImage extends WrittenImage {
  /** OCI layout, tagged `1`. */
  readonly layout: string;
  /** `strange:1`. */
  readonly reference: string;
  /** Bottom first. */
  readonly tars: readonly string[];
}

/** The three layers above in the existing `directory`; with `layers` 1 the base alone, which has no whiteouts. */
export async function makeStrangeImage(directory: string, layers: 1 | 3 = 3): Promise<StrangeImage> {
  const tars: string[] = [];
  for (const [i, edits] of [BASE, MIDDLE, TOP].slice(0, layers).entries()) {
    const tree = join(directory, `tree${i}`);
    mkdirSync(tree, { mode: 0o755 });
    applyEdits(tree, edits);
    if (i === 0)
      writeFileSync(Buffer.concat([Buffer.from(`${tree}/names/`), Buffer.from([0xff, 0xfe, 0x20])]), 'bytes');
    utimesSync(tree, 1_700_000_000 + i, 1_700_000_000 + i);
    const tar = join(directory, `layer${i}.tar`);
    const how = ['--format=pax', '--xattrs', '--xattrs-include=*', '--numeric-owner', '--sort=name'];
    await tool('tar', ['-C', tree, ...how, '-cf', tar, '.']);
    tars.push(tar);
  }
  const layout = join(directory, 'layout');
  const reference = 'strange:1';
  return { ...writeLayout(layout, reference, tars), layout, reference, tars };
}
