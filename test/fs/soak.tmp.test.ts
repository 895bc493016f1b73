import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { type ByteString, fromText, quote } from '../../src/base/bytes.ts';
import { isStorageError } from '../../src/base/errors.ts';
import { type Found, LowerView } from '../../src/fs/lower-view.ts';
import { isDirectory } from '../../src/fs/stat.ts';
import { walkTree } from '../../src/fs/walk.ts';
import { viaProc, xattrsOf } from '../../src/fs/xattrs.ts';
import { AT_FDCWD, close, O_RDONLY, openat } from '../../src/linux/inode.ts';
import { lsetxattr } from '../../src/linux/xattr.ts';
import { overlay, tmpfs } from '../diff/overlay.ts';
import { applyEdits, edits, making } from '../kit/edits.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { dumpTree } from '../kit/tree-dump.ts';

const b = fromText;

/** What a view shows, path by path, without the mount's own inode numbers. */
function shown(view: LowerView, dir = ''): string[] {
  const lines: string[] = [];
  for (const name of view.list(dir as ByteString) ?? assert.fail(dir)) {
    const path = `${dir}/${name}` as ByteString;
    const found = view.lookup(path) ?? assert.fail(quote(path));
    lines.push(describe(path, found, [...view.xattrs(found)]));
    if (isDirectory(found.stat)) lines.push(...shown(view, path));
  }
  return lines;
}

function describe(path: ByteString, { stat }: Pick<Found, 'stat'>, xattrs: readonly unknown[]): string {
  return [path, stat.mode, stat.uid, stat.gid, isDirectory(stat) || stat.sizeBytes, stat.mtimeNs, ...xattrs].join(' ');
}

test('LowerView shows what an overlay of the same layers shows', async (t) => {
  if (!need(t, 'mount')) return;
  await using dir = await tmpfs();
  let run = 0;
  fc.assert(
    fc.property(making(15), edits(15), edits(15), (one, two, three) => {
      const at = `${dir.path}/${++run}`;
      mkdirSync(`${at}/base`, { recursive: true });
      applyEdits(`${at}/base`, one);
      const layers = [`${at}/base`];
      for (const [i, changes] of [two, three].entries()) {
        using layer = overlay(`${at}/${i}`, layers, 'index=off,redirect_dir=nofollow');
        applyEdits(layer.merged, changes);
        layers.unshift(layer.upper);
      }
      using merged = overlay(`${at}/all`, layers);
      using view = new LowerView(layers.map(b), 'overlay');
      const truth: string[] = [];
      for (const visit of walkTree(b(merged.merged))) {
        truth.push(describe(visit.path, visit, [...xattrsOf(viaProc(visit.dirFd, visit.name))]));
      }
      assert.deepEqual(shown(view), truth);
    }),
    { numRuns: 800 },
  );
});

test('LowerView follows no symlink, keeps few descriptors open, and closes all', async (t) => {
  if (!need(t, 'root')) return;
  await using dir = await scratch('lower');
  const [top, bottom] = [`${dir.path}/top`, `${dir.path}/bottom`];
  mkdirSync(`${bottom}/etc/deep`, { recursive: true });
  mkdirSync(top);
  applyEdits(bottom, [
    { do: 'create', path: 'etc/passwd', seed: 5 },
    { do: 'symlink', path: 'alias', target: '/etc' },
    ...Array.from({ length: 600 }, (_, i) => ({ do: 'mkdir' as const, path: `d${i}` })),
  ]);
  const before = readdirSync('/proc/self/fd').length;
  {
    using view = new LowerView([b(top), b(bottom)], 'overlay');
    assert.equal(view.lookup(b('alias/passwd')), undefined);
    assert.equal(view.lookup(b('etc/../etc/passwd')), undefined);
    assert.equal(view.lookup(b('etc/passwd/x')), undefined);
    assert.equal(view.lookup(b('/etc//./passwd'))?.layer, 1);
    assert.equal(view.lookup(b(''))?.layer, 0);
    assert.equal(view.list(b('alias')), undefined);
    const link = view.lookup(b('alias')) ?? assert.fail();
    assert.equal(view.readlink(link), '/etc');
    for (let i = 0; i < 600; i++) assert.equal(view.lookup(b(`d${i}/x`)), undefined);
    assert.ok(readdirSync('/proc/self/fd').length - before < 300);
    const found = view.lookup(b('etc/passwd')) ?? assert.fail();
    const to = openat(AT_FDCWD, b(top), O_RDONLY);
    view.copyUp(found, to, b('copy'));
    close(to);
    assert.deepEqual(readFileSync(`${top}/copy`), readFileSync(`${bottom}/etc/passwd`));
  }
  assert.equal(readdirSync('/proc/self/fd').length, before);
});

test('LowerView reads whiteouts made of attributes and the userxattr style, and refuses redirects', async (t) => {
  if (!need(t, 'root')) return;
  await using dir = await tmpfs();
  const [top, bottom] = [`${dir.path}/top`, `${dir.path}/bottom`];
  mkdirSync(`${bottom}/d/hidden`, { recursive: true });
  mkdirSync(`${bottom}/moved`);
  mkdirSync(`${top}/d`, { recursive: true });
  mkdirSync(`${top}/moved`);
  applyEdits(top, [{ do: 'create', path: 'd/hidden', seed: 0 }]);
  lsetxattr(b(`${top}/d`), b('user.overlay.opaque'), Buffer.from('x'));
  lsetxattr(b(`${top}/d/hidden`), b('user.overlay.whiteout'), Buffer.from('y'));
  lsetxattr(b(`${top}/moved`), b('user.overlay.redirect'), Buffer.from('/elsewhere'));
  {
    using view = new LowerView([b(top), b(bottom)], 'overlay-userxattr');
    assert.deepEqual(view.list(b('d')), []);
    assert.throws(
      () => view.lookup(b('moved/x')),
      (error) => isStorageError(error, 'unsupported'),
    );
  }
  {
    using view = new LowerView([b(top), b(bottom)], 'overlay');
    assert.deepEqual(view.list(b('d')), ['hidden']);
    assert.deepEqual(view.list(b('moved')), []);
  }
  assert.equal(dumpTree(top).length, 4);
});
