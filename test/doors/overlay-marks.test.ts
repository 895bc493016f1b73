import assert from 'node:assert/strict';
import { lstatSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { type RawMount, toText, upperChanges, writeUpperdir } from '../../src/index.ts';
import { readTar } from '../../src/tar/read.ts';
import { tmpfs } from '../diff/overlay.ts';
import { need } from '../kit/require.ts';
import { mounted } from '../law/overlay-scripts.ts';
import { mark, overlay } from './raw-mounts.ts';

// Marks that are not of the mount's own kind, and those of its kind that it refuses.

async function list(lower: RawMount, above: RawMount, walk: boolean): Promise<string[]> {
  const found: string[] = [];
  for await (const { kind, path } of upperChanges([lower], [above], { walk })) found.push(`${kind} ${toText(path)}`);
  return found;
}

/** Paths with the contents of files. */
async function packed(lower: RawMount, above: RawMount): Promise<Map<string, string>> {
  const members = new Map<string, string>();
  for await (const { entry, payload } of readTar(writeUpperdir([lower], [above]))) {
    let text = '';
    for await (const chunk of payload) text += Buffer.from(chunk).toString('latin1');
    members.set(toText(entry.name), text);
  }
  return members;
}

/** What the kernel shows at `path` of a mount. */
function shown<T>(at: string, options: readonly string[], look: (root: string) => T): T {
  using _ = mounted(at, options.join(','));
  return look(at);
}

test('upperChanges() of user.overlay.redirect and metacopy: nothing to a mount without userxattr, refused by one with it', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await tmpfs();
  const [base, none] = [`${dir.path}/base`, `${dir.path}/none`] as const;
  for (const made of [`${base}/b`, none]) mkdirSync(made, { recursive: true });
  writeFileSync(`${base}/b/y`, 'y');
  writeFileSync(`${base}/f`, 'from below');
  const uppers: Readonly<Record<string, readonly [(upper: string) => void, readonly string[], string]>> = {
    'a directory that was moved': [
      (upper) => {
        mkdirSync(`${upper}/c`);
        mark(`${upper}/c`, 'user.overlay.redirect', '/b');
      },
      ['add /c'],
      '/c',
    ],
    'a directory with another in its place': [
      (upper) => {
        mkdirSync(`${upper}/b`);
        mark(`${upper}/b`, 'user.overlay.redirect', '/nowhere');
      },
      [],
      '/b',
    ],
    'metadata alone': [
      (upper) => {
        writeFileSync(`${upper}/f`, '');
        truncateSync(`${upper}/f`, 10);
        mark(`${upper}/f`, 'user.overlay.metacopy', '');
      },
      ['modify /f'],
      '/f',
    ],
    'metadata alone, of another path': [
      (upper) => {
        writeFileSync(`${upper}/g`, '');
        truncateSync(`${upper}/g`, 10);
        mark(`${upper}/g`, 'user.overlay.metacopy', '');
        mark(`${upper}/g`, 'user.overlay.redirect', '/f');
      },
      ['add /g'],
      '/g',
    ],
  };
  let count = 0;
  for (const [name, [make, expected, path]] of Object.entries(uppers)) {
    const upper = `${dir.path}/upper${++count}`;
    mkdirSync(upper);
    make(upper);
    const layers = `lowerdir=${upper}:${none}:${base}`;
    const sides = (...options: string[]): [RawMount, RawMount] => [
      overlay(...options, `lowerdir=${none}:${base}`),
      overlay(...options, layers),
    ];
    // To this one they are attributes of users, and zeros are zeros.
    for (const walk of [false, true]) assert.deepEqual(await list(...sides(), walk), expected, name);
    for (const [member, text] of await packed(...sides())) {
      if (member.endsWith('/')) continue;
      assert.equal(text, '\0'.repeat(10), name);
      shown(`${dir.path}/trusted${count}`, [layers], (root) => {
        assert.equal(readFileSync(`${root}/${member}`, 'latin1'), text, name);
      });
    }
    // And this one refuses them; so do both of our ways, naming the path.
    shown(`${dir.path}/user${count}`, ['userxattr', layers], (root) => {
      assert.throws(() => lstatSync(root + path), { code: 'EPERM' }, name);
    });
    for (const walk of [false, true]) {
      await assert.rejects(list(...sides('userxattr'), walk), { code: 'corrupt', path }, `${name}, walk: ${walk}`);
    }
    await assert.rejects(packed(...sides('userxattr')), { code: 'corrupt', path }, name);
  }
});

test('upperChanges() reads marks of the mount\u2019s own kind; those of the other, and escaped ones, are none', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await tmpfs();
  const [base, none] = [`${dir.path}/base`, `${dir.path}/none`] as const;
  for (const made of [`${base}/d`, none]) mkdirSync(made, { recursive: true });
  writeFileSync(`${base}/d/below`, 'y');
  const [marked, plain] = [['delete /d/below', 'add /d/new'], ['add /d/new']] as const;
  const kinds: readonly (readonly [string, readonly string[], readonly string[]])[] = [
    ['trusted.overlay.', [], marked],
    ['user.overlay.', ['userxattr'], marked],
    ['trusted.overlay.', ['userxattr'], plain],
    ['user.overlay.', [], plain],
    // What a layer on another overlay would have on disk: only through that overlay it is a mark.
    ['trusted.overlay.overlay.', [], plain],
    ['user.overlay.overlay.', ['userxattr'], plain],
  ];
  for (const [i, [prefix, options, expected]] of kinds.entries()) {
    const upper = `${dir.path}/upper${i}`;
    mkdirSync(`${upper}/d`, { recursive: true });
    mark(`${upper}/d`, `${prefix}opaque`, 'y');
    mark(`${upper}/d`, `${prefix}redirect`, '/nowhere');
    writeFileSync(`${upper}/d/new`, 'new');
    const below = overlay(...options, `lowerdir=${none}:${base}`);
    const above = overlay(...options, `lowerdir=${upper}:${none}:${base}`);
    for (const walk of [false, true]) assert.deepEqual(await list(below, above, walk), expected, prefix);
    if (expected === plain)
      assert.deepEqual(
        [...(await packed(below, above))],
        [
          ['d/', ''],
          ['d/new', 'new'],
        ],
      );
  }
});
