import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { type ByteString, fromText, toBytes } from '../../src/base/bytes.ts';
import { type OverlayMount, overlayData, overlayRoute, parseOverlayData } from '../../src/mount/overlay-options.ts';
import { inlinePerformer } from '../kit/inline-performer.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';

const bytes = (text: string): ByteString => text as ByteString;
const plan: OverlayMount = { type: 'overlay', lower: [bytes('/a'), bytes('/b')], userxattr: false };

test('overlayData() writes index, userxattr, lowerdir, upperdir, workdir, label, in this order (O10)', () => {
  const all: OverlayMount = {
    ...plan,
    index: 'off',
    userxattr: true,
    upper: bytes('/u'),
    work: bytes('/w'),
    label: 'l:s0:c1,c2',
  };
  assert.equal(overlayData(all), 'index=off,userxattr,lowerdir=/a:/b,upperdir=/u,workdir=/w,context="l:s0:c1,c2"');
  assert.equal(overlayData(plan), 'lowerdir=/a:/b');
});

test('overlayData() escapes what would be an option or a directory of its own', () => {
  const odd = bytes('/a,upperdir=\\:/etc');
  assert.equal(
    overlayData({ ...plan, lower: [odd], upper: odd, work: odd }),
    'lowerdir=/a\\,upperdir=\\\\\\:/etc,upperdir=/a\\,upperdir=\\\\:/etc,workdir=/a\\,upperdir=\\\\:/etc',
  );
  for (const label of ['x",upperdir="/etc', '', 'a\\', 'a\0']) {
    assert.throws(() => overlayData({ ...plan, label }), { code: 'invalid-argument' });
  }
});

test('overlayRoute() takes absolute names, then short ones, then says all sizes (O11)', () => {
  const lower = Array.from({ length: 10 }, (_, n) => bytes(`/very/long/home/layer${n}/diff`));
  const short = { base: bytes('/very/long/home'), lower: lower.map((_, n) => bytes(`l/${n}`)) };
  const long: OverlayMount = { ...plan, lower, short };
  const size = overlayData(long).length;
  assert.deepEqual(overlayRoute(long, size + 1), { data: overlayData(long) });
  const route = overlayRoute(long, size);
  assert.equal(route.base, '/very/long/home');
  assert.equal(route.data, 'lowerdir=l/0:l/1:l/2:l/3:l/4:l/5:l/6:l/7:l/8:l/9');
  const message = new RegExp(
    `of 10 lower directories: its options are ${size} bytes, ${route.data.length} with paths relative to "/very/long/home"; one page holds 29`,
  );
  assert.throws(() => overlayRoute(long, 30), { code: 'failed-precondition', message });
  assert.throws(() => overlayRoute({ ...plan, lower }, 30), {
    code: 'failed-precondition',
    message: /bytes, one page holds 29/,
  });
});

const path = fc
  .string({ unit: fc.constantFrom(...'/ab ,:\\"=\n\xff'), minLength: 1, maxLength: 12 })
  .map((text) => bytes(`/${text}`));
const anyPlan = fc
  .record(
    {
      lower: fc.array(path, { minLength: 1, maxLength: 5 }),
      upper: path,
      work: path,
      userxattr: fc.boolean(),
      index: fc.constantFrom('on' as const, 'off' as const),
      label: fc.string({ unit: fc.constantFrom(...'ab:,= '), minLength: 1 }),
      redirect: fc.constantFrom('on' as const, 'off' as const, 'follow' as const, 'nofollow' as const),
      metacopy: fc.constantFrom('on' as const, 'off' as const),
      dataOnly: fc.array(path, { minLength: 1, maxLength: 2 }),
      more: fc
        .uniqueArray(fc.constantFrom('volatile', 'xino=auto', 'verity=require', 'uuid=null', 'default_permissions'), {
          minLength: 1,
        })
        .map((options) => options.map(bytes)),
    },
    { requiredKeys: ['lower', 'userxattr'] },
  )
  .map((one) => ({ type: 'overlay', ...one }) as OverlayMount);

test('parseOverlayData() undoes overlayData(): parse(render(plan)) = plan', () => {
  fc.assert(fc.property(anyPlan, (one) => assert.deepEqual({ ...parseOverlayData(overlayData(one)) }, { ...one })));
});

test('parseOverlayData() refuses what it does not know, never guesses', () => {
  for (const data of [
    '',
    'upperdir=/u',
    'lowerdir=/a,metacopy=maybe',
    'lowerdir=/a::',
    'lowerdir=::/b',
    'lowerdir=/a::/b:/c',
    'lowerdir=/a,redirect_dir',
    'lowerdir=/a,xino=1',
    'lowerdir=/a,newer=on',
    'lowerdir=/a,constructor',
    'lowerdir=',
    'lowerdir=/a,index=maybe',
    'lowerdir=/a,userxattr=1',
  ]) {
    assert.throws(() => parseOverlayData(bytes(data)), { code: 'unsupported' }, data);
  }
});

test('the kernel reads overlayData() as it is meant, whatever the names are (O11)', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await scratch('escapes');
  await using perform = inlinePerformer();
  const names = [',', ':', '\\', '\\\\', ',upperdir=', 'a\\,b:c', ' x\t\n', '"', '\xff\xfe', '#', 'a:b\\:c,'];
  for (const name of names) {
    const home = `${fromText(dir.path)}/${name}` as ByteString;
    const at = (part: string): ByteString => `${home}/${part}` as ByteString;
    for (const part of ['l1', 'l2', 'u', 'w', 'm']) mkdirSync(toBytes(at(part)), { recursive: true });
    writeFileSync(toBytes(at('l1/f')), name, 'latin1');
    const lower = [at('l2'), at('l1')];
    const short = { base: home, lower: [bytes('l2'), bytes('l1')], upper: bytes('u'), work: bytes('w') };
    for (const spelled of [{}, { lower: Array<ByteString>(200).fill(at('x'.repeat(100))), short }]) {
      await perform.mount(
        { type: 'overlay', lower, upper: at('u'), work: at('w'), userxattr: false, ...spelled },
        at('m'),
      );
      assert.equal(readFileSync(toBytes(at('m/f')), 'latin1'), name);
      assert.equal(await perform.unmount(at('m'), { detach: false }), true);
      assert.deepEqual(workingDirectories(), [process.cwd()], 'no thread stays in the home');
    }
  }
});

/** Those of all threads of this process. */
function workingDirectories(): string[] {
  const all = readdirSync('/proc/self/task').map((thread) => readlinkSync(`/proc/self/task/${thread}/cwd`));
  return [...new Set(all)];
}
