import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { after, before, type TestContext, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { idOf, ociTar } from '../kit/images.ts';
import { file, layer } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { type Scratch, scratch } from '../kit/scratch.ts';
import { layerstore, onTerminal, type Ran, type RunOptions, shell, waitingOnInput } from './run-cli.ts';
import { makeSampleImage, type SampleImage } from './sample-image.ts';

// Real runs of bin/layerstore on real stores. The store of each test is its own, below one directory.

const LAYER = layer(file('f', 'f'));

let dir: Scratch;
let image: SampleImage;
before(async () => {
  dir = await scratch('cli');
  fs.mkdirSync(join(dir.path, 'image'));
  image = makeSampleImage(join(dir.path, 'image'));
});
after(() => dir?.[Symbol.asyncDispose]());

interface Cli {
  readonly root: string;
  /** Must succeed; answers stdout. */
  ok(...args: string[]): string;
  run(args: readonly string[], options?: RunOptions): Ran;
  /** Must fail with `status` and one line on stderr, which is answered, and without a word on stdout. */
  fails(status: number, ...args: string[]): string;
}

/** A store's root, and with `load` the sample image in it. */
function cli(t: TestContext, { load = true } = {}): Cli | undefined {
  if (!need(t, 'root', 'mount', 'tar')) return undefined;
  const root = join(dir.path, t.name.replace(/[^a-z]+/gi, '-').slice(0, 60));
  const run = (args: readonly string[], options?: RunOptions): Ran => layerstore(root, args, options);
  const one: Cli = {
    root,
    run,
    ok(...args) {
      const { status, stdout, stderr } = run(args);
      assert.equal(status, 0, `${args.join(' ')}: ${stderr}`);
      return stdout;
    },
    fails(status, ...args) {
      const ran = run(args);
      assert.deepEqual([ran.status, ran.stdout], [status, ''], `${args.join(' ')}: ${ran.stderr}`);
      assert.match(ran.stderr, /^layerstore: [^\n]+\n$/);
      return ran.stderr;
    },
  };
  if (load) one.ok('load', '-i', image.archive);
  return one;
}

const json = (text: string): unknown[] =>
  text
    .trim()
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line));
const mountsBelow = (path: string): string[] =>
  fs
    .readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => line.includes(` ${path}/`));

test('load prints reference and digest, and the same again for what is there already', (t) => {
  const c = cli(t, { load: false });
  if (c === undefined) return;
  const first = c.ok('load', '-i', image.archive);
  assert.match(first, /^sample:1 sha256:[0-9a-f]{64}\n$/);
  assert.equal(c.ok('load', '-i', image.archive), first);
  const piped = shell(c.root, `cat ${image.archive} | $L load`);
  assert.deepEqual([piped.status, piped.stdout], [0, first]);
  const [loaded] = json(c.ok('load', '--json', '-i', image.archive)) as { id: string; existed: boolean }[];
  assert.deepEqual([loaded?.id, loaded?.existed], [image.configDigest, true]);
});

test('load takes both images of one name, gives it to the later one, and says so', (t) => {
  const c = cli(t, { load: false });
  if (c === undefined) return;
  const archive = join(dir.path, 'twice.tar');
  const [one, two] = ['one', 'two'].map((author) => ({ layers: [LAYER], names: ['docker.io/library/x:1'], author }));
  fs.writeFileSync(archive, ociTar(one!, two!));
  const { status, stdout, stderr } = c.run(['load', '-i', archive]);
  assert.equal(status, 0, stderr);
  assert.match(stdout, /^<none> sha256:[0-9a-f]{64}\nx:1 sha256:[0-9a-f]{64}\n$/);
  assert.match(stderr, new RegExp(`^note: ${idOf(one!)} is without the name "x:1": a later image [^\\n]+\\n$`));
  assert.match(c.fails(3, 'load', '-i', archive, '--platform', 'plan9/mips'), /from the image "x:1": /);
  const listed = json(c.ok('images', '--json')) as { id: string; names: string[] }[];
  assert.deepEqual(
    listed.map(({ id, names }) => [id, names]).sort(),
    [
      [idOf(one!), []],
      [idOf(two!), ['docker.io/library/x:1']],
    ].sort(),
  );
});

test('images lists names, sizes and ids, short and whole', (t) => {
  const c = cli(t);
  if (c === undefined) return;
  const hex = image.configDigest.slice(7);
  c.ok('tag', 'sample:1', 'other:2');
  const [header, ...rows] = c.ok('images').trimEnd().split('\n');
  assert.match(header ?? '', /^NAME +ID +PLATFORM +CREATED +SIZE$/);
  assert.deepEqual(
    rows.map((row) => row.split(/ {2,}/).slice(0, 2)),
    [
      ['other:2', hex.slice(0, 12)],
      ['sample:1', hex.slice(0, 12)],
    ],
  );
  assert.equal(c.ok('images', '-q'), `${hex.slice(0, 12)}\n`);
  assert.equal(c.ok('images', '-q', '--no-trunc'), `${image.configDigest}\n`);
  const [one] = json(c.ok('images', '--json')) as { names: string[]; diffIds: string[] }[];
  assert.deepEqual(one?.names, ['docker.io/library/other:2', 'docker.io/library/sample:1']);
  assert.deepEqual(one?.diffIds, image.diffIds);
});

test('the main job: create, mount, change, changes, commit, save, load elsewhere', (t) => {
  const c = cli(t);
  if (c === undefined) return;
  const id = c.ok('create', 'sample:1', '--name', 'job').trim();
  assert.match(id, /^[0-9a-z]{12,}$/);
  const path = c.ok('mount', 'job').trim();
  assert.deepEqual(fs.readdirSync(join(path, 'etc')).sort(), ['added', 'motd']);
  assert.deepEqual(fs.readdirSync(join(path, 'opt/old')), []);
  fs.writeFileSync(join(path, 'etc/new'), 'new\n');
  fs.appendFileSync(join(path, 'etc/motd'), 'more\n');
  fs.rmSync(join(path, 'etc/added'));
  assert.match(c.ok('ls'), new RegExp(`^${id.slice(0, 12)} +job +sample:1 +yes `, 'm'));
  const changes = 'C /etc\nD /etc/added\nC /etc/motd\nA /etc/new\n';
  assert.equal(c.ok('changes', 'job'), changes);
  c.ok('umount', 'job');
  assert.deepEqual(mountsBelow(c.root), []);
  assert.equal(c.ok('changes', id.slice(0, 8)), changes);
  assert.deepEqual(json(c.ok('changes', '--json', 'job'))[1], { kind: 'delete', path: '/etc/added' });

  const names = shell(c.root, '$L diff job | tar -t').stdout.split('\n').filter(Boolean).sort();
  assert.deepEqual(names, ['etc/', 'etc/.wh.added', 'etc/motd', 'etc/new']);

  const committed = c.run(
    ['commit', 'job', 'sample:2', '-m', 'more', '--change', 'CMD ["cat", "/etc/new"]', '--change', 'ENV a=b'],
    { env: { SOURCE_DATE_EPOCH: '1700000000' } },
  );
  assert.match(committed.stdout, /^sample:2 sha256:[0-9a-f]{64}\n$/);
  const inspected = JSON.parse(c.ok('inspect', 'sample:2'));
  assert.equal(inspected.createdAt, '2023-11-14T22:13:20Z');
  assert.deepEqual(inspected.config.config, { Cmd: ['cat', '/etc/new'], Env: ['PATH=/bin', 'a=b'] });
  assert.equal(inspected.config.history.at(-1).comment, 'more');

  for (const format of ['oci', 'docker']) {
    const other = join(dir.path, `main-job-${format}`);
    const { status, stdout, stderr } = shell(
      c.root,
      `$L save sample:2 --format ${format} | $L --root ${other} load --json`,
    );
    assert.equal(status, 0, stderr);
    const [arrived] = json(stdout) as { id: string; names: string[]; diffIds: string[] }[];
    assert.deepEqual([arrived?.id, arrived?.names], [inspected.id, ['docker.io/library/sample:2']]);
    assert.deepEqual(arrived?.diffIds, [...image.diffIds, inspected.diffIds[2]]);
  }
  const layout = join(dir.path, 'layout');
  c.ok('save', 'sample:2', '--format', 'oci-dir', '-o', layout);
  assert.equal(fs.existsSync(join(layout, 'oci-layout')), true);
  c.ok('--root', join(dir.path, 'main-job-dir'), 'load', '-i', layout);

  const tree = shell(c.root, '$L export sample:2 | tar -t').stdout.split('\n');
  assert.ok(tree.includes('etc/new') && !tree.includes('etc/gone') && !tree.includes('etc/added'), tree.join());
  assert.equal(c.ok('check', '--deep'), '');
  assert.equal(c.ok('rm', 'job'), 'job\n');
  assert.match(c.ok('rmi', 'sample:2'), /^untagged sample:2\nremoved sha256:/);
  c.ok('gc');
  assert.equal(JSON.parse(c.ok('info', '--json')).images, 1);
});

test('save gives the very layers that came in, and the same archive each time', (t) => {
  const c = cli(t);
  if (c === undefined) return;
  const [one, two] = ['one.tar', 'two.tar'].map((name) => join(dir.path, name)) as [string, string];
  c.ok('save', 'sample:1', '-o', one);
  c.ok('save', 'sample:1', '-o', two);
  assert.ok(fs.readFileSync(one).equals(fs.readFileSync(two)));
  const sums = shell(
    c.root,
    `for d in ${image.diffIds.map((id) => id.slice(7)).join(' ')}; do tar -xOf ${one} blobs/sha256/$d | sha256sum; done`,
  );
  assert.deepEqual(
    sums.stdout.match(/[0-9a-f]{64}/g),
    image.diffIds.map((id) => id.slice(7)),
  );
});

test('mount --read-only shows an image that cannot be written, until umount', (t) => {
  const c = cli(t);
  if (c === undefined) return;
  const path = c.ok('mount', '--read-only', 'sample:1').trim();
  assert.equal(fs.readFileSync(join(path, 'etc/added'), 'utf8'), 'added\n');
  assert.throws(() => fs.writeFileSync(join(path, 'x'), ''), /EROFS/);
  c.ok('umount', 'sample:1');
  assert.deepEqual(mountsBelow(c.root), []);
  assert.match(c.fails(5, 'umount', 'sample:1'), /no "layerstore mount" holds it/);
});

test('cp copies in as root, out as the caller, and only inside the layer', (t) => {
  const c = cli(t);
  if (c === undefined) return;
  c.ok('create', 'sample:1', '--name', 'job');
  const tree = join(dir.path, 'tree');
  fs.mkdirSync(join(tree, 'sub'), { recursive: true });
  fs.writeFileSync(join(tree, 'sub/file'), 'content');
  fs.symlinkSync('/etc/shadow', join(tree, 'link'));
  fs.chownSync(join(tree, 'sub/file'), 1234, 1234);
  c.ok('cp', tree, 'job:/opt');
  c.ok('cp', join(tree, 'sub/file'), 'job:/opt/link');
  const path = c.ok('mount', 'job').trim();
  assert.equal(fs.readFileSync(join(path, 'opt/tree/sub/file'), 'utf8'), 'content');
  assert.equal(fs.statSync(join(path, 'opt/tree/sub/file')).uid, 0);
  assert.equal(fs.readlinkSync(join(path, 'opt/tree/link')), '/etc/shadow');
  assert.equal(fs.readFileSync(join(path, 'etc/motd'), 'utf8'), 'content');
  c.ok('umount', 'job');
  c.ok('cp', '--archive', join(tree, 'sub/file'), 'job:/owned');
  c.ok('cp', 'job:/owned', join(dir.path, 'out'));
  assert.equal(fs.statSync(join(dir.path, 'out')).uid, 0);
  assert.equal(c.run(['cp', 'job:/etc/.', '.'], { cwd: join(tree, 'sub') }).status, 0);
  assert.deepEqual(fs.readdirSync(join(tree, 'sub')).sort(), ['added', 'file', 'motd']);
  assert.match(c.fails(3, 'cp', 'job:/nothing', dir.path), /no such file/);
  assert.match(c.fails(2, 'cp', '/a', '/b'), /ID:\/path/);
  assert.deepEqual(mountsBelow(c.root), []);
});

test('arguments and names are bytes', (t) => {
  const c = cli(t);
  if (c === undefined) return;
  c.ok('create', 'sample:1', '--name', 'job');
  const byte = `$(printf '\\377')`;
  const out = shell(
    c.root,
    `cd ${dir.path} && $L cp "job:/opt/${byte}" "x${byte}" && cat "x${byte}" && $L cp "x${byte}" job:/ && $L changes job && $L changes --json job`,
  );
  assert.equal(out.status, 0, out.stderr);
  assert.match(out.stdout, /^bytes\n/);
  assert.ok(
    json(out.stdout.split('\n').slice(-2).join('\n')).some(
      (one) => (one as { pathBase64?: string }).pathBase64 === 'L3j/',
    ),
  );
  const refused = shell(c.root, `$L inspect "${byte}"`);
  assert.deepEqual([refused.status, refused.stderr.includes('\\xff')], [2, true]);
});

test('exit codes and messages of what users get wrong', (t) => {
  const c = cli(t);
  if (c === undefined) return;
  c.ok('create', 'sample:1', '--name', 'job');
  c.ok('tag', 'sample:1', 'x:2');
  const rows: readonly (readonly [number, RegExp, ...string[]])[] = [
    [2, /no command/],
    [2, /no such command/, 'nope'],
    [2, /unknown option "--nope"; usage: layerstore load/, 'load', '--nope'],
    [2, /usage: layerstore tag REF NEW/, 'tag', 'x'],
    [2, /unexpected argument "x"/, 'info', 'x'],
    [2, /needs a value/, '--root'],
    [2, /none of oci, oci-dir, docker/, 'save', 'sample:1', '--format', 'zip', '-o', '/dev/null'],
    [2, /name it with -o/, 'save', 'sample:1', '--format', 'oci-dir'],
    [2, /lower case/, 'tag', 'sample:1', 'UPPER'],
    [3, /"nope"/, 'inspect', 'nope'],
    [3, /nope/, 'create', 'nope:1'],
    [3, /nope/, 'rm', 'job', 'nope'],
    [3, /nope/, 'rmi', 'nope', 'sample:1'],
    [3, /\/nope/, 'load', '-i', '/nope'],
    [3, /nothing of this store is mounted there/, 'umount', dir.path],
    [3, /none named "nope:latest".*"layerstore images"/, 'tag', 'nope', 'x:1'],
    [3, /./, '--root', join(dir.path, 'no-store'), 'inspect', 'x'],
    [4, /job/, 'create', '--name', 'job'],
    [5, /not mounted|holds it/, 'umount', 'job'],
    [
      6,
      /the archive "\/etc\/passwd": it is no tar archive \(nor gzip or zstd around one\)\n/,
      'load',
      '-i',
      '/etc/passwd',
    ],
    [6, /"\/dev\/null": it is empty/, 'load', '-i', '/dev/null'],
    [4, /has 2 names \(sample:1, x:2\); .* --force/, 'rmi', image.configDigest],
  ];
  for (const [status, message, ...args] of rows) assert.match(c.fails(status, ...args), message, args.join(' '));
  c.ok('rmi', 'x:2');
  assert.match(c.fails(4, 'rmi', 'sample:1'), /writable layers are on it \("job"\)/);
  // A refused command took nothing away.
  assert.match(c.ok('ls'), / job /);
  assert.match(c.ok('images'), /^sample:1 /m);
  assert.equal(fs.existsSync(join(dir.path, 'no-store')), false);
  const mounted = c.ok('mount', 'job').trim();
  assert.match(c.fails(4, 'rm', 'job'), /mounted/);
  fs.writeFileSync(join(mounted, 'x'), '');
  const held = fs.openSync(join(mounted, 'x'), 'r');
  assert.match(c.fails(4, 'umount', 'job'), new RegExp(`layer "job": .*${process.pid}`));
  assert.match(c.fails(4, 'umount', mounted), /layer "job"/);
  assert.match(c.fails(4, 'rm', '--force', 'job'), /layer "job"/);
  fs.closeSync(held);
  c.ok('umount', 'job');
});

test('a truncated archive is refused with 6, leaves nothing, and the whole one then loads', (t) => {
  const c = cli(t, { load: false });
  if (c === undefined) return;
  const bytes = fs.readFileSync(image.archive);
  const broken = join(dir.path, 'broken.tar');
  fs.writeFileSync(broken, bytes.subarray(0, bytes.length / 2));
  assert.match(c.fails(6, 'load', '-i', broken), /broken\.tar".*cut off/);
  assert.equal(c.run(['load'], { input: bytes.subarray(0, 5000) }).status, 6);
  assert.deepEqual(JSON.parse(c.ok('info', '--json')).layers, 0);
  c.ok('load', '-i', image.archive);
});

test('commands that only read make no store of a mistyped root, and say what makes one', (t) => {
  const c = cli(t, { load: false });
  if (c === undefined) return;
  for (const line of ['images', 'ls', 'layers', 'info', 'history x', 'gc', 'driver list', 'driver exists x']) {
    const what = line.startsWith('driver') ? /no home of .*"layerstore driver create"/ : /no store; "layerstore load"/;
    assert.match(c.fails(3, ...line.split(' ')), what, line);
    assert.equal(fs.existsSync(c.root), false, line);
  }
  assert.match(c.fails(3, 'load', '-i', '/nowhere/image.tar'), /Cannot load "\/nowhere\/image.tar": no such file/);
  assert.equal(fs.existsSync(c.root), false, 'load of what is not there');
});

test('create takes the beginning of a chain id, as layers shows it, and ls shows the chain', (t) => {
  const c = cli(t);
  if (c === undefined) return;
  const [, chain = ''] = /^\S+ +([0-9a-f]{12}) .*\n$/m.exec(c.ok('layers').split('\n').slice(2).join('\n')) ?? [];
  c.ok('create', chain, '--name', 'on-chain');
  assert.match(c.ok('ls'), new RegExp(` on-chain +${chain} `));
  const [listed] = json(c.ok('ls', '--json')) as { chainId: string; image?: string }[];
  assert.equal(listed?.chainId.slice(7, 19), chain);
  assert.equal(listed?.image, undefined);
  const chains = (json(c.ok('layers', '--json')) as { chainId: string }[]).map((one) => one.chainId);
  const images = (json(c.ok('images', '--json')) as { id: string }[]).map((one) => one.id); // they are found so, too
  const digits = [...'0123456789abcdef'].flatMap((a, _, all) => all.map((b) => `sha256:${a}${b}`));
  c.fails(3, 'create', digits.find((start) => ![...chains, ...images].some((one) => one.startsWith(start))) ?? '');
});

test('an ordinary user is told in one line, exit 9, but has version and help', (t) => {
  if (!need(t, 'open-checkout')) return;
  const c = cli(t, { load: false });
  if (c === undefined) return;
  const asUser = (...args: string[]): Ran => c.run(args, { uid: 65534, cwd: '/' });
  const { status, stdout, stderr } = asUser('images');
  assert.deepEqual([status, stdout], [9, '']);
  assert.match(stderr, /^layerstore: Cannot run "images": .*root.*\n$/);
  assert.equal(asUser('version').status, 0);
  assert.match(asUser('--help').stdout, /^Usage: layerstore/);
  assert.match(asUser('commit', '--help').stdout, /^Usage: layerstore commit ID REF/);
});

test('an interrupted load ends with 130, leaves nothing half made, and then works', async (t) => {
  const c = cli(t, { load: false });
  if (c === undefined) return;
  c.ok('create');
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    const waiting = waitingOnInput(c.root, ['load']);
    await setTimeout(1000);
    waiting.signal(name);
    const { status, stdout, stderr } = await waiting.ended;
    assert.deepEqual([status, stdout, stderr], [130, '', 'layerstore: interrupted\n']);
  }
  assert.deepEqual(fs.readdirSync(join(c.root, 'tmp')), []);
  c.ok('load', '-i', image.archive);
});

test('a reader that goes away ends the run, quietly but for an archive', (t) => {
  const c = cli(t);
  if (c === undefined) return;
  for (const [command, status, said] of [
    ['save sample:1', 130, 'layerstore: interrupted: the reader left in the middle\n'],
    ['images', 0, ''],
    ['export sample:1', 130, 'layerstore: interrupted: the reader left in the middle\n'],
  ] as const) {
    const { stdout, stderr } = shell(c.root, `$L ${command} --quiet | true; echo \${PIPESTATUS[0]}`);
    assert.deepEqual([stdout, stderr], [`${status}\n`, said], command);
  }
  assert.deepEqual(mountsBelow(c.root), []);
});

test('--json gives documents and lines that parse, whatever the image says', (t) => {
  const c = cli(t);
  if (c === undefined) return;
  c.ok('create', 'sample:1', '--name', 'job');
  const lists = [
    ['images'],
    ['layers'],
    ['layers', 'sample:1'],
    ['history', 'sample:1'],
    ['ls'],
    ['doctor'],
    ['changes', 'job'],
  ];
  for (const args of lists)
    for (const one of json(c.ok(...args, '--json'))) assert.equal(typeof one, 'object', args.join(' '));
  for (const args of [['info'], ['inspect', 'job'], ['inspect', 'sample:1'], ['gc', '--dry-run'], ['version']]) {
    assert.equal(typeof JSON.parse(c.ok('--json', ...args)), 'object', args.join(' '));
  }
  assert.deepEqual(
    (json(c.ok('layers', 'sample:1', '--json')) as { diffId: string }[]).map((one) => one.diffId),
    image.diffIds,
  );
  // Hostile text of a config stays on its line.
  assert.equal(c.ok('history', 'sample:1').trimEnd().split('\n').length, 4);
  assert.doesNotMatch(c.ok('history', 'sample:1'), /\x1b/);
});

test('a terminal gets no archive, no control characters, and a bar', (t) => {
  const c = cli(t);
  if (c === undefined || !need(t, 'python3')) return;
  const saved = onTerminal(c.root, ['save', 'sample:1']);
  assert.deepEqual([saved.status, /not for a terminal/.test(saved.stdout)], [2, true]);
  c.ok('create', 'sample:1', '--name', 'job');
  const path = c.ok('mount', 'job').trim();
  fs.rmSync(join(path, 'opt'), { recursive: true });
  fs.writeFileSync(join(path, 'evil\x1b[2J'), '');
  c.ok('umount', 'job');
  const changes = onTerminal(c.root, ['changes', 'job']).stdout;
  assert.equal(changes, 'A "/evil\\x1b[2J"\r\nD /opt\r\n');
  assert.equal(c.ok('changes', 'job'), 'A /evil\x1b[2J\nD /opt\n');
  const load = (...args: string[]): string =>
    onTerminal(join(dir.path, `terminal-${args.length}`), ['load', '-i', image.archive, ...args]).stdout;
  assert.match(load(), /[0-9a-f]{12} unpack \[=+\]/);
  assert.doesNotMatch(load('--quiet'), /unpack|\x1b/);
  assert.doesNotMatch(
    onTerminal(join(dir.path, 'dumb'), ['load', '-i', image.archive], { TERM: 'dumb' }).stdout,
    /\x1b/,
  );
});

test('every command has a help page that names it', (t) => {
  const c = cli(t, { load: false });
  if (c === undefined) return;
  const names =
    c
      .ok('help')
      .match(/^ {2}([a-z]+) {2,}/gm)
      ?.map((line) => line.trim()) ?? [];
  assert.ok(names.length >= 24, names.join());
  for (const name of names) assert.ok(c.ok('help', name).startsWith(`Usage: layerstore ${name}`), name);
  assert.equal(fs.existsSync(c.root), false);
});
