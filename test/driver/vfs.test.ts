import assert from 'node:assert/strict';
import { linkSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { StorageError } from '../../src/base/errors.ts';
import { openLayerDriver } from '../../src/driver/open.ts';
import { below, dump, id, type Open } from '../contract/driver-house.ts';
import { driverSuite, family, onFilesystems, rejects } from '../contract/driver-suite.ts';

const open: Open = (settings) => openLayerDriver('vfs', settings);

driverSuite('vfs', open);

onFilesystems('vfs', open, (house) => {
  const a = id('a');
  const b = id('b');

  test('create() copies the tree of the parent, whose record becomes sealed (V1)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await h.driver.create(a, { writable: false });
    const { root } = await h.driver.content(a);
    writeFileSync(below(root, 'f'), 'x', { mode: 0o4711 });
    linkSync(below(root, 'f'), below(root, 'g'));
    assert.equal(readFileSync(below(h.driver.home, 'layers/a'), 'latin1'), 'state read-only\n');
    await h.driver.create(b, { parent: a, writable: true });
    const copy = await h.driver.content(b);
    assert.equal(statSync(below(copy.root, 'f')).ino, statSync(below(copy.root, 'g')).ino);
    assert.notEqual(statSync(below(copy.root, 'f')).ino, statSync(below(root, 'f')).ino);
    assert.equal(statSync(below(copy.root, '.')).mtimeMs, statSync(below(root, '.')).mtimeMs);
    assert.deepEqual([copy.root, copy.lowers], [`${h.driver.home}/dir/b`, [`${h.driver.home}/dir/a`]]);
    assert.equal(copy.whiteouts, 'none');
    assert.notEqual(copy.createdNs, undefined);
    assert.equal(readFileSync(below(h.driver.home, 'layers/a'), 'latin1'), 'state sealed\n');
    assert.equal(readFileSync(below(h.driver.home, 'layers/b'), 'latin1'), 'parent a\nstate writable\n');
    await using mounted = await h.driver.mount(b);
    assert.equal(mounted.path, copy.root);
  });

  test('mount() read-only is a view that nobody can write through, and remove() unmounts it (V1)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await h.driver.create(a, { writable: false });
    await h.driver.seal([a]);
    {
      await using view = await h.driver.mount(a, { readonly: true });
      assert.equal(view.path, `${h.driver.home}/mnt/a`);
      assert.throws(() => writeFileSync(below(view.path, 'f'), 'x'), { code: 'EROFS' });
      assert.equal(await h.driver.isMounted(a), true);
    }
    assert.equal(await h.driver.isMounted(a), false);
    await h.driver.mount(a, { readonly: true, holdName: 'kept' });
    await h.driver.remove(a);
    assert.throws(() => statSync(below(h.driver.home, 'mnt/a')), { code: 'ENOENT' });
  });

  test('create() leaves nothing behind when the copy fails (D4)', async (t) => {
    await using h = await house(t, {
      perform: (real) => ({
        ...real,
        copyTree: async (from, to) => {
          await real.copyTree(from, to);
          throw new StorageError('resource-exhausted', 'Cannot copy');
        },
      }),
    });
    if (h === undefined) return;
    await h.driver.create(a, { writable: false });
    const was = dump(h.driver.home);
    await rejects(h.driver.create(b, { parent: a, writable: true }), 'resource-exhausted');
    assert.deepEqual(dump(h.driver.home), was);
  });

  test('opening clears up what kills left in a home of its own; a tampered record is corrupt (D2)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await family(h);
    const was = dump(h.driver.home);
    mkdirSync(below(h.driver.home, '.tmp-1/x'), { recursive: true });
    mkdirSync(below(h.driver.home, '.removing-1'));
    writeFileSync(below(h.driver.home, 'layers/gone'), 'state writable\n');
    await open(h.settings);
    assert.deepEqual(dump(h.driver.home), was);
    // Killed between its tree and its record, and the tree deleted by another: by removing again, or by opening.
    for (const again of [() => h.driver.remove(id('c')), () => open(h.settings)]) {
      writeFileSync(below(h.driver.home, 'layers/c'), 'parent b\nstate writable\n');
      await again();
      assert.deepEqual(dump(h.driver.home), was);
    }
    for (const bad of ['', 'state odd\n', 'parent ../x\nstate sealed\n', 'parent a\nparent a\nstate sealed\n']) {
      writeFileSync(below(h.driver.home, 'layers/b'), bad);
      await rejects(h.driver.parent(b), 'corrupt', /layers\/b/);
    }
    rmSync(below(h.driver.home, 'layers/b'));
    assert.equal(await h.driver.parent(b), undefined, 'as in a home that Docker made');
  });
});
