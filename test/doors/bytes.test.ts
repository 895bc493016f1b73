import assert from 'node:assert/strict';
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { DRIVERS } from '../kit/stores.ts';
import { shell } from './run-cli.ts';
import { makeSampleImage } from './sample-image.ts';

// Paths that are not UTF-8, as a shell gives them. `load -i` and `cp`: cli.test.ts.

test('a store whose root is not UTF-8 does all of the main path, named by the option and by the environment', async (t) => {
  if (!need(t, 'root', 'mount', 'tar')) return;
  await using dir = await scratch('bytes');
  mkdirSync(join(dir.path, 'image'));
  const { archive } = makeSampleImage(join(dir.path, 'image'));
  for (const driver of DRIVERS) {
    for (const given of [
      `unset LAYERSTORE_ROOT; S="$L --driver ${driver} --root $D"`,
      `export LAYERSTORE_ROOT=$D; S="$L --driver ${driver}"`,
      `unset LAYERSTORE_ROOT; mkdir -p $D; cd $D; S="$L --driver ${driver} --root ."`,
    ]) {
      const lines = [
        `D=$'${dir.path}/gr\\xc3\\xbc\\xff'`,
        given,
        `$S -q load -i ${archive}`,
        '$S create sample:1 --name work',
        'P=$($S mount work)',
        'echo new > "$P/new"',
        '$S changes work',
        '$S umount work',
        '$S commit work sample:2',
        '$S save sample:2 -o - | tar -t | grep -c blobs/sha256/.',
        '$S check --deep',
        '$S rm work && $S rmi sample:2 sample:1',
        // The process that deletes finds the store as well.
        `removing() { ls -A "$D/${driver}" | grep -q removing; }`,
        'for i in $(seq 200); do removing || break; sleep 0.1; done; if removing; then exit 77; fi',
        '$S gc --wait',
        '$S driver list --json | wc -c',
        'LC_ALL=C ls "$D"',
        'cd / && rm -r "$D"',
      ];
      const { status, stdout, stderr } = shell('/nowhere', `set -e; ${lines.join('\n')}`);
      assert.equal(status, 0, `${given}: ${stderr}`);
      assert.match(stdout, /\nA \/new\n(?:.*\n)+records\nrun\nstore.db\ntmp\n/);
    }
  }
  assert.deepEqual(readdirSync(dir.path), ['image']);
});

test('layerstore info tells a root that is not UTF-8, and says where there is no store, without making one', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await scratch('bytes');
  const absent = shell('/nowhere', `$L --root $'${dir.path}/\\xff' info`);
  assert.equal(absent.status, 3);
  assert.match(absent.stderr, /^layerstore: Cannot open the store "[^"]*\\xff": there is no store[^\n]*\n$/);
  assert.deepEqual(readdirSync(dir.path), []);
  const made = shell('/nowhere', `S="$L --root $'${dir.path}/\\xff'"; eval "$S create >/dev/null && $S info --json"`);
  assert.equal(made.status, 0, made.stderr);
  const { rootBase64 } = JSON.parse(made.stdout);
  assert.deepEqual(Buffer.from(rootBase64, 'base64').subarray(-2), Buffer.from([0x2f, 0xff]));
});

test('layerstore save --format oci-dir takes a directory that is not UTF-8, absent or empty', async (t) => {
  if (!need(t, 'mount', 'tar')) return;
  await using dir = await scratch('bytes');
  mkdirSync(join(dir.path, 'image'));
  const { archive } = makeSampleImage(join(dir.path, 'image'));
  const root = join(dir.path, 'store');
  const at = `$'${dir.path}/\\xff/layout'`;
  const save = `$L -q save sample:1 --format oci-dir -o ${at}`;
  const { status, stderr, stdout } = shell(
    root,
    `$L -q load -i ${archive} >/dev/null && ${save} && ls ${at} && ${save}`,
  );
  assert.equal(stdout, 'blobs\nindex.json\noci-layout\n');
  assert.equal(status, 4, stderr);
  assert.match(stderr, /the directory is not empty/);
  // What cannot be saved leaves no directory.
  const absent = shell(
    root,
    `$L -q save absent:1 --format oci-dir -o $'${dir.path}/\\xfe'; ls -d $'${dir.path}/\\xfe'`,
  );
  assert.match(absent.stderr, /No such file/);
});

test('the overlay verbs take directories that are not UTF-8, and escapes as the characters that they name', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await scratch('bytes');
  const base = String.raw`$'${dir.path}/gr\xc3\xbc\xff\xf0\x9f\x98\x80"'`;
  // As a program would write it that knows no bytes: with escapes, two of them for one character; and a quote.
  const written = String.raw`$'${dir.path}/gr\\u00FC\xff\\ud83d\\uDE00\\"'`;
  const { status, stdout, stderr } = shell(
    '/nowhere',
    `set -e
    B=${base} W=${written}
    mkdir -p "$B/lower" "$B/upper/new"
    set -- --lower '{"type":"bind","source":"'"$W"'/lower"}' --upper '{"type":"overlay","options":["lowerdir='"$W"'/lower","upperdir='"$W"'/upper"]}'
    $L overlay upperdir "$@" | cmp - <(echo "$B/upper")
    $L overlay upperdir "$@" --json
    $L overlay changes "$@"
    $L overlay write "$@" | tar -t`,
  );
  assert.equal(status, 0, stderr);
  const [upper = '', ...rest] = stdout.split('\n');
  assert.match(
    Buffer.from(JSON.parse(upper).pathBase64, 'base64').toString('latin1'),
    /\xc3\xbc\xff\xf0\x9f\x98\x80"\/upper$/,
  );
  assert.deepEqual(rest, ['{"kind":"add","path":"/new"}', 'new/', '']);
});
