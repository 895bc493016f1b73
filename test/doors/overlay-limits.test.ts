import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { linkSync, lutimesSync, mkdirSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import type { Readable } from 'node:stream';
import { test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { type Change, type RawMount, toText, upperChanges, writeUpperdir } from '../../src/index.ts';
import { overlay as mounted, tmpfs } from '../diff/overlay.ts';
import { need } from '../kit/require.ts';
import { collect } from '../transport/archives.ts';
import { bind, metadataAlone, overlay, sides } from './raw-mounts.ts';
import { LAUNCHER, layerstore } from './run-cli.ts';

// Mounts at the edges of what can be read, written by the kernel where it lets us.

async function listed(
  lower: readonly RawMount[],
  upper: readonly RawMount[],
  options: Parameters<typeof upperChanges>[2] = {},
): Promise<string[]> {
  const line = ({ kind, path, ...more }: Change): string =>
    `${kind} ${toText(path)}${'from' in more && more.from !== undefined ? ` from ${toText(more.from)}` : ''}`;
  return await Array.fromAsync(upperChanges(lower, upper, options), line);
}

test('upperChanges() and writeUpperdir() tell what the mount shows by its index, and refuse what nothing else tells of', async (t) => {
  if (!need(t, 'root', 'mount', 'tar')) return;
  await using dir = await tmpfs();
  const base = `${dir.path}/base`;
  const at = `${dir.path}/at`;
  for (const path of [base, `${base}/d`]) mkdirSync(path);
  for (const name of ['a', 'c', 'f']) writeFileSync(`${base}/${name}`, 'old');
  for (const [name, ...others] of [
    ['a', 'b', 'd/b'],
    ['f', 'f1', 'f2'],
    ['s', 's1'],
  ] as const) {
    if (name === 's') symlinkSync('nowhere', `${base}/s`);
    for (const other of others) linkSync(`${base}/${name}`, `${base}/${other}`);
  }
  const raw = [overlay('index=on', `lowerdir=${base}`, `upperdir=${at}/upper`, `workdir=${at}/work`)];
  const lower = [bind(base)];
  const within = (script: string): string => {
    const options = `index=on,lowerdir=${base},upperdir=${at}/upper,workdir=${at}/work`;
    const mounting = `mount -t overlay -o "$1" overlay "$2/merged" && cd "$2/merged" && { ${script}; }; cd /; umount "$2/merged"`;
    const { status, stderr, stdout } = spawnSync('sh', ['-c', mounting, 'sh', options, at], { encoding: 'utf8' });
    assert.equal(status, 0, stderr);
    return stdout;
  };
  {
    using made = mounted(at, [base], 'index=on');
    writeFileSync(`${made.merged}/c`, 'new');
  }
  assert.deepEqual(await listed(lower, raw), ['modify /c']);
  within('rm f');
  assert.deepEqual(await listed(lower, raw), ['modify /c', 'delete /f'], 'the others are as they were');
  within('echo new >a; chown -h 7 s');
  const expected = ['modify /a', 'modify /b', 'modify /c', 'modify /d/b', 'delete /f', 'modify /s', 'modify /s1'];
  const layer = (): string =>
    spawnSync('find', [`${at}/upper`, `${at}/work`, '-printf', '%p %i %n %C@ %T@\n'], { encoding: 'utf8' }).stdout;
  const before = layer();
  for (const walk of [false, true]) {
    assert.deepEqual(await listed(lower, raw, { walk }), expected);
    const tar = await collect(writeUpperdir(lower, raw, { walk }));
    const { stdout } = spawnSync('tar', ['-tv'], { input: tar, encoding: 'utf8' });
    assert.match(
      stdout,
      / a\n.* b link to a\n.* c\n.* d\/\n.* d\/b link to a\n.* \.wh\.f\n.* s -> nowhere\n.* s1 link to s\n/,
    );
  }
  assert.equal(layer(), before, 'nothing is written');
  within('echo new >f1; rm f1');
  assert.deepEqual(await listed(lower, raw), [
    ...expected.slice(0, 5),
    'delete /f1',
    'modify /f2',
    ...expected.slice(5),
  ]);
  within('echo new >b; rm a b d/b');
  const removed = ['delete /a', 'delete /b', 'modify /c', 'delete /d/b', 'delete /f', 'delete /f1', 'modify /f2'];
  assert.deepEqual(await listed(lower, raw), [...removed, 'modify /s', 'modify /s1'], 'no name is left');
  // Two names of one copy, and none of them in the upper: only the mount tells that they are links.
  for (const name of ['g', 'h', 'i', 'j'])
    name === 'g' ? writeFileSync(`${base}/g`, 'old') : linkSync(`${base}/g`, `${base}/${name}`);
  within('rm g');
  assert.ok((await listed(lower, raw)).includes('delete /g'));
  within('echo new >h; rm h');
  for (const walk of [false, true]) {
    const refused = { code: 'unsupported', message: /index=on .*with --walk/ };
    await assert.rejects(listed(lower, raw, { walk }), refused);
    await assert.rejects(collect(writeUpperdir(lower, raw, { walk })), refused);
  }
  const path = `${dir.path}/merged`;
  mkdirSync(path);
  const options = `index=on,lowerdir=${base},upperdir=${at}/upper,workdir=${at}/work`;
  spawnSync('mount', ['-t', 'overlay', '-o', options, 'overlay', path]);
  try {
    const found = await listed(lower, [bind(path)], { walk: true });
    assert.deepEqual(found.slice(-4), ['modify /i', 'modify /j', 'modify /s', 'modify /s1']);
  } finally {
    spawnSync('umount', [path]);
  }
});

test('upperChanges() reads mounts whose directories have longer names than fit in one page', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await tmpfs();
  const of = (i: number): string => `${dir.path}/io.containerd.snapshotter.v1.overlayfs/snapshots/${i}/fs`;
  const paths = Array.from({ length: 80 }, (_, i) => of(i));
  for (const [i, path] of paths.entries()) {
    mkdirSync(path, { recursive: true });
    writeFileSync(`${path}/${i}`, '');
  }
  assert.ok(paths.join(':').length > 4096);
  const upper = of(80);
  mkdirSync(upper, { recursive: true });
  writeFileSync(`${upper}/7`, 'new');
  for (const spelled of [[`lowerdir=${paths.join(':')}`], paths.map((path) => `lowerdir+=${path}`)]) {
    const above = overlay(...spelled, `upperdir=${upper}`, `workdir=${dir.path}/work`);
    for (const walk of [false, true]) {
      assert.deepEqual(await listed([overlay(...spelled)], [above], { walk }), ['modify /7']);
    }
  }
});

test('upperChanges() lists no rename of a directory that was moved away and back', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await tmpfs();
  const base = `${dir.path}/base`;
  mkdirSync(`${base}/d/s`, { recursive: true });
  writeFileSync(`${base}/d/f`, 'f');
  {
    using made = mounted(`${dir.path}/at`, [base], 'redirect_dir=on');
    renameSync(`${made.merged}/d`, `${made.merged}/tmp`);
    renameSync(`${made.merged}/tmp`, `${made.merged}/d`);
    writeFileSync(`${made.merged}/d/e`, '');
    renameSync(`${made.merged}/d/s`, `${made.merged}/moved`);
  }
  const upper = [overlay('redirect_dir=on', `lowerdir=${base}`, `upperdir=${dir.path}/at/upper`)];
  const collapsed = async (rendering: 'core' | 'docker'): Promise<string[]> =>
    await listed([bind(base)], upper, { rendering, renames: 'collapse' });
  assert.deepEqual((await collapsed('core')).sort(), ['add /d/e', 'rename /moved from /d/s']);
  assert.deepEqual((await collapsed('docker')).sort(), ['add /d/e', 'modify /d', 'rename /moved from /d/s']);
});

test('upperChanges() finds the data of a lower that is a bind in data-only directories', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await tmpfs();
  const [base, data, upper] = ['base', 'data', 'upper'].map((name) => `${dir.path}/${name}`) as [
    string,
    string,
    string,
  ];
  for (const path of [base, data, upper]) mkdirSync(path);
  for (const name of ['changed', 'same']) {
    metadataAlone(`${base}/${name}`, `/data-of-${name}`);
    writeFileSync(`${data}/data-of-${name}`, 'd'.repeat(5000));
  }
  writeFileSync(`${upper}/changed`, 'new');
  const above = [overlay('metacopy=on', `lowerdir=${base}::${data}`, `upperdir=${upper}`)];
  for (const walk of [false, true]) {
    const lower = walk ? [overlay('metacopy=on', `lowerdir=${base}::${data}`)] : [bind(base)];
    assert.deepEqual(await listed(lower, above, { walk }), ['modify /changed']);
  }
});

test('overlay write says which sockets an archive cannot hold, and so does the library', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await tmpfs();
  const [base, upper] = [`${dir.path}/base`, `${dir.path}/upper`];
  for (const path of [base, upper]) mkdirSync(path);
  const server = createServer();
  await new Promise<void>((done) => void server.listen(`${upper}/socket`, done));
  try {
    const [below, above] = [[bind(base)], [overlay(`lowerdir=${base}`, `upperdir=${upper}`)]];
    const notes: string[] = [];
    await collect(writeUpperdir(below, above, { onNote: (note) => void notes.push(note) }));
    assert.deepEqual(notes, ['an archive cannot hold a socket: /socket']);
    const ran = layerstore('', ['overlay', 'write', ...sides(below, above), '-o', `${dir.path}/out.tar`]);
    assert.deepEqual([ran.status, ran.stderr], [0, `note: ${notes[0]}\n`]);
  } finally {
    server.close();
  }
});

test('overlay changes names the directory that is not there, as it was given', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await tmpfs();
  const [base, gone, file] = [`${dir.path}/base`, `${dir.path}/gone`, `${dir.path}/file`];
  mkdirSync(base);
  writeFileSync(file, '');
  const cases: readonly (readonly [readonly RawMount[], readonly RawMount[], string, number])[] = [
    [[bind(base)], [bind(gone)], `its directory "${gone}" does not exist`, 3],
    [[bind(gone)], [bind(base)], `its directory "${gone}" does not exist`, 3],
    [[], [bind(gone)], `its directory "${gone}" does not exist`, 3],
    [[bind(base)], [bind(file)], `"${file}" is no directory`, 5],
  ];
  for (const [below, above, what, code] of cases) {
    const walk = below.length === 0 ? [] : ['--walk'];
    const { status, stderr } = layerstore('', ['overlay', 'changes', ...walk, ...sides(below, above)]);
    assert.deepEqual([status, stderr], [code, `layerstore: Cannot make a bind mount: ${what}\n`]);
  }
});

test('overlay verbs remove what killed ones left in the directory for temporary files, and nothing that is in use', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await tmpfs();
  const [base, upper, temporary] = [`${dir.path}/base`, `${dir.path}/upper`, `${dir.path}/temporary`];
  for (const path of [base, upper, temporary]) mkdirSync(path);
  for (let i = 0; i < 40; i++) writeFileSync(`${upper}/${i}`, Buffer.alloc(1 << 20));
  const args = sides([bind(base)], [overlay(`lowerdir=${base}`, `upperdir=${upper}`)]);
  const env = { ...process.env, TMPDIR: temporary };
  const begun = async (): Promise<ChildProcess> => {
    const child = spawn(LAUNCHER, ['overlay', 'write', ...args], { stdio: ['ignore', 'pipe', 'inherit'], env });
    await once(child.stdout as Readable, 'readable'); // and nobody reads on
    return child;
  };
  const [killed, busy] = [await begun(), await begun()];
  try {
    killed.kill('SIGKILL');
    await once(killed, 'exit');
    const left = readdirSync(temporary);
    assert.equal(left.length, 2);
    writeFileSync(`${temporary}/layerstore-diff-file`, 'not ours');
    symlinkSync(base, `${temporary}/layerstore-diff-link`);
    mkdirSync(`${temporary}/layerstore-diff-full/x`, { recursive: true });
    const others = readdirSync(temporary).filter((name) => !left.includes(name));
    for (const name of readdirSync(temporary)) lutimesSync(`${temporary}/${name}`, 1, 1);
    assert.equal(layerstore('', ['overlay', 'changes', ...args], { env: { TMPDIR: temporary } }).status, 0);
    const now = readdirSync(temporary);
    assert.equal(now.filter((name) => left.includes(name)).length, 1);
    assert.deepEqual(now.filter((name) => !left.includes(name)).sort(), others.sort());
    assert.equal(busy.exitCode, null);
  } finally {
    // Its reader leaves, and what it was to be ended with comes while it clears away.
    (busy.stdout as Readable).destroy();
    await setTimeout(1);
    busy.kill('SIGTERM');
    await once(busy, 'close');
  }
  assert.equal(readdirSync(temporary).length, 3);
});

test('upperChanges() finds what an index shows over layers on several filesystems, whose numbers the mount changes', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using one = await tmpfs();
  await using other = await tmpfs();
  await using above = await tmpfs();
  const bases = [`${one.path}/base`, `${other.path}/base`];
  for (const [i, base] of bases.entries()) {
    mkdirSync(`${base}/d`, { recursive: true });
    writeFileSync(`${base}/file${i}`, 'old');
    linkSync(`${base}/file${i}`, `${base}/d/other${i}`);
  }
  const expected = ['modify /d/other0', 'modify /d/other1', 'modify /file0', 'modify /file1'];
  for (const changed of [[0], [0, 1], [1]]) {
    const at = `${above.path}/${changed.join('-')}`;
    {
      using made = mounted(at, bases, 'index=on,xino=on');
      for (const i of changed) writeFileSync(`${made.merged}/file${i}`, 'new');
    }
    for (const xino of ['xino=on', 'xino=off']) {
      const lowers = `lowerdir=${bases.join(':')}`;
      const lower = [overlay(xino, lowers)];
      const upper = [overlay('index=on', xino, lowers, `upperdir=${at}/upper`, `workdir=${at}/work`)];
      for (const walk of [false, true]) {
        const found = await listed(lower, upper, { walk });
        assert.deepEqual(
          found,
          expected.filter((line) => changed.includes(Number(line.at(-1)))),
          `${changed} ${xino}`,
        );
      }
    }
  }
});

test('changes --renames: what came back without its directory is a rename, what its old place still shows is none', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  const cases: readonly (readonly [string, string, readonly string[]])[] = [
    ['mv a/x q; mv a a2; mkdir a; mv q a/x', '', ['add /a', 'rename /a/x from /a/x', 'rename /a2 from /a']],
    ['mv a/x q; mv q a/x', '', []],
    ['mv a/x q; mv a t; mv q t/x', '', ['rename /t from /a']],
    ['mv a c', '', ['rename /c from /a']],
    // As nobody but a hand in the upper makes it.
    ['mv a c', 'rm u/a', ['add /c', 'add /c/f', 'add /c/x', 'add /c/x/g']],
    ['mv a c', 'rm u/a; mkdir u/a; touch u/a/new', ['add /a/new', 'add /c', 'add /c/f', 'add /c/x', 'add /c/x/g']],
    ['mv a/x q', 'rm u/a/x', ['add /q', 'add /q/g']],
    ['mv a c', 'cp -a u/c u/d', ['rename /c from /a', 'add /d', 'add /d/f', 'add /d/x', 'add /d/x/g']],
  ];
  await using dir = await tmpfs();
  for (const [i, [inside, byHand, expected]] of cases.entries()) {
    const at = `${dir.path}/${i}`;
    const options = `redirect_dir=on,index=off,lowerdir=${at}/l,upperdir=${at}/u,workdir=${at}/w`;
    const script = `mkdir -p ${at}/l/a/x ${at}/u ${at}/w ${at}/m && cd ${at} && touch l/a/f l/a/x/g && touch -d @1 l/a l/a/f l/a/x &&
      mount -t overlay -o ${options} overlay m && (cd m && ${inside}); umount m && ${byHand || 'true'} && touch -c -d @1 u u/a 2>/dev/null; true`;
    const { status, stderr } = spawnSync('sh', ['-c', script], { encoding: 'utf8' });
    assert.equal(status, 0, stderr);
    const upper = [overlay(...options.split(','))];
    const found = await listed([bind(`${at}/l`)], upper, { renames: 'collapse' });
    assert.deepEqual(
      found.filter((line) => !/^modify \S+$/.test(line)),
      expected,
      `${inside}; ${byHand}`,
    );
  }
});

test('names that begin with ".wh." are no mark of fuse-overlayfs where the kernel wrote them', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await tmpfs();
  const base = `${dir.path}/base`;
  mkdirSync(base);
  for (const name of ['.wh.gone', '.wh.kept']) writeFileSync(`${base}/${name}`, 'x');
  const at = `${dir.path}/at`;
  {
    using made = mounted(at, [base], 'index=off');
    rmSync(`${made.merged}/.wh.gone`);
    writeFileSync(`${made.merged}/.wh.made`, 'x');
  }
  const upper = [overlay('index=off', `lowerdir=${base}`, `upperdir=${at}/upper`, `workdir=${at}/work`)];
  assert.deepEqual(await listed([bind(base)], upper), ['delete /.wh.gone', 'add /.wh.made']);
  await assert.rejects(collect(writeUpperdir([bind(base)], upper)), /\.wh\./, 'no archive can say so');
});
