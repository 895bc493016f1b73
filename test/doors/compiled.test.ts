import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  chownSync,
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';

// The compiled code that the joined program keeps: root's, in a /var/cache of its own.

const ROOT = new URL('../..', import.meta.url).pathname;
const NOBODY = 65534;
const IN_OWN_CACHE = 'mount --bind "$0" /var/cache && exec "$@"';
const DAY_MS = 86_400_000;

/** The joined program, and a cache that nobody else uses. */
async function program(path: string): Promise<{
  readonly main: string;
  readonly cache: string;
  run(args: readonly string[], env?: Readonly<Record<string, string>>): [number | null, string];
  /** What is kept, by state of the program. */
  kept(): Record<string, string[]>;
}> {
  const { bundle, JOINED } = (await import(pathToFileURL(join(ROOT, 'tools/bundle.mjs')).href)) as {
    bundle(target: string): Promise<void>;
    JOINED: string;
  };
  await bundle(path);
  copyFileSync(join(ROOT, 'package.json'), join(path, 'package.json'));
  const home = join(path, 'home');
  mkdirSync(home);
  const cache = join(home, 'layerstore');
  return {
    main: join(path, JOINED, 'main.cjs'),
    cache,
    run(args, env = {}) {
      const program = [process.execPath, join(path, JOINED, 'start.cjs'), ...args];
      const { status, stdout, stderr } = spawnSync('unshare', ['-m', 'sh', '-c', IN_OWN_CACHE, home, ...program], {
        encoding: 'utf8',
        env: { PATH: process.env['PATH'], ...env },
        timeout: 60_000,
      });
      return [status, stdout || stderr];
    },
    kept() {
      const states = readdirSync(cache).filter((name) => name.startsWith('compiled-'));
      return Object.fromEntries(states.map((state) => [state, readdirSync(join(cache, state)).toSorted()]));
    },
  };
}

test('the joined program keeps compiled code of each command that ends well, and of no other', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await scratch('compiled');
  const { cache, run, kept, main } = await program(dir.path);
  const [status, version] = run(['version']);
  assert.equal(status, 0);
  assert.match(version, /^layerstore \d/);
  const [state = '', ...others] = Object.keys(kept());
  assert.deepEqual(others, []);
  assert.deepEqual(kept(), { [state]: ['version'] });
  const file = join(cache, state, 'version');
  for (const path of [cache, join(cache, state), file]) assert.equal(statSync(path).mode & 0o077, 0, path);
  // Again when it is older than a minute, then than an hour, then than a day.
  const inodes = (): number[] =>
    [1, 2].map(() => {
      assert.deepEqual(run(['version']), [0, version]);
      return statSync(file).ino;
    });
  const age = (path: string, ms: number): void =>
    utimesSync(path, new Date(Date.now() - ms), new Date(Date.now() - ms));
  const first = statSync(file).ino;
  assert.deepEqual(inodes(), [first, first]); // V8 took it
  let last = first;
  for (const [young, old] of [
    [50_000, 70_000],
    [50 * 60_000, 70 * 60_000],
    [0.9 * DAY_MS, 1.1 * DAY_MS],
    [0.9 * DAY_MS, 1.1 * DAY_MS],
  ] as const) {
    age(file, young);
    assert.deepEqual(inodes(), [last, last], String(young));
    age(file, old);
    const [made, kept] = inodes();
    assert.deepEqual([made === last, kept === made], [false, true], String(old));
    last = made as number;
  }
  // Not what fails, what is no command, and what is no command's name.
  assert.equal(run(['nothing'])[0], 2);
  assert.equal(run(['version', '--nothing'])[0], 2);
  assert.equal(run(['--root', 'help', 'version'])[0], 0);
  assert.equal(run(['--version'])[0], 0);
  assert.equal(run(['version'], { NODE_DISABLE_COMPILE_CACHE: '1' })[0], 0);
  assert.deepEqual(kept(), { [state]: ['version'] });
  assert.equal(run(['help', '--help'])[0], 0); // does nothing of the command's
  assert.deepEqual(kept(), { [state]: ['version'] });
  assert.equal(run(['help'])[0], 0);
  assert.deepEqual(kept(), { [state]: ['help', 'version'] });
  // Of what goes another way it has both.
  const { size } = statSync(join(cache, state, 'help'));
  age(join(cache, state, 'help'), 70_000);
  assert.equal(run(['help', 'changes'])[0], 0);
  assert.ok(statSync(join(cache, state, 'help')).size > size);

  // What is damaged is done without, and made anew.
  const whole = readFileSync(file);
  const damage: readonly (() => void)[] = [
    () => truncateSync(file, 0),
    () => truncateSync(file, whole.length - 1),
    () => truncateSync(file, (whole.length - 1) / 2),
    () => truncateSync(file, 1),
    () => writeFileSync(file, Buffer.concat([Buffer.from('noise'), Buffer.from('noise'), Buffer.of(1)])),
    () => writeFileSync(file, Buffer.alloc(whole.length)),
    () =>
      writeFileSync(
        file,
        whole.map((byte, i) => (i === 100_000 ? byte ^ 1 : byte)),
      ),
    () =>
      writeFileSync(
        file,
        whole.map((byte, i) => (i % 4096 === 7 && i > whole.length / 2 ? 0 : byte)),
      ),
  ];
  for (const [i, act] of damage.entries()) {
    act();
    assert.deepEqual(run(['version']), [0, version], `damage ${i}`);
    const made = readFileSync(file);
    const half = (made.length - 1) / 2;
    assert.ok(half > 50_000 && made.compare(made, half, 2 * half, 0, half) === 0, `damage ${i}`);
    const [one, other] = inodes();
    assert.equal(one, other, `after damage ${i}`);
  }

  // A program that was changed, if only by hand, has nothing of another; what is old goes.
  appendFileSync(main, '\n//');
  age(join(cache, state), 2 * DAY_MS);
  assert.deepEqual(run(['version']), [0, version]);
  const [other = '', ...more] = Object.keys(kept());
  assert.deepEqual([other === state, more, kept()[other]], [false, [], ['version']]);
});

test('the joined program keeps nothing where others may write, and runs all the same', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await scratch('compiled');
  const { cache, run } = await program(dir.path);
  mkdirSync(cache);
  chownSync(cache, NOBODY, NOBODY);
  assert.equal(run(['version'])[0], 0);
  assert.deepEqual(readdirSync(cache), []);
  chownSync(cache, 0, 0);
  chmodSync(cache, 0o777);
  assert.equal(run(['version'])[0], 0);
  assert.deepEqual(readdirSync(cache), []);
});

test('the joined program is as strict as its modules', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await scratch('compiled');
  const { main, run } = await program(dir.path);
  // In its first function: what a module may not do.
  const text = readFileSync(main, 'utf8');
  const at = text.indexOf('async function main(');
  assert.ok(at > 0);
  const open = text.indexOf('{', text.indexOf(') {', at)) + 1;
  writeFileSync(main, `${text.slice(0, open)} undeclared = 1; ${text.slice(open)}`);
  const [status, said] = run(['version']);
  assert.notEqual(status, 0);
  assert.match(said, /ReferenceError: undeclared is not defined/);
});
