import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { scratch } from '../kit/scratch.ts';

const ROOT = new URL('../..', import.meta.url).pathname;
const { bundle, JOINED } = (await import(pathToFileURL(join(ROOT, 'tools/bundle.mjs')).href)) as {
  bundle(target: string): Promise<void>;
  JOINED: string;
};
const FILES = ['start.cjs', 'main.cjs', 'jobs/thread.js', 'jobs/control.js', 'database-thread.js'];

test('bundle() makes files that import nothing before they run, threads without anything that is run later', async () => {
  await using dir = await scratch('bundle');
  await bundle(dir.path);
  for (const file of FILES) {
    const text = readFileSync(join(dir.path, JOINED, file), 'utf8');
    assert.deepEqual(text.match(/^(?:import|export) .*/gm) ?? [], [], file);
    // Modules are strict without it.
    assert.equal(/^(?:\(function \([^)]*\) \{\n)?"use strict";/.test(text), file.endsWith('.cjs'), file);
    assert.equal(/__esm\(/.test(text), file === 'main.cjs', file); // in a jail nothing is to be made for the first time
    // The database's thread waits for a disk, and has nothing to load for it.
    assert.equal(text.includes('koffi'), !['start.cjs', 'database-thread.js'].includes(file), file);
    // Else V8 keeps all of it in two bytes each. Of comments esbuild keeps a few as they are: change those.
    assert.deepEqual(text.match(/.*[^\0-\x7f].*/g), null, file);
  }
});

test('bundle(): a command loads no crypto, no network, no FFI library and no thread that it does not need', async () => {
  await using dir = await scratch('bundle');
  await bundle(dir.path);
  copyFileSync(join(ROOT, 'package.json'), join(dir.path, 'package.json'));
  // Told at the very end, from inside the program.
  const spy = join(dir.path, 'spy.mjs');
  writeFileSync(
    spy,
    `process.on('exit', () => {
      const loaded = process.moduleLoadList.filter((one) => /NativeModule (crypto|zlib|net|worker_threads|sqlite|child_process)$/.test(one));
      const native = process.report.getReport().sharedObjects.filter((one) => one.endsWith('.node'));
      process.stderr.write(JSON.stringify([...loaded, ...native]));
    });`,
  );
  const run = (...args: string[]): unknown => {
    const program = [
      '--disable-warning=ExperimentalWarning',
      '--import',
      spy,
      join(dir.path, JOINED, 'start.cjs'),
      ...args,
    ];
    const { status, stderr } = spawnSync(process.execPath, program, {
      encoding: 'utf8',
      timeout: 60_000,
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    assert.equal(status, 0, stderr);
    return JSON.parse(stderr);
  };
  assert.deepEqual(run('version'), []);
  assert.deepEqual(run('help'), []);
});
