import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fromBytes, fromText, toBytes } from '../../src/base/bytes.ts';
import { isStorageError } from '../../src/base/errors.ts';
import type { Context } from '../../src/doors/cli/context.ts';
import { checkDestination, writeStream } from '../../src/doors/cli/destination.ts';
import { openPending } from '../../src/doors/cli/pending-file.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { shell } from './run-cli.ts';

const context = { signal: new AbortController().signal, out: { isTerminal: true } } as Context;

async function* chunks(...texts: string[]): AsyncIterable<Uint8Array> {
  for (const text of texts) yield Buffer.from(text);
}

test('writeStream() makes a file whose bytes are the stream', async () => {
  await using dir = await scratch();
  await writeStream(context, fromText(join(dir.path, 'x.tar')), chunks('a', '', 'bc'));
  assert.equal(fs.readFileSync(join(dir.path, 'x.tar'), 'utf8'), 'abc');
  assert.deepEqual(fs.readdirSync(dir.path), ['x.tar']);
});

test('writeStream() that fails leaves the old file and nothing else', async () => {
  await using dir = await scratch();
  const path = join(dir.path, 'x.tar');
  fs.writeFileSync(path, 'old', { mode: 0o600 });
  async function* broken(): AsyncIterable<Uint8Array> {
    yield Buffer.from('half');
    throw new TypeError('broken');
  }
  await assert.rejects(writeStream(context, fromText(path), broken()), TypeError);
  assert.equal(fs.readFileSync(path, 'utf8'), 'old');
  assert.deepEqual(fs.readdirSync(dir.path), ['x.tar']);
  await writeStream(context, fromText(path), chunks('new'));
  assert.deepEqual([fs.readFileSync(path, 'utf8'), fs.statSync(path).mode & 0o777], ['new', 0o600]);
});

test('writeStream() keeps a link and replaces what it points to; it never replaces a device', async () => {
  await using dir = await scratch();
  fs.mkdirSync(join(dir.path, 'd'));
  fs.writeFileSync(join(dir.path, 'd/real'), 'old');
  fs.symlinkSync('d/real', join(dir.path, 'link'));
  await writeStream(context, fromText(join(dir.path, 'link')), chunks('new'));
  assert.equal(fs.readlinkSync(join(dir.path, 'link')), 'd/real');
  assert.equal(fs.readFileSync(join(dir.path, 'd/real'), 'utf8'), 'new');
  await writeStream(context, fromText('/dev/null'), chunks('gone'));
  assert.equal(fs.statSync('/dev/null').isCharacterDevice(), true);
});

test('writeStream() makes the file that a link leads to where there is none, relative and from link to link', async () => {
  await using dir = await scratch();
  fs.mkdirSync(join(dir.path, 'd'));
  fs.symlinkSync('d/next', join(dir.path, 'link'));
  fs.symlinkSync(join(dir.path, 'new'), join(dir.path, 'd/next'));
  await writeStream(context, fromText(join(dir.path, 'link')), chunks('made'));
  assert.deepEqual(fs.readdirSync(dir.path).toSorted(), ['d', 'link', 'new']);
  assert.equal(fs.readFileSync(join(dir.path, 'link'), 'utf8'), 'made');
  fs.symlinkSync('loop', join(dir.path, 'loop'));
  await assert.rejects(writeStream(context, fromText(join(dir.path, 'loop')), chunks('none')), /loop/);
});

test('-o takes /dev/stdout, links to it, process substitutions and files without a path for what they are', async (t) => {
  if (!need(t, 'root', 'mount', 'tar')) return;
  await using dir = await scratch();
  const base = join(dir.path, 'base');
  for (const name of ['base', 'upper', 'upper/new']) fs.mkdirSync(join(dir.path, name));
  const mount = (options: string): string => `'{"type":"overlay","options":["lowerdir=${base}"${options}]}'`;
  const write = `$L overlay write --lower '{"type":"bind","source":"${base}"}' --upper ${mount(`,"upperdir=${dir.path}/upper"`)}`;
  const run = (script: string): unknown[] => {
    const { status, stdout, stderr } = shell(
      '/nowhere',
      `cd ${dir.path}; W=(${write.replace('$L', '"$L"')}); ${script}`,
    );
    return [status, stdout, stderr];
  };
  fs.symlinkSync('/proc/self/fd/1', join(dir.path, 'out'));
  for (const target of ['out', '/dev/stdout', '/dev/fd/1', '/proc/self/fd/1']) {
    assert.deepEqual(run(`"\${W[@]}" -o ${target} | tar -t`), [0, 'new/\n', ''], target);
    const left = 'layerstore: interrupted: the reader left in the middle\n';
    assert.deepEqual(run(`"\${W[@]}" -o ${target} | true; echo \${PIPESTATUS[0]}`), [0, '130\n', left], target);
  }
  assert.deepEqual(
    run(`"\${W[@]}" -o >(tar -t >listed); for i in $(seq 100); do [ -s listed ] && break; sleep 0.1; done; cat listed`),
    [0, 'new/\n', ''],
  );
  assert.deepEqual(run(`exec 7<>gone; rm gone; "\${W[@]}" -o /dev/fd/7; tar -t <&7`), [0, 'new/\n', '']);
  // What is written here goes into a socket, as Node starts its children with.
  const [status, archive] = run(`test -S /dev/stdout && "\${W[@]}" -o /dev/stdout`);
  assert.equal(status, 0);
  assert.match(String(archive), /\0new\/\0/);
  assert.equal(fs.readlinkSync(join(dir.path, 'out')), '/proc/self/fd/1');
  assert.equal(fs.readlinkSync('/dev/stdout'), '/proc/self/fd/1');
});

const DESTINATION = new URL('../../src/doors/cli/destination.ts', import.meta.url).href;
const PENDING = new URL('../../src/doors/cli/pending-file.ts', import.meta.url).href;

/** Runs `script` as a program of its own until it has said `ready`, then kills it. */
async function killed(script: string): Promise<void> {
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  child.kill('SIGKILL');
  await once(child, 'exit');
}

test('SIGKILL while a file is written leaves nothing beside it, and the old file as it was', async () => {
  await using dir = await scratch();
  for (const [name, before] of [
    ['new.tar', undefined],
    ['old.tar', 'old'],
  ] as const) {
    const path = join(dir.path, name);
    if (before !== undefined) fs.writeFileSync(path, before);
    await killed(`
      import { writeStream } from ${JSON.stringify(DESTINATION)};
      async function* endless() {
        for (;;) {
          yield Buffer.alloc(1000);
          console.log('ready');
          await new Promise((resolve) => setTimeout(resolve, 10));
        }
      }
      const context = { signal: new AbortController().signal, out: {} };
      await writeStream(context, ${JSON.stringify(path)}, endless());`);
    assert.equal(fs.existsSync(path) ? fs.readFileSync(path, 'utf8') : undefined, before);
  }
  assert.deepEqual(fs.readdirSync(dir.path), ['old.tar']);
});

test('openPending() with a name removes what dead processes left of the same target, and nothing else', async () => {
  await using dir = await scratch();
  const [x, y] = ['x.tar', 'y.tar'].map((name) => join(dir.path, name)) as [string, string];
  for (const path of [x, y]) {
    await killed(`
      import { openPending } from ${JSON.stringify(PENDING)};
      const pending = await openPending(${JSON.stringify(path)}, { named: true });
      await pending.file.write('half');
      console.log('ready');
      setInterval(() => pending, 1000);`);
  }
  assert.equal(fs.readdirSync(dir.path).length, 2);
  {
    await using living = await openPending(fromText(x), { named: true });
    await using other = await openPending(fromText(x), { named: true });
    assert.equal(fs.readdirSync(dir.path).length, 3, 'the dead one is gone, both living ones and the other stay');
    await other.file.write('other');
    await other.place();
    await living.file.write('living');
    await living.place();
    assert.equal(fs.readFileSync(x, 'utf8'), 'living');
  }
  await writeStream(context, fromText(y), chunks('whole'));
  await writeStream(context, fromText(y), chunks('again'));
  assert.deepEqual(fs.readdirSync(dir.path), ['x.tar', 'y.tar']);
  assert.equal(fs.readFileSync(y, 'utf8'), 'again');
  {
    await using _ = await openPending(fromText(y), { named: true });
  }
  assert.deepEqual(fs.readdirSync(dir.path), ['x.tar', 'y.tar']);
});

test('writeStream() gives a new file the mode that the umask leaves', async () => {
  await using dir = await scratch();
  const path = join(dir.path, 'x.tar');
  await writeStream(context, fromText(path), chunks('a'));
  assert.equal(fs.statSync(path).mode & 0o777, 0o666 & ~process.umask());
});

test('writeStream() takes names that are not UTF-8, and relative ones', async () => {
  await using dir = await scratch();
  const name = fromBytes(Buffer.concat([Buffer.from(`${dir.path}/`), Buffer.from([0xff])]));
  await writeStream(context, name, chunks('a'));
  assert.equal(fs.readFileSync(toBytes(name), 'utf8'), 'a');
});

test('writeStream() says which path it cannot write, with the right code', async () => {
  await using dir = await scratch();
  const refused = (path: string, code: string) =>
    assert.rejects(writeStream(context, fromText(path), chunks('a')), (error) => {
      assert.ok(isStorageError(error, code as 'busy'), String(error));
      return error.message.includes(path);
    });
  await refused(join(dir.path, 'no/x'), 'not-found');
  await refused(dir.path, 'invalid-argument');
  assert.deepEqual(fs.readdirSync(dir.path), []);
});

test('checkDestination() refuses a terminal', () => {
  assert.throws(() => checkDestination(context, undefined), /not for a terminal/);
  assert.throws(() => checkDestination(context, fromText('-')), /not for a terminal/);
  checkDestination(context, fromText('x'));
});
