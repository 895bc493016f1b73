import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  appendFileSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fromText } from '../../src/base/bytes.ts';
import { type RawMount, toText, upperChanges, writeUpperdir } from '../../src/index.ts';
import { umount } from '../../src/linux/mount.ts';
import { tmpfs } from '../diff/overlay.ts';
import { mountsBelow } from '../faults/small-disk.ts';
import { filesystem, needsOf } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';
import { bind, FOLLOW, mark, metadataAlone, overlay, sides } from './raw-mounts.ts';
import { layerstore, type Ran } from './run-cli.ts';

// Uppers and mounts that cannot be read: each is told in one line, and nothing stays mounted.

/** One line that says so, nothing on stdout, no file, nothing mounted, no directory left. */
function assertTold(place: string, code: number, message: RegExp, args: readonly string[], verb: string): void {
  const [file, temporary] = [`${place}/layer.tar`, `${place}/temporary`] as const;
  mkdirSync(temporary, { recursive: true });
  const output = verb === 'write' ? ['-o', file] : [];
  const ran: Ran = layerstore('', ['overlay', verb, ...args, ...output], { env: { TMPDIR: temporary } });
  const what = `${verb} ${args.join(' ')}: ${ran.stderr}`;
  assert.equal(ran.status, code, what);
  assert.match(ran.stderr, message, what);
  assert.equal(ran.stderr.trim().split('\n').length, 1, what);
  assert.equal(ran.stdout, '', what);
  assert.equal(existsSync(file), false, what);
  assertNothingLeft(temporary);
}

function assertNothingLeft(temporary: string): void {
  assert.deepEqual(mountsBelow(temporary), []);
  assert.deepEqual(readdirSync(temporary), []);
}

interface Rig extends AsyncDisposable {
  readonly path: string;
  readonly base: string;
  readonly other: string;
  /** The lower, of two layers. */
  readonly lower: RawMount[];
  /** The lower with `upper` above it. */
  above(upper: string, options?: readonly string[]): RawMount[];
}

async function rig(t: TestContext): Promise<Rig | undefined> {
  if (!need(t, 'root', 'mount')) return undefined;
  const dir = await tmpfs();
  const [base, other] = [`${dir.path}/base`, `${dir.path}/other`] as const;
  for (const made of [`${base}/a`, `${base}/b`, other]) mkdirSync(made, { recursive: true });
  writeFileSync(`${base}/a/x`, 'x');
  writeFileSync(`${base}/b/y`, 'y');
  writeFileSync(`${base}/file`, 'f'.repeat(5000));
  return {
    path: dir.path,
    base,
    other,
    lower: [overlay(...FOLLOW, `lowerdir=${other}:${base}`)],
    above: (upper, options = FOLLOW) => [overlay(...options, `lowerdir=${upper}:${other}:${base}`)],
    [Symbol.asyncDispose]: () => dir[Symbol.asyncDispose](),
  };
}

test('overlay changes and write tell by path what the marks of an upper lead to, and who can read it', async (t) => {
  await using made = await rig(t);
  if (made === undefined) return;
  const cases: Readonly<Record<string, readonly [number, RegExp, (upper: string) => void]>> = {
    nowhere: [
      6,
      /"\/moved": it was moved from "\/nowhere" .*no such directory is below; give it the layers/,
      (upper) => {
        mkdirSync(`${upper}/moved`);
        mark(`${upper}/moved`, 'trusted.overlay.redirect', '/nowhere');
      },
    ],
    nowhereBeside: [
      6,
      /"\/a\/moved": it was moved from "nowhere"/,
      (upper) => {
        mkdirSync(`${upper}/a/moved`, { recursive: true });
        mark(`${upper}/a/moved`, 'trusted.overlay.redirect', 'nowhere');
      },
    ],
    outside: [
      6,
      /"\/moved": it was moved from "\/a\/\.\.\/\.\.\/etc"/,
      (upper) => {
        mkdirSync(`${upper}/moved`);
        mark(`${upper}/moved`, 'trusted.overlay.redirect', '/a/../../etc');
      },
    ],
    toFile: [
      6,
      /"\/moved": it was moved from "\/file"/,
      (upper) => {
        mkdirSync(`${upper}/moved`);
        mark(`${upper}/moved`, 'trusted.overlay.redirect', '/file');
      },
    ],
    // The outer one shows /a of the base, and that has no directory `a` that the inner one could show.
    circleOfOne: [
      6,
      /"\/a\/a": it was moved from "a"/,
      (upper) => {
        mkdirSync(`${upper}/a/a`, { recursive: true });
        mark(`${upper}/a`, 'trusted.overlay.redirect', '/a');
        mark(`${upper}/a/a`, 'trusted.overlay.redirect', 'a');
      },
    ],
    noData: [
      6,
      /"\/new": the layer has its metadata alone .*give it the layers/,
      (upper) => metadataAlone(`${upper}/new`),
    ],
    dataNowhere: [6, /"\/new": the layer has its metadata alone/, (upper) => metadataAlone(`${upper}/new`, '/gone')],
  };
  for (const [name, [code, message, make]] of Object.entries(cases)) {
    const upper = `${made.path}/${name}`;
    mkdirSync(upper);
    make(upper);
    for (const verb of ['changes', 'write'])
      assertTold(made.path, code, message, sides(made.lower, made.above(upper)), verb);
  }
  // A mount that follows no metacopy: the kernel refuses the file.
  const upper = `${made.path}/unfollowed`;
  mkdirSync(upper);
  metadataAlone(`${upper}/file`);
  const [off] = [['redirect_dir=follow', 'metacopy=off']];
  const lower = [overlay(...off, `lowerdir=${made.other}:${made.base}`)];
  for (const verb of ['changes', 'write']) {
    assertTold(made.path, 6, /"\/file": the kernel refuses/, sides(lower, made.above(upper, off)), verb);
  }
});

test('upperChanges() reads directories that took each other\u2019s places, and one that was in itself', async (t) => {
  await using made = await rig(t);
  if (made === undefined) return;
  const upper = `${made.path}/upper`;
  mkdirSync(`${made.base}/c/c`, { recursive: true });
  writeFileSync(`${made.base}/c/c/z`, 'z');
  for (const name of ['a', 'b', 'c']) mkdirSync(`${upper}/${name}`, { recursive: true });
  mark(`${upper}/a`, 'trusted.overlay.redirect', '/b');
  mark(`${upper}/b`, 'trusted.overlay.redirect', '/a');
  mark(`${upper}/c`, 'trusted.overlay.redirect', '/c/c');
  const list = async (options: Parameters<typeof upperChanges>[2]): Promise<string[]> => {
    const found: string[] = [];
    for await (const { kind, path, from } of upperChanges(made.lower, made.above(upper), options)) {
      found.push(`${kind} ${toText(path)}${from === undefined ? '' : ` from ${toText(from)}`}`);
    }
    return found;
  };
  const expected = ['delete /a/x', 'add /a/y', 'add /b/x', 'delete /b/y', 'delete /c/c', 'add /c/z'];
  assert.deepEqual(await list({}), expected);
  assert.deepEqual(await list({ walk: true }), expected);
  assert.deepEqual(await list({ renames: 'collapse' }), [
    'rename /a from /b',
    'rename /b from /a',
    'delete /c',
    'rename /c from /c/c',
  ]);
});

test('overlay changes and write tell mounts that do not fit, and layers that are not there', async (t) => {
  await using made = await rig(t);
  if (made === undefined) return;
  const { path, base, other, lower } = made;
  const [upper, plain] = [`${path}/upper`, `${path}/plain`] as const;
  mkdirSync(upper);
  writeFileSync(plain, '');
  const gone = `${path}/gone`;
  const userxattr = [overlay('userxattr', 'redirect_dir=on', `lowerdir=${other}:${base}`)];
  const cases: readonly [number, RegExp, readonly RawMount[], readonly RawMount[]][] = [
    [3, /directory ".*\/gone" does not exist/, lower, made.above(gone)],
    [
      3,
      /directory ".*\/gone" does not exist/,
      [overlay(...FOLLOW, `lowerdir=${gone}:${base}`)],
      [overlay(...FOLLOW, `lowerdir=${gone}:${base}`, `upperdir=${upper}`, `workdir=${path}/work`)],
    ],
    [3, /".*\/gone"/, [bind(gone)], [overlay(...FOLLOW, `lowerdir=${gone}`, `upperdir=${upper}`)]],
    [5, /".*\/plain"/, lower, made.above(plain)],
    [
      5,
      /\(EINVAL\); dmesg may say which\. They were "userxattr,redirect_dir=on/,
      userxattr,
      [overlay('userxattr', 'redirect_dir=on', `lowerdir=${upper}:${other}:${base}`)],
    ],
    [5, /one of its directories lies in another \(ELOOP\)/, lower, made.above(`${base}/a`)],
    [5, /layer 1 from below is/, lower, [overlay(...FOLLOW, `lowerdir=${upper}:${base}:${other}`)]],
    [5, /option "colour=blue": this version does not know it/, lower, [overlay('colour=blue', 'lowerdir=/a:/b')]],
    [5, /option "index=maybe": its values are on, off/, lower, [overlay('index=maybe', 'lowerdir=/a:/b')]],
    [5, /the upper is an overlay, not "tmpfs"/, lower, [{ type: 'tmpfs', source: fromText('t'), options: [] }]],
    [5, /a lower of type "nfs"/, [{ type: 'nfs', source: fromText('n'), options: [] }], made.above(upper)],
    [5, /not mounted with the same metacopy/, [overlay(`lowerdir=${other}:${base}`)], made.above(upper)],
  ];
  for (const [code, message, below, above] of cases) {
    for (const verb of ['changes', 'write']) assertTold(path, code, message, sides(below, above), verb);
  }
});

test('overlay write tells a file whose data went from a data-only layer', async (t) => {
  await using made = await rig(t);
  if (made === undefined) return;
  const [upper, data] = [`${made.path}/upper`, `${made.path}/data`] as const;
  for (const dir of [upper, data]) mkdirSync(dir);
  metadataAlone(`${upper}/new`, '/content');
  metadataAlone(`${upper}/file`, '/content');
  const directories = `${made.other}:${made.base}::${data}`;
  const args = sides(
    [overlay(...FOLLOW, `lowerdir=${directories}`)],
    [overlay(...FOLLOW, `lowerdir=${upper}:${directories}`)],
  );
  assertTold(made.path, 6, /"\/(new|file)": the layer has its metadata alone/, args, 'write');
  writeFileSync(`${data}/content`, 'c'.repeat(5000));
  const run = layerstore('', ['overlay', 'write', ...args, '-o', `${made.path}/layer.tar`]);
  assert.equal(run.status, 0, run.stderr);
});

test('overlay write tells a file that the disk cannot read', async (t) => {
  if (!need(t, ...needsOf('ext4'))) return;
  await using fs = await filesystem('ext4', 64);
  const image = fs.path.replace(/fs$/, 'image');
  const [base, upper] = [`${fs.path}/base`, `${fs.path}/upper`] as const;
  for (const dir of [base, upper]) mkdirSync(dir);
  writeFileSync(`${base}/big`, 'before');
  writeFileSync(`${upper}/big`, Buffer.alloc(40 << 20, 'x'));
  // Written out and read anew, so that no page of it is in memory; then the disk ends before it.
  umount(fromText(fs.path));
  assert.equal(spawnSync('mount', ['-o', 'loop', image, fs.path]).status, 0);
  assert.equal(readdirSync(upper).length, 1);
  // Where the mount lives on in a namespace of another test, so do its pages.
  assert.equal(spawnSync('dd', [`if=${upper}/big`, 'of=/dev/null', 'iflag=nocache', 'count=0']).status, 0);
  truncateSync(image, 24 << 20);
  const args = sides([bind(base)], [overlay(`lowerdir=${upper}:${base}`)]);
  assertTold(fs.path.replace(/\/fs$/, ''), 7, /"\/big": the disk reported an error \(EIO\)/, args, 'write');
});

test('overlay changes and write refuse what fuse-overlayfs wrote, and compare its own mounts', async (t) => {
  await using made = await rig(t);
  if (made === undefined || !need(t, 'fuse-overlayfs', 'fuse')) return;
  const { path, base } = made;
  /** Written through the program, so that all of its marks are its own. */
  const written = (name: string, ...command: readonly string[]): Record<'upper' | 'work' | 'merged', string> => {
    const [upper, work, merged] = [`${path}/${name}`, `${path}/${name}-work`, `${path}/${name}-merged`] as const;
    for (const dir of [upper, work, merged]) mkdirSync(dir);
    const script = `set -e
fuse-overlayfs -f -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4" &
until mountpoint -q "$4"; do kill -0 $!; sleep 0.01; done
rm "$4/file"; rm -r "$4/a"; mkdir "$4/a"; echo new > "$4/a/new"
umount "$4"
wait $!`;
    const [program = 'bash', ...args] = [...command, 'bash', '-c', script, 'bash', base, upper, work, merged];
    const { status, stderr } = spawnSync(program, args, { encoding: 'utf8', timeout: 20_000 });
    assert.equal(status, 0, stderr);
    return { upper, work, merged };
  };
  const below = [bind(base)];
  const asRoot = written('as-root');
  const unprivileged = written('unprivileged', 'unshare', '--user', '--map-root-user', '--mount');
  for (const { upper } of [asRoot, unprivileged]) {
    const above = [overlay(`lowerdir=${upper}:${base}`)];
    for (const verb of ['changes', 'write']) {
      assertTold(
        path,
        5,
        /"\/a\/\.wh\.[^"]*" is a mark of fuse-overlayfs, which .*as binds/,
        sides(below, above),
        verb,
      );
    }
  }
  // The mount that containerd's snapshotter hands out says it itself, also for the walk.
  const type = 'fuse3.fuse-overlayfs';
  const said = [{ ...overlay(`lowerdir=${base}`, `upperdir=${asRoot.upper}`, `workdir=${asRoot.work}`), type }];
  for (const verb of ['changes', 'write']) {
    assertTold(path, 5, /of type "fuse3.fuse-overlayfs": .*as binds/, sides(below, said), verb);
    assertTold(path, 5, /of type "fuse3.fuse-overlayfs"/, [...sides(below, said), '--walk'], verb);
  }
  assert.equal(layerstore('', ['overlay', 'upperdir', ...sides(below, said)]).stdout, `${asRoot.upper}\n`);
  // The remedy.
  for (const { upper, work, merged } of [asRoot, unprivileged]) {
    const options = `lowerdir=${base},upperdir=${upper},workdir=${work}`;
    const program = spawn('fuse-overlayfs', ['-f', '-o', options, merged], { stdio: 'ignore' });
    const ended = once(program, 'exit');
    while (!mountsBelow(path).includes(merged) && program.exitCode === null) await sleep(10);
    try {
      const run = layerstore('', ['overlay', 'changes', '--walk', ...sides(below, [bind(merged)])]);
      assert.equal(run.status, 0, run.stderr);
      const lines = run.stdout
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as Record<string, string>);
      assert.deepEqual(
        lines.map(({ kind, path }) => `${kind} ${path}`).filter((line) => line !== 'modify /a'),
        ['add /a/new', 'delete /a/x', 'delete /file'],
      );
    } finally {
      umount(fromText(merged));
      await ended; // until then it holds what it mounted from
    }
  }
});

test('upperChanges() refuses marks of fuse-overlayfs that were made where it may make no devices', async (t) => {
  await using made = await rig(t);
  if (made === undefined) return;
  const cases: Readonly<Record<string, readonly [RegExp, (upper: string) => void]>> = {
    whiteout: [/"\/a\/\.wh\.x" is a mark/, (upper) => writeFileSync(`${upper}/a/.wh.x`, '')],
    opaque: [/"\/a\/\.wh\.\.wh\.\.opq" is a mark/, (upper) => writeFileSync(`${upper}/a/.wh..wh..opq`, '')],
    attribute: [
      /user.fuseoverlayfs.opaque of "\/a" is a mark/,
      (upper) => mark(`${upper}/a`, 'user.fuseoverlayfs.opaque', 'y'),
    ],
    owner: [
      /user.containers.override_stat of "\/" is a mark/,
      (upper) => mark(upper, 'user.containers.override_stat', '0:0:0755'),
    ],
  };
  for (const [name, [message, make]] of Object.entries(cases)) {
    const upper = `${made.path}/${name}`;
    mkdirSync(`${upper}/a`, { recursive: true });
    make(upper);
    for (const read of [upperChanges, writeUpperdir]) {
      await assert.rejects(Array.fromAsync(read(made.lower, made.above(upper)) as AsyncIterable<unknown>), {
        code: 'unsupported',
        message,
      });
    }
  }
});

/** As long as before. */
function rewrite(path: string): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, 'other', 20 << 20);
  closeSync(fd);
}

test('writeUpperdir() fails, naming the path, when one grows, shrinks or vanishes while the archive is read', async (t) => {
  await using made = await rig(t);
  if (made === undefined) return;
  const acts: Readonly<Record<string, readonly [RegExp, (upper: string) => void]>> = {
    grows: [/"\/2": it went from/, (upper) => appendFileSync(`${upper}/2`, 'more')],
    shrinks: [/"\/2": it shrank/, (upper) => truncateSync(`${upper}/2`, 1 << 20)],
    'is written to': [/"\/2": it was written to/, (upper) => rewrite(`${upper}/2`)],
    vanishes: [/"\/4.*": it vanished/, (upper) => rmSync(`${upper}/4`, { recursive: true })],
  };
  const temporary = `${made.path}/temporary`;
  const usual = process.env['TMPDIR'];
  for (const [name, [message, act]] of Object.entries(acts)) {
    const upper = `${made.path}/upper`;
    for (const directory of [temporary, `${upper}/3`, `${upper}/4`]) mkdirSync(directory, { recursive: true });
    // More than is read, and opened, ahead of the consumer.
    for (const file of ['1', '2']) writeFileSync(`${upper}/${file}`, Buffer.alloc(24 << 20, 'x'));
    for (let i = 0; i < 1000; i++) writeFileSync(`${upper}/${i < 500 ? 3 : 4}/${i}`, '');
    let touched = false;
    const reading = async (): Promise<void> => {
      for await (const _ of writeUpperdir(made.lower, made.above(upper))) {
        if (!touched) act(upper);
        touched = true;
      }
    };
    process.env['TMPDIR'] = temporary;
    try {
      await assert.rejects(reading(), { code: 'failed-precondition', message }, name);
    } finally {
      if (usual === undefined) delete process.env['TMPDIR'];
      else process.env['TMPDIR'] = usual;
    }
    assertNothingLeft(temporary);
    rmSync(upper, { recursive: true });
  }
});
