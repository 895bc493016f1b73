import assert from 'node:assert/strict';
import { closeSync, globSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { file, layer, ociImage } from '../kit/layer-builder.ts';
import { scratch } from '../kit/scratch.ts';
import { DRIVERS, withStore } from '../kit/stores.ts';

for (const driver of DRIVERS) {
  test(`saveTo() writes the very bytes that save() gives, kept tars too (${driver})`, async (t) => {
    await withStore(t, driver, async (store) => {
      await using dir = await scratch('save-to');
      const big = Buffer.alloc(3_000_000, 'layer ');
      const plain = layer(file('a', 'x'), file('big', big));
      const twice = layer(file('a', 'first'), file('a', 'second')); // given back from a kept tar
      const [image] = await store.images.load([ociImage([plain, twice])] as unknown as AsyncIterable<Uint8Array>);
      assert.ok(image);
      const [, kept] = await store.layers.stored(image);
      assert.equal(kept?.exact.holds, false);
      for (const format of ['oci', 'docker'] as const) {
        const parts: Uint8Array[] = [];
        for await (const part of store.images.save([image], { format })) parts.push(part);
        const path = join(dir.path, format);
        const fd = openSync(path, 'wx+');
        await store.images.saveTo([image], fd, { format });
        closeSync(fd);
        assert.ok(readFileSync(path).equals(Buffer.concat(parts)), format);
      }
    });
  });

  test(`saveTo() fails as a whole when a layer's file was changed, or at an abort (${driver})`, async (t) => {
    await withStore(t, driver, async (store, path) => {
      await using dir = await scratch('save-to');
      const [image] = await store.images.load([
        ociImage([layer(file('a', 'x'))]),
      ] as unknown as AsyncIterable<Uint8Array>);
      assert.ok(image);
      const fd = openSync(join(dir.path, 'out'), 'wx+');
      try {
        const reason = new Error('enough');
        await assert.rejects(store.images.saveTo([image], fd, { signal: AbortSignal.abort(reason) }), reason);
        await assert.rejects(store.images.saveTo(['nope'], fd), { code: 'not-found' });
        for (const found of globSync(`${path}/store/*/**/a`)) writeFileSync(found, 'y');
        await assert.rejects(store.images.saveTo([image], fd), { code: 'corrupt' });
      } finally {
        closeSync(fd);
      }
    });
  });
}
