import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type DriverName, openStore } from '../../src/index.ts';
import { LAUNCHER } from '../doors/run-cli.ts';
import { filesystem, needsOf } from '../kit/filesystems.ts';
import { noise } from '../kit/images.ts';
import { file, layer, ociImage } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { DRIVERS } from '../kit/stores.ts';

const FILES = 60;
const BYTES = 3000;
const nameOf = (i: number): string => `asked-${i}`;
const NAMES: readonly string[] = Array.from({ length: FILES }, (_, i) => nameOf(i)).sort();

/** Commands that read a layer's files; each reads all of them once. */
const COMMANDS: Readonly<Record<string, readonly string[]>> = {
  save: ['save', 'base:1', '-o', 'OUT'],
  'save --compress': ['save', 'base:1', '--compress', 'zstd', '-o', 'OUT'],
  diff: ['diff', 'work', '-o', 'OUT'],
  commit: ['commit', 'work', 'next:1'],
};

/** A store with an image whose layer has the files, and a writable layer that has others of the same names. */
async function fill(root: string, driver: DriverName): Promise<void> {
  await using store = await openStore({ root, driver });
  const files = NAMES.map((name, i) => file(name, noise(BYTES, i)));
  await store.images.load([ociImage([layer(...files)], 'base')] as never);
  const work = await store.layers.create(undefined, { name: 'work' });
  await using mounted = await work.mount();
  for (const [i, name] of NAMES.entries()) writeFileSync(join(mounted.path, name), noise(BYTES, i));
}

/** What a command asks the kernel for, and reads. */
function traced(root: string, args: readonly string[], out: string): ReturnType<typeof order> {
  const trace = `${out}.trace`;
  const calls = 'trace=fadvise64,read,pread64,readv,preadv,preadv2,copy_file_range,sendfile,splice';
  const command = ['env', `LAYERSTORE_ROOT=${root}`, LAUNCHER, ...args.map((arg) => (arg === 'OUT' ? out : arg))];
  const ran = spawnSync('strace', ['-f', '-z', '-qq', '-y', '-s', '0', '-o', trace, '-e', calls, ...command], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  assert.equal(ran.status, 0, ran.stderr);
  return order(readFileSync(trace, 'utf8'));
}

for (const driver of DRIVERS) {
  test(`save, diff and commit ask for the files to come while they read those before (${driver})`, async (t) => {
    if (!need(t, 'root', 'mount', 'strace')) return;
    await using disk = await filesystem('tmpfs', 64);
    const root = join(disk.path, 'store');
    await fill(root, driver);
    for (const [what, args] of Object.entries(COMMANDS)) {
      const { asked, read, waitingMost } = traced(root, args, join(disk.path, `${what}.tar`));
      assert.deepEqual(read.toSorted(), NAMES, `${what}: read`);
      assert.deepEqual(asked, read, `${what}: asked for, in the order in which they are read`);
      assert.ok(waitingMost >= 8 && waitingMost <= 32, `${what}: ${waitingMost} were asked for and not yet read`);
    }
  });

  test(`they ask for nothing that is in memory, where the filesystem says so (${driver})`, async (t) => {
    if (!need(t, ...needsOf('ext4'), 'strace')) return;
    await using disk = await filesystem('ext4', 256);
    const root = join(disk.path, 'store');
    await fill(root, driver);
    for (const [what, args] of Object.entries(COMMANDS)) {
      const { asked, read } = traced(root, args, join(disk.path, `${what}.tar`));
      assert.deepEqual([read.toSorted(), asked], [NAMES, []], what);
    }
  });
}

/** The files as they were first asked for, and first read; where any is asked for, none is read that was not. */
function order(trace: string): { readonly asked: string[]; readonly read: string[]; readonly waitingMost: number } {
  const asked = new Set<string>();
  const read = new Set<string>();
  let waitingMost = 0;
  for (const line of trace.split('\n')) {
    const [, call = '', words = ''] = /^\d+ +(\w+)\((.*)/.exec(line) ?? [];
    const name = /<[^>]*\/(asked-\d+)>/.exec(words)?.[1];
    if (name === undefined) continue;
    if (call === 'fadvise64') {
      assert.match(words, new RegExp(`, 0, ${BYTES}, POSIX_FADV_WILLNEED`));
      asked.add(name);
      waitingMost = Math.max(waitingMost, asked.size - read.size);
    } else {
      if (asked.size > 0) assert.ok(asked.has(name), `${name} was read before it was asked for`);
      read.add(name);
    }
  }
  return { asked: [...asked], read: [...read], waitingMost };
}
