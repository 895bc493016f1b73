import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { test } from 'node:test';
import { type ByteString, fromText } from '../../src/base/bytes.ts';
import { SILENT } from '../../src/base/log.ts';
import { CountedMounts, type Place } from '../../src/driver/counted.ts';
import { id } from '../contract/driver-house.ts';
import { rejects } from '../contract/driver-suite.ts';
import { inlinePerformer } from '../kit/inline-performer.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';

test('mount() with another label while mounted is failed-precondition; the first one wins until the last unmount (D3)', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await scratch('labels');
  await using perform = inlinePerformer();
  const at = (name: string): ByteString => fromText(`${dir.path}/${name}`);
  mkdirSync(`${dir.path}/tree`);
  const counted = (): CountedMounts =>
    new CountedMounts({
      run: at('run'),
      log: SILENT,
      perform,
      owner: { uid: 0, gid: 0 },
      mountPoint: () => at('merged'),
      isOurs: () => true,
    });
  // The plan has no label, so that it mounts where the kernel has no SELinux; counting looks at the place alone.
  const plan = { type: 'bind', source: at('tree'), readonly: false } as const;
  const labelled = (label?: string): (() => Place) => {
    return () => ({ path: at('merged'), mount: { plan, writable: true, ...(label === undefined ? {} : { label }) } });
  };
  const layer = id('a');
  const one = counted();
  const other = counted(); // as another process would
  const first = await one.mount(layer, labelled('first'), {});
  for (const who of [one, other]) {
    const message = /with the label "second": it is mounted with the label "first"/;
    await rejects(who.mount(layer, labelled('second'), {}), 'failed-precondition', message);
  }
  const same = await other.mount(layer, labelled('first'), {});
  const none = await one.mount(layer, labelled(), {});
  await first[Symbol.asyncDispose]();
  await same[Symbol.asyncDispose]();
  // Who joined without a label holds the mount as it is.
  await rejects(other.mount(layer, labelled('second'), {}), 'failed-precondition', /with the label "first"$/);
  await (await other.mount(layer, labelled('first'), {}))[Symbol.asyncDispose]();
  await none[Symbol.asyncDispose]();
  assert.equal(await one.isMounted(layer), false);

  const bare = await one.mount(layer, labelled(), {});
  await rejects(other.mount(layer, labelled('second'), {}), 'failed-precondition', /it is mounted without a label/);
  await bare[Symbol.asyncDispose]();
  await (await other.mount(layer, labelled('second'), {}))[Symbol.asyncDispose]();
  assert.equal(await one.isMounted(layer), false);
});
