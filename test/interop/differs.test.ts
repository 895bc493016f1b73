import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import fc from 'fast-check';
import { type ByteString, fromText } from '../../src/base/bytes.ts';
import { packTree } from '../../src/diff/pack.ts';
import type { Rendering, WalkOptions } from '../../src/diff/types.ts';
import { whyNotUpper } from '../../src/diff/upper.ts';
import { walkChanges, walkDifferences } from '../../src/diff/walk.ts';
import { inodeKey, isDirectory, isFile, typeOf } from '../../src/fs/stat.ts';
import { CAPABILITY, sameXattrs, xattrsOf } from '../../src/fs/xattrs.ts';
import { isStorageError } from '../../src/index.ts';
import { AT_FDCWD, lstatat, readlinkat, type Stat } from '../../src/linux/inode.ts';
import { type RawMount, upperDirectory } from '../../src/mount/raw.ts';
import { readTar } from '../../src/tar/read.ts';
import { tmpfs } from '../diff/overlay.ts';
import { edits, making } from '../kit/edits.ts';
import { peersIn } from '../kit/peers.ts';
import { isRequired, need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { mounted, play, readingMode } from '../law/overlay-scripts.ts';

// Ours beside BuildKit's, containerd's and Docker's differs, on the same mounts. What only one of two has must have a
// reason in this file.

const SCRIPTS = 40 * Number(process.env['LAYERSTORE_LAW_FACTOR'] ?? 1);

/** The program of `differ-peer/`: that of LAYERSTORE_PEERS, else built by Go for this test alone. */
async function differPeer(t: TestContext): Promise<(AsyncDisposable & { readonly program: string }) | undefined> {
  const made = peersIn().findIn('directory', 'differ-peer');
  if (made !== undefined) return { program: made, async [Symbol.asyncDispose]() {} };
  const dir = await scratch('differ-peer');
  const program = `${dir.path}/differ-peer`;
  const cwd = new URL('differ-peer', import.meta.url);
  const env = { ...process.env, GOFLAGS: '-mod=readonly -buildvcs=false' };
  const built = spawnSync('go', ['build', '-o', program, '.'], { cwd, env, encoding: 'utf8', timeout: 300_000 });
  if (built.status === 0) return { program, [Symbol.asyncDispose]: () => dir[Symbol.asyncDispose]() };
  await dir[Symbol.asyncDispose]();
  const why = built.error?.message ?? built.stderr.trim().split('\n').at(-1);
  const reason = `no differ-peer in LAYERSTORE_PEERS, and go cannot build it: ${why}`;
  if (isRequired('peers')) throw new Error(`REQUIRE names it, but: ${reason}`);
  t.skip(reason);
  return undefined;
}

function peer(program: string, ...args: readonly string[]): Buffer {
  const { status, stdout, stderr } = spawnSync(program, args, { timeout: 60_000, maxBuffer: 1 << 26 });
  assert.equal(status, 0, `${args.join(' ')}: ${stderr}`);
  return stdout;
}

/** `A /path`, M or D, in their order; a byte a character. */
function peerChanges(program: string, ...args: readonly string[]): string[] {
  return peer(program, ...args)
    .toString('latin1')
    .split('\0')
    .slice(0, -1);
}

interface Trees {
  readonly upper: string;
  /** The upper alone, without its whiteouts. */
  readonly upperView: string;
  readonly base: string;
  readonly view: string;
  readonly guide: 'overlay' | 'overlay-userxattr';
}

function guided({ upper, view, guide }: Trees): WalkOptions {
  assert.equal(whyNotUpper(fromText(view), { upper: fromText(upper), style: guide, noIndex: true }), undefined);
  return { upper: fromText(upper), guide };
}

const LETTERS = { add: 'A', modify: 'M', delete: 'D', rename: 'R' } as const;

function ourChanges(trees: Trees, rendering: Rendering): string[] {
  const changes = walkChanges(fromText(trees.view), fromText(trees.base), rendering, guided(trees));
  return Array.from(changes, ({ kind, path }) => `${LETTERS[kind]} ${path}`);
}

/** Every layer of them much changed. */
const script = fc.record({
  layers: fc
    .tuple(making(14), fc.array(edits(20), { maxLength: 2, size: 'max' }), edits(40))
    .map(([first, between, last]) => [first, ...between, last]),
  offline: fc.constant([]),
});

/** Stacks without redirects and metacopy, which no other differ reads, under both kinds of attributes. */
async function eachScript(run: (trees: Trees) => Promise<void> | void): Promise<void> {
  await using dir = await tmpfs();
  for (const mode of ['index=off,redirect_dir=off,metacopy=off', 'index=off,userxattr']) {
    let count = 0;
    await fc.assert(
      fc.asyncProperty(script, async (steps) => {
        rmSync(`${dir.path}/${count}`, { recursive: true, force: true });
        const at = `${dir.path}/${++count}`;
        mkdirSync(`${at}/none`, { recursive: true });
        const [upper = '', ...lowers] = play(at, steps, mode);
        const read = `${readingMode(mode)},lowerdir=`;
        using _view = mounted(`${at}/view`, `${read}${[upper, ...lowers].join(':')}`);
        using _base = mounted(`${at}/base`, `${read}${[...lowers, `${at}/none`].join(':')}`);
        using _upper = mounted(`${at}/upper`, `${read}${upper}:${at}/none`);
        const guide = mode.endsWith('userxattr') ? 'overlay-userxattr' : 'overlay';
        await run({ upper, upperView: `${at}/upper`, base: `${at}/base`, view: `${at}/view`, guide });
      }),
      { numRuns: SCRIPTS },
    );
    rmSync(`${dir.path}/${count}`, { recursive: true, force: true });
  }
}

/**
 * Why no other differ lists a path that ours has as modified. They compare type, mode, owner, device, capability, and
 * of what is no directory size and time.
 * - `attributes`: nothing else changed: user.* and ACLs, which their layers lose (in the core rendering)
 * - `contents`: written to and given its old time: they read a file only where both times have no fraction
 * - `linked`: two names that were apart are one file now: they list the one whose inode changed, or none
 */
type Reason = 'attributes' | 'contents' | 'linked';

function reasonFor(
  { view, base }: Trees,
  line: string,
  linked: ReadonlySet<string>,
  rendering: Rendering,
): Reason | undefined {
  const path = line.slice(2);
  const [now, before] = [view, base].map((root) => `${fromText(root)}${path}`) as [ByteString, ByteString];
  const [stat, was] = [lstatat(AT_FDCWD, now), lstatat(AT_FDCWD, before)];
  if (!line.startsWith('M ') || stat === undefined || was === undefined) return undefined;
  const looks = (of: typeof stat): unknown[] => [of.mode, of.uid, of.gid, of.rdevMajor, of.rdevMinor];
  const [attributes, old] = [xattrsOf(now), xattrsOf(before)];
  assert.deepEqual(looks(stat), looks(was), `${line} is missing elsewhere`);
  assert.deepEqual(attributes.get(CAPABILITY), old.get(CAPABILITY), `${line} is missing elsewhere`);
  if (!isDirectory(stat)) {
    assert.deepEqual([stat.sizeBytes, stat.mtimeNs], [was.sizeBytes, was.mtimeNs], `${line} is missing elsewhere`);
    if (contentOf(now, stat) !== contentOf(before, was)) return 'contents';
  }
  if (rendering === 'core' && !sameXattrs(attributes, old)) return 'attributes';
  return linked.has(inodeKey(stat)) ? 'linked' : undefined;
}

function contentOf(path: ByteString, stat: Stat): string {
  if (typeOf(stat.mode) === 'symlink') return readlinkat(AT_FDCWD, path) as ByteString;
  return isFile(stat) ? readFileSync(Buffer.from(path, 'latin1'), 'latin1') : '';
}

/** The inodes of the view that have several names of which the base has two or more apart. */
function joined({ view, base }: Trees): ReadonlySet<string> {
  const inodes = new Map<string, Set<string>>();
  for (const { path, stat } of walkChanges(fromText(view), undefined, 'core')) {
    if (stat === undefined || stat.nlink === 1 || isDirectory(stat)) continue;
    let was: ReturnType<typeof lstatat>;
    try {
      was = lstatat(AT_FDCWD, `${fromText(base)}${path}` as ByteString);
    } catch {
      continue; // absent, or below what is no directory there
    }
    if (was === undefined) continue;
    const key = inodeKey(stat);
    inodes.set(key, (inodes.get(key) ?? new Set()).add(inodeKey(was)));
  }
  return new Set([...inodes].flatMap(([key, were]) => (were.size > 1 ? [key] : [])));
}

/** Where ours and a peer's list differ, each line of ours with its reason; what has none fails. */
function compare(
  who: string,
  trees: Trees,
  rendering: Rendering,
  peers: string[],
  tally: Map<string, number>,
): Set<string> {
  const ours = ourChanges(trees, rendering);
  const [mine, yours] = [new Set(ours), new Set(peers)];
  assert.deepEqual(
    peers.filter((line) => !mine.has(line)),
    [],
    `only ${who} has these; ours:\n${ours.join('\n')}`,
  );
  const linked = joined(trees);
  const more = new Set<string>();
  for (const line of ours.toReversed()) {
    if (yours.has(line)) continue;
    // In Docker's rendering a directory is listed because of what is listed in it.
    const leads = [...more].some((path) => path.startsWith(`${line.slice(2)}/`));
    const reason = reasonFor(trees, line, linked, rendering) ?? (leads ? 'leads to such' : undefined);
    assert.ok(reason !== undefined, `${who} lacks "${line}", for no reason that is known`);
    more.add(line.slice(2));
    tally.set(`${who}: ${reason}`, (tally.get(`${who}: ${reason}`) ?? 0) + 1);
  }
  return more;
}

test('walkChanges() by the upper lists what BuildKit, continuity and Docker list, and why it lists more', async (t) => {
  if (!need(t, 'mount')) return;
  await using built = await differPeer(t);
  if (built === undefined) return;
  const { program } = built;
  const tally = new Map<string, number>();
  let lines = 0;
  await eachScript((trees) => {
    const { upper, upperView, base, view } = trees;
    const core = ourChanges(trees, 'core');
    const lists = {
      BuildKit: peerChanges(program, 'buildkit', upper, upperView, base),
      continuity: peerChanges(program, 'continuity', base, view),
    };
    for (const [who, list] of Object.entries(lists)) {
      const more = compare(who, trees, 'core', list, tally);
      // The same order, too.
      assert.deepEqual(
        core.filter((line) => !more.has(line.slice(2))),
        list,
        who,
      );
    }
    // Docker gives them as its hash tables do.
    compare('Docker', trees, 'docker', peerChanges(program, 'docker', base, view), tally);
    lines += core.length;
  });
  t.diagnostic(`${2 * SCRIPTS} scripts, ${lines} changes; only ours: ${JSON.stringify(Object.fromEntries(tally))}`);
  assert.ok(lines > SCRIPTS, 'the scripts change too little to say much');
});

/** A member as all of them can write it: whole seconds, of the attributes the capability alone. */
interface Member {
  readonly looks: string;
  readonly directory: boolean;
  /** All names of the file, sorted. */
  readonly names: readonly string[];
}

async function membersOf(tar: Buffer): Promise<Map<string, Member>> {
  const firsts = new Map<string, Member & { readonly names: string[] }>();
  const stream = async function* (): AsyncGenerator<Uint8Array> {
    yield tar;
  };
  for await (const { entry, payload } of readTar(stream())) {
    const name = entry.name.replace(/\/$/, '');
    if (entry.type === 'hardlink') {
      firsts.get(entry.linkName)?.names.push(name);
      continue;
    }
    const hash = createHash('sha256');
    for await (const chunk of payload) hash.update(chunk);
    const { type, mode, uid, gid, sizeBytes, mtimeNs, devMajor, devMinor, linkName, xattrs } = entry;
    const facts = [mode, uid, gid, `${mtimeNs}`, devMajor, devMinor, linkName, xattrs.get(CAPABILITY)];
    // The times of a whiteout are nobody's.
    const whiteout = /(^|\/)\.wh\.[^/]*$/.test(name);
    const looks = JSON.stringify([type, sizeBytes, ...(whiteout ? [] : facts), hash.digest('hex')]);
    firsts.set(name, { looks, directory: type === 'directory', names: [name] });
  }
  return new Map(
    [...firsts.values()].flatMap(({ names, ...rest }) => {
      const sorted = names.toSorted();
      return sorted.map((name) => [name, { ...rest, names: sorted }] as const);
    }),
  );
}

test('packTree() packs the members that containerd and BuildKit pack, alike', async (t) => {
  if (!need(t, 'mount')) return;
  await using built = await differPeer(t);
  if (built === undefined) return;
  const { program } = built;
  let count = 0;
  let lost = 0;
  await eachScript(async (trees) => {
    const { upper, upperView, base, view } = trees;
    const chunks: Buffer[] = [];
    const differences = walkDifferences(fromText(view), fromText(base), guided(trees));
    packTree(fromText(view), differences, { xattrs: 'docker', upper: fromText(upper) }, (bytes) =>
      chunks.push(Buffer.from(bytes)),
    );
    const ours = await membersOf(Buffer.concat(chunks));
    const linked = joined(trees);
    const archives = [
      ['containerd-tar', base, view],
      ['buildkit-tar', upper, upperView, base],
    ] as const;
    for (const args of archives) {
      const peers = await membersOf(peer(program, ...args));
      for (const [path, { looks, names }] of peers) {
        const mine = ours.get(path);
        assert.equal(mine?.looks, looks, `${args[0]}: ${path}`);
        // A link between a changed and an unchanged name: BuildKit packs the first alone, as a file of its own.
        const kept = args[0] === 'containerd-tar' ? mine.names : mine.names.filter((name) => peers.has(name));
        assert.deepEqual(kept, names, `${args[0]}: ${path}`);
        count++;
      }
      for (const [path, { directory, names }] of ours) {
        // A directory whose times alone differ, or `./`, is in ours only.
        if (peers.has(path) || directory) continue;
        lost++;
        if (args[0] === 'buildkit-tar' && names.some((name) => peers.has(name))) continue;
        assert.ok(reasonFor(trees, `M /${path}`, linked, 'core') !== undefined, `${args[0]} lacks ${path}`);
      }
    }
  });
  t.diagnostic(`${2 * SCRIPTS} scripts, ${count} members alike, ${lost} files that only ours has`);
});

test('upperDirectory() finds what GetUpperdir of BuildKit finds, and more only where its reading is wrong', async (t) => {
  await using built = await differPeer(t);
  if (built === undefined) return;
  const text = (raw: readonly RawMount[]): string =>
    JSON.stringify(raw.map(({ type, source, options }) => ({ Type: type, Source: source, Options: options })));
  const tally: Record<string, number> = {};
  const layer = fc.constantFrom('/1', '/2', '/3', '/4');
  const overlay = fc
    .record({
      lower: fc.array(layer, { minLength: 1, maxLength: 3 }),
      upper: fc.option(layer, { nil: undefined }),
      extra: fc.subarray(['index=off', 'userxattr', 'redirect_dir=off', 'metacopy=on', 'ro']),
    })
    .map(({ lower, upper, extra }) => ({
      type: 'overlay',
      source: fromText('overlay'),
      options: [
        ...extra,
        `lowerdir=${lower.join(':')}`,
        ...(upper === undefined ? [] : [`upperdir=${upper}`, 'workdir=/w']),
      ].map(fromText),
    }));
  const bind = layer.map((source) => ({ type: 'bind', source: fromText(source), options: [fromText('rbind')] }));
  /** A pair that often fits: what lies below, and the same with one layer more. */
  const fitting = fc
    .tuple(
      fc.array(layer, { minLength: 1, maxLength: 3 }),
      layer,
      fc.boolean(),
      fc.subarray(['index=off', 'userxattr']),
    )
    .map(([lower, upper, bare, extra]): [RawMount[], RawMount[]] => {
      const below = lower.length === 1 && bare ? 'bind' : 'overlay';
      const source = fromText(below === 'bind' ? (lower[0] as string) : 'overlay');
      const dirs = `lowerdir=${lower.join(':')}`;
      return [
        [{ type: below, source, options: (below === 'bind' ? ['ro'] : [...extra, dirs]).map(fromText) }],
        [
          {
            type: 'overlay',
            source: fromText('overlay'),
            options: [...extra, dirs, `upperdir=${upper}`, 'workdir=/w'].map(fromText),
          },
        ],
      ];
    });
  const side = fc.array(fc.oneof({ weight: 3, arbitrary: overlay }, { weight: 1, arbitrary: bind }), {
    minLength: 1,
    maxLength: 1,
  });
  const pair: fc.Arbitrary<readonly [readonly RawMount[], readonly RawMount[]]> = fc.oneof(
    fitting,
    fc.tuple(fc.oneof({ weight: 4, arbitrary: side }, { weight: 1, arbitrary: fc.constant([]) }), side),
  );
  fc.assert(
    fc.property(pair, ([lower, upper]) => {
      const { status, stdout, stderr } = spawnSync(built.program, ['upperdir', text(lower), text(upper)], {
        encoding: 'utf8',
      });
      const buildkit = status === 0 ? stdout : undefined;
      let ours: string | undefined;
      let why = '';
      try {
        ours = upperDirectory(lower, upper);
      } catch (error) {
        if (!isStorageError(error, 'unsupported')) throw error;
        why = error.message;
      }
      if (ours === buildkit) {
        const result = ours === undefined ? 'neither' : 'both';
        tally[result] = (tally[result] ?? 0) + 1;
        return;
      }
      // It knows fewer options; and it asks not whether both sides read their layers alike.
      const reason =
        buildkit === undefined && /unknown option "(metacopy=on|ro)"/.test(stderr)
          ? 'its options'
          : ours === undefined && /not mounted with the same (userxattr|metacopy)/.test(why)
            ? 'not read alike'
            : undefined;
      assert.ok(reason !== undefined, `BuildKit: ${buildkit} ${stderr}; ours: ${ours} ${why}`);
      tally[reason] = (tally[reason] ?? 0) + 1;
    }),
    { numRuns: 300 },
  );
  t.diagnostic(JSON.stringify(tally));
  assert.ok((tally['both'] ?? 0) > 50);
});
