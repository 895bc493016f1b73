import assert from 'node:assert/strict';
import { appendFileSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { fromText } from '../../src/base/bytes.ts';
import { toText, upperChanges } from '../../src/index.ts';
import { AT_FDCWD, mknodat, S_IFCHR } from '../../src/linux/inode.ts';
import { mount, umount } from '../../src/linux/mount.ts';
import { lsetxattr } from '../../src/linux/xattr.ts';
import { readTar } from '../../src/tar/read.ts';
import { tmpfs } from '../diff/overlay.ts';
import { mountsBelow } from '../faults/small-disk.ts';
import { need } from '../kit/require.ts';
import { layerstore, type Ran } from './run-cli.ts';

interface Layer {
  /** The directory of each layer, bottom first. */
  readonly dirs: readonly string[];
  readonly flags: readonly string[];
}

/** What `write` does through a real mount of `below` with one layer more. */
function written(at: string, below: readonly string[], mode: string, write: (merged: string) => void): Layer {
  const [upper, work, merged] = [`${at}/upper`, `${at}/work`, `${at}/merged`] as const;
  for (const dir of [upper, work, merged]) mkdirSync(dir, { recursive: true });
  const lower = below.toReversed().join(':');
  const options = [
    ...mode.split(',').filter((one) => one !== ''),
    `lowerdir=${lower}`,
    `upperdir=${upper}`,
    `workdir=${work}`,
  ];
  mount(fromText('overlay'), fromText(merged), fromText('overlay'), 0, fromText(options.join(',')));
  write(merged);
  umount(fromText(merged));
  const lowerMount =
    below.length === 1
      ? { type: 'bind', source: below[0], options: ['rbind', 'ro'] }
      : {
          type: 'overlay',
          source: 'overlay',
          options: [...mode.split(',').filter((one) => one !== ''), `lowerdir=${lower}`],
        };
  const upperMount = { type: 'overlay', source: 'overlay', options };
  return {
    dirs: [...below, upper],
    flags: ['--lower', JSON.stringify(lowerMount), '--upper', JSON.stringify(upperMount)],
  };
}

function records({ status, stdout, stderr }: Ran): string[] {
  assert.equal(status, 0, stderr);
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as { kind: string; path: string })
    .map(({ kind, path }) => `${kind} ${path}`);
}

async function rig(
  t: TestContext,
): Promise<(AsyncDisposable & { readonly path: string; readonly base: string }) | undefined> {
  if (!need(t, 'root', 'mount')) return undefined;
  const dir = await tmpfs();
  const base = `${dir.path}/base`;
  mkdirSync(`${base}/d/e`, { recursive: true });
  mkdirSync(`${base}/gone`);
  writeFileSync(`${base}/d/e/f`, 'f'.repeat(5000));
  writeFileSync(`${base}/d/g`, 'g');
  writeFileSync(`${base}/gone/x`, 'x');
  return { path: dir.path, base, [Symbol.asyncDispose]: () => dir[Symbol.asyncDispose]() };
}

test('overlay upperdir, changes and write read an upper in every mode, and leave nothing mounted', async (t) => {
  await using made = await rig(t);
  if (made === undefined) return;
  const modes = ['', 'index=off', 'redirect_dir=on,metacopy=on', 'userxattr', 'index=off,userxattr', 'index=on'];
  for (const [i, mode] of modes.entries()) {
    const at = `${made.path}/mode ${i}, with: odd\\ name`;
    // A name that mount(2) needs escaped: the JSON carries it as mount(2) takes it.
    const plain = `${made.path}/mode${i}`;
    assert.notEqual(at, plain);
    const layer = written(plain, [made.base], mode, (merged) => {
      appendFileSync(`${merged}/d/e/f`, 'more');
      if (mode.includes('metacopy')) renameSync(`${merged}/d`, `${merged}/moved`);
      rmSync(`${merged}/gone`, { recursive: true });
      writeFileSync(`${merged}/new`, 'new');
    });
    const before = mountsBelow(made.path);
    const upperdir = layerstore('', ['overlay', 'upperdir', ...layer.flags]);
    assert.deepEqual([upperdir.status, upperdir.stdout], [0, `${layer.dirs.at(-1)}\n`]);
    const moved = [
      'delete /d',
      'delete /gone',
      'add /moved',
      'add /moved/e',
      'add /moved/e/f',
      'add /moved/g',
      'add /new',
    ];
    const expected = mode.includes('metacopy') ? moved : ['modify /d/e/f', 'delete /gone', 'add /new'];
    const run = layerstore('', ['overlay', 'changes', ...layer.flags]);
    assert.deepEqual(records(run), expected, mode);
    assert.deepEqual(records(layerstore('', ['overlay', 'changes', '--walk', ...layer.flags])), expected, mode);
    let started = 0;
    const onWorker = (): void => void started++;
    process.on('worker', onWorker);
    const [, lower = '', , upper = ''] = layer.flags;
    const here = upperChanges([JSON.parse(lower)], [JSON.parse(upper)], { here: true });
    const listed = await Array.fromAsync(here);
    assert.deepEqual(
      listed.map(({ kind, path }) => `${kind} ${toText(path)}`),
      expected,
    );
    process.off('worker', onWorker);
    assert.equal(started, mode.startsWith('index=off') ? 0 : 1);
    const tars = ['--walk', undefined].map((walk) => {
      const file = `${made.path}/layer${i}${walk}.tar`;
      const ran = layerstore('', [
        'overlay',
        'write',
        ...layer.flags,
        '-o',
        file,
        ...(walk === undefined ? [] : [walk]),
      ]);
      assert.equal(ran.status, 0, ran.stderr);
      return readFileSync(file);
    });
    assert.ok(tars[0]?.equals(tars[1] as Buffer));
    const names: string[] = [];
    for await (const { entry } of readTar([tars[0] as Buffer] as never)) names.push(toText(entry.name));
    assert.ok(names.includes('.wh.gone') && names.includes('new'), names.join());
    assert.deepEqual(mountsBelow(made.path), before);
  }
});

test('upperChanges() reads whiteouts that are attributes, marks of the mount\u2019s own kind, and data-only lowers', async (t) => {
  await using made = await rig(t);
  if (made === undefined) return;
  const [upper, other, data] = [`${made.path}/upper`, `${made.path}/other`, `${made.path}/data`] as const;
  for (const dir of [`${upper}/d`, other, data]) mkdirSync(dir, { recursive: true });
  // Kernel ≥ 6.7: overlay.whiteout on an empty file of a directory that is opaque=x.
  writeFileSync(`${upper}/d/g`, '');
  const set = (path: string, name: string, value: string): unknown =>
    lsetxattr(fromText(path), fromText(name), Buffer.from(value));
  set(`${upper}/d`, 'trusted.overlay.opaque', 'x');
  set(`${upper}/d/g`, 'trusted.overlay.whiteout', '');
  // Of the other kind, so nothing to this mount; and a whiteout of what never was.
  mkdirSync(`${upper}/gone`);
  set(`${upper}/gone`, 'user.overlay.opaque', 'y');
  mknodat(AT_FDCWD, fromText(`${upper}/never`), S_IFCHR, 0, 0);
  const overlay = (...options: string[]) => [
    { type: 'overlay', source: fromText('overlay'), options: options.map(fromText) },
  ];
  const list = async (lower: string[], above: string[], walk = false): Promise<string[]> => {
    const found: string[] = [];
    for await (const { kind, path } of upperChanges(overlay(...lower), overlay(...above), { walk }))
      found.push(`${kind} ${toText(path)}`);
    return found;
  };
  const lower = [`lowerdir=${other}:${made.base}`];
  const view = [`lowerdir=${upper}:${other}:${made.base}`];
  assert.deepEqual(await list(lower, view), ['delete /d/g']);
  assert.deepEqual(await list(lower, view, true), ['delete /d/g']);
  // metacopy: the upper has the metadata, another layer below all others the data.
  writeFileSync(`${data}/content`, 'e'.repeat(5000));
  const [meta] = [`${made.path}/meta`];
  mkdirSync(`${meta}/d/e`, { recursive: true });
  writeFileSync(`${meta}/d/e/f`, '');
  set(`${meta}/d/e/f`, 'trusted.overlay.metacopy', '');
  set(`${meta}/d/e/f`, 'trusted.overlay.redirect', '/content');
  const mode = ['redirect_dir=follow', 'metacopy=on'];
  const dataLower = [...mode, `lowerdir=${other}:${made.base}::${data}`];
  const dataView = [...mode, `lowerdir=${meta}:${other}:${made.base}::${data}`];
  const found = await list(dataLower, dataView, false).catch((error: Error) => error.message);
  assert.deepEqual(found, await list(dataLower, dataView, true).catch((error: Error) => error.message));
});

test('upperChanges() sees what the view shows: marks of a single lower, nothing that is mounted inside the upper', async (t) => {
  await using made = await rig(t);
  if (made === undefined) return;
  const set = (path: string, name: string, value: string): unknown =>
    lsetxattr(fromText(path), fromText(name), Buffer.from(value));
  // The lower hides a name by an attribute: neither the base nor the view has it.
  writeFileSync(`${made.base}/d/hidden`, '');
  set(`${made.base}/d`, 'trusted.overlay.opaque', 'x');
  set(`${made.base}/d/hidden`, 'trusted.overlay.whiteout', '');
  const [upper, work] = [`${made.path}/upper`, `${made.path}/work`] as const;
  mkdirSync(`${upper}/d/e`, { recursive: true });
  mkdirSync(work);
  writeFileSync(`${upper}/d/e/f`, 'changed');
  // Somebody mounts something on a directory of the upper: the view goes on showing what is below.
  mount(fromText('tmpfs'), fromText(`${upper}/d/e`), fromText('tmpfs'), 0, fromText('size=64k'));
  try {
    writeFileSync(`${upper}/d/e/foreign`, '');
    const lower = [{ type: 'bind', source: fromText(made.base), options: [fromText('ro')] }];
    const options = [`lowerdir=${made.base}`, `upperdir=${upper}`, `workdir=${work}`].map(fromText);
    const above = [{ type: 'overlay', source: fromText('overlay'), options }];
    for (const walk of [false, true]) {
      const found: string[] = [];
      for await (const { kind, path } of upperChanges(lower, above, { walk })) found.push(`${kind} ${toText(path)}`);
      assert.deepEqual(found, ['modify /d/e/f'], `walk: ${walk}`);
    }
  } finally {
    umount(fromText(`${upper}/d/e`));
  }
});

test('changes of an upper whose marks lead nowhere are corrupt, by path', async (t) => {
  await using made = await rig(t);
  if (made === undefined) return;
  const [upper, other] = [`${made.path}/upper`, `${made.path}/other`] as const;
  for (const dir of [`${upper}/moved`, other]) mkdirSync(dir, { recursive: true });
  lsetxattr(fromText(`${upper}/moved`), fromText('trusted.overlay.redirect'), Buffer.from('/d/../../x'));
  const overlay = (...options: string[]) => [
    { type: 'overlay', source: fromText('overlay'), options: options.map(fromText) },
  ];
  const changes = upperChanges(
    overlay(`lowerdir=${other}:${made.base}`),
    overlay(`lowerdir=${upper}:${other}:${made.base}`),
  );
  await assert.rejects(Array.fromAsync(changes), {
    code: 'corrupt',
    message: /^Cannot read "\/moved": it was moved from "\/d\/\.\.\/\.\.\/x"/,
  });
});

test('overlay verbs refuse in one line what they cannot read, before the first change', async (t) => {
  await using made = await rig(t);
  if (made === undefined) return;
  const mountOf = (type: string, ...options: string[]): string => JSON.stringify({ type, source: made.base, options });
  const bind = mountOf('bind', 'ro');
  const above = mountOf('overlay', `lowerdir=${made.base}`, `upperdir=${made.path}/absent`, 'workdir=/w');
  const cases: readonly [number, RegExp, readonly string[]][] = [
    [2, /--upper is missing/, ['changes']],
    [2, /--upper "\{" is not a mount: it is not JSON/, ['changes', '--upper', '{']],
    [2, /it is not JSON/, ['changes', '--upper', '{"type":"bind","source":"\\ud800"}']],
    [2, /it has a field "extra"/, ['changes', '--upper', '{"type":"bind","extra":1}']],
    [2, /options are not a list/, ['upperdir', '--upper', '{"type":"bind","options":"ro"}']],
    [5, /2 lower and 1 upper/, ['changes', '--lower', bind, '--lower', bind, '--upper', above]],
    [
      5,
      /option "unheard=of"/,
      ['write', '--lower', bind, '--upper', mountOf('overlay', 'unheard=of', 'lowerdir=/a:/b')],
    ],
    [5, /"tmpfs"/, ['changes', '--lower', bind, '--upper', mountOf('tmpfs')]],
    [3, /absent/, ['changes', '--lower', bind, '--upper', above]],
  ];
  for (const [code, message, args] of cases) {
    const { status, stdout, stderr } = layerstore('', ['overlay', ...args]);
    assert.equal(status, code, `${args.join(' ')}: ${stderr}`);
    assert.match(stderr, message);
    assert.equal(stderr.trim().split('\n').length, 1, stderr);
    assert.equal(stdout, '');
  }
});

test('upperChanges() by the asker\u2019s thread leaves to a job what nothing is heard in for long', async (t) => {
  await using made = await rig(t);
  if (made === undefined) return;
  mkdirSync(`${made.base}/was`);
  // Where a directory was moved all of them are looked through first.
  const layer = written(`${made.path}/layer`, [made.base], 'index=off,redirect_dir=on', (merged) => {
    renameSync(`${merged}/was`, `${merged}/now`);
  });
  for (const side of layer.dirs) for (let i = 0; i < 600; i++) mkdirSync(`${side}/z${i}`);
  writeFileSync(`${layer.dirs.at(-1)}/zz`, '');
  const [, lower = '', , upper = ''] = layer.flags;
  const { signal } = new AbortController();
  const slow = (): void => {
    for (const until = performance.now() + 1; performance.now() < until; );
  };
  Object.defineProperty(signal, 'throwIfAborted', { value: slow });
  let started = 0;
  const onWorker = (): void => void started++;
  process.on('worker', onWorker);
  const listed = await Array.fromAsync(upperChanges([JSON.parse(lower)], [JSON.parse(upper)], { here: true, signal }));
  process.off('worker', onWorker);
  assert.deepEqual(
    listed.map(({ kind, path }) => `${kind} ${toText(path)}`),
    ['add /now', 'delete /was', 'add /zz'],
  );
  assert.equal(started, 1);
});
