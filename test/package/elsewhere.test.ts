import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { scratch } from '../kit/scratch.ts';
import { layoutOf, makeImage, tarBytes } from '../transport/archives.ts';

// What works on another system, where nothing of Linux can be loaded; tried in processes that believe to be there.

const ROOT = new URL('../..', import.meta.url).pathname;
const PRELOAD = ['--disable-warning=ExperimentalWarning', '--import', join(ROOT, 'test/package/elsewhere.ts')];
const SYSTEMS = ['darwin', 'win32'];

interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function on(system: string, ...args: readonly string[]): Ran {
  const env = { ...process.env, ELSEWHERE: system };
  return spawnSync(process.execPath, [...PRELOAD, ...args], { encoding: 'utf8', env, timeout: 60_000 });
}

test('layerstore can be imported on another system, and opening is unsupported there, in one line', () => {
  for (const system of SYSTEMS) {
    const program = `
      const all = await import(${JSON.stringify(join(ROOT, 'src/index.ts'))});
      const calls = [all.openStore({ root: 'x' }), all.openDriver({ root: 'x' }), all.doctor('x')];
      for (const { reason } of await Promise.allSettled(calls)) {
        console.log(all.isStorageError(reason, 'unsupported'), reason.message);
      }
      console.log(all.toText(all.fromText('it works')));`;
    const { status, stdout, stderr } = on(system, '--input-type=module', '-e', program);
    const why = `on ${system}: layerstore mounts layers on Linux only`;
    const lines = ['open a store', 'open a driver', 'examine this machine'].map(
      (what) => `true Cannot ${what} ${why}\n`,
    );
    assert.deepEqual([status, stdout, stderr], [0, `${lines.join('')}it works\n`, '']);
  }
});

test('layerstore/oci and layerstore/tar read and write archives on another system', async () => {
  await using dir = await scratch('elsewhere');
  const image = makeImage('elsewhere');
  writeFileSync(join(dir.path, 'in.tar'), tarBytes(layoutOf(image)));
  const program = `
    const { layerTar, openArchive, writeArchive, writeLayout } = await import(${JSON.stringify(join(ROOT, 'src/oci-entry.ts'))});
    const { readTar, toText } = await import(${JSON.stringify(join(ROOT, 'src/tar/index.ts'))});
    await using archive = await openArchive('in.tar');
    await writeLayout(archive.images(), 'layout');
    await using layout = await openArchive('layout');
    await using docker = await openArchive(writeArchive(layout.images(), { format: 'docker' }));
    for (const { names, layers } of docker.images()) {
      for (const layer of layers) {
        for await (const { entry } of readTar(layerTar(layer))) console.log(names[0], toText(entry.name));
      }
    }`;
  for (const system of SYSTEMS) {
    const env = { ...process.env, ELSEWHERE: system, TMPDIR: dir.path, TEMP: dir.path };
    const args = [...PRELOAD, '--input-type=module', '-e', program];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: dir.path, env, encoding: 'utf8' });
    assert.deepEqual([status, stderr], [0, '']);
    assert.equal(stdout, 'docker.io/library/x:1 f0\ndocker.io/library/x:1 f1\n');
    spawnSync('rm', ['-r', join(dir.path, 'layout')]);
  }
});

test('layerstore: on another system commands say that they need Linux, in one line with 5; help and version work', () => {
  const main = join(ROOT, 'src/doors/cli/checkout.cjs');
  const help = on('darwin', main, 'cp', '--help');
  assert.deepEqual([help.status, help.stderr], [0, '']);
  assert.match(help.stdout, /^Usage: /);
  // Every command's page is made of its module.
  const program = `
    const { GROUPS } = await import(${JSON.stringify(join(ROOT, 'src/doors/cli/commands.ts'))});
    for (const { commands } of GROUPS) for (const { load } of commands.values()) await load();`;
  const loading = on('darwin', '--input-type=module', '-e', program);
  assert.deepEqual([loading.status, loading.stderr], [0, '']);
  for (const words of [['images'], ['load', '-i', 'x'], ['cp', 'a', 'b:/'], ['driver', 'get', 'x'], ['doctor']]) {
    const { status, stdout, stderr } = on('darwin', main, ...words);
    assert.deepEqual([status, stdout], [5, ''], words.join(' '));
    assert.match(stderr, /^layerstore: Cannot [^\n]*(needs Linux|on Linux only)[^\n]*\n$/);
  }
  assert.match(on('darwin', main, 'version').stdout, /^layerstore \d.*darwin/);
});
