import assert from 'node:assert/strict';
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { type ByteString, fromText } from '../../src/base/bytes.ts';
import { type BriefOptions, walkBriefly } from '../../src/diff/brief.ts';
import { walkChanges } from '../../src/diff/walk.ts';
import { type Change, isStorageError } from '../../src/index.ts';
import { mount, umount } from '../../src/linux/mount.ts';
import { lsetxattr } from '../../src/linux/xattr.ts';
import { need } from '../kit/require.ts';
import { tmpfs } from './overlay.ts';

// Lists of kinds and paths alone; that they are those of the whole walk: law/upper.test.ts.

const b = fromText;

function told(changes: Iterable<{ readonly kind: string; readonly path: ByteString }>): string[] {
  return [...changes].map(({ kind, path }) => `${kind} ${path}`);
}

/** What it finds. */
function briefly(...[view, base, options]: [ByteString, ByteString, Omit<BriefOptions, 'found'>]): Change[] {
  const found: Change[] = [];
  for (const _ of walkBriefly(view, base, { ...options, found }));
  return found;
}

for (const marked of [true, false])
  test(`walkBriefly() takes no whiteout by attribute for a file, at the root and below, over something and over nothing: ${marked ? '' : 'no '}directory is marked`, async (t) => {
    if (!need(t, 'mount')) return;
    await using dir = await tmpfs();
    const at = (name: string): string => `${dir.path}/${name}`;
    const set = (path: string, name: string, value: string): void =>
      void lsetxattr(b(at(path)), `trusted.overlay.${name}` as ByteString, Buffer.from(value));
    for (const path of ['base/d/in', 'base/e', 'upper/d/in', 'upper/e', 'upper/n', 'view']) {
      mkdirSync(at(path), { recursive: true });
    }
    for (const path of ['f', 'd/f', 'd/in/f', 'e/f']) writeFileSync(at(`base/${path}`), 'below');
    for (const path of marked ? ['upper', 'upper/d', 'upper/n'] : []) set(path, 'opaque', 'x');
    for (const place of ['', 'd/', 'd/in/', 'e/', 'n/']) {
      for (const name of ['f', 'nothing']) {
        writeFileSync(at(`upper/${place}${name}`), '');
        set(`upper/${place}${name}`, 'whiteout', '');
      }
      writeFileSync(at(`upper/${place}empty`), '');
    }
    const view = at('view');
    mount(b('overlay'), b(view), b('overlay'), 0, b(`lowerdir=${at('upper')}:${at('base')}`));
    try {
      const options = { upper: b(at('upper')), style: 'overlay', entering() {}, check() {} } as const;
      const expected = told(walkChanges(b(view), b(at('base')), 'docker'));
      assert.ok(expected.includes('delete /d/f') && !expected.includes('add /d/nothing'));
      assert.deepEqual(told(briefly(b(view), b(at('base')), options)), expected);
    } finally {
      umount(b(view));
    }
  });

test('walkBriefly() lists no file that was added with its metadata alone: it cannot be read', async (t) => {
  if (!need(t, 'mount')) return;
  await using dir = await tmpfs();
  const at = (name: string): string => `${dir.path}/${name}`;
  for (const path of ['base', 'upper', 'view']) mkdirSync(at(path));
  writeFileSync(at('upper/a'), 'whole');
  writeFileSync(at('upper/b'), '');
  truncateSync(at('upper/b'), 5000);
  lsetxattr(b(at('upper/b')), 'trusted.overlay.metacopy' as ByteString, new Uint8Array());
  const view = at('view');
  mount(b('overlay'), b(view), b('overlay'), 0, b(`metacopy=on,lowerdir=${at('upper')}:${at('base')}`));
  try {
    const options = { upper: b(at('upper')), style: 'overlay', entering() {}, check() {} } as const;
    for (const walk of [
      () => briefly(b(view), b(at('base')), options),
      () => walkChanges(b(view), b(at('base')), 'docker', { upper: options.upper }),
    ]) {
      assert.throws(
        () => [...walk()],
        (error) => isStorageError(error, 'corrupt') && error.path === '/b' && /metacopy/.test(error.message),
      );
    }
  } finally {
    umount(b(view));
  }
});
