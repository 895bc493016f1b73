import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fromText } from '../../src/base/bytes.ts';
import { fromRaw, overlayLayers, type RawMount, readingPlan, upperDirectory } from '../../src/mount/raw.ts';

const bind = (source: string): RawMount => ({
  type: 'bind',
  source: fromText(source),
  options: [fromText('ro'), fromText('rbind')],
});
const overlay = (...options: string[]): RawMount => ({
  type: 'overlay',
  source: fromText('overlay'),
  options: options.map(fromText),
});

test('overlayLayers() lists layers bottom first, the upper last (U2)', () => {
  assert.deepEqual(overlayLayers(overlay('lowerdir=/2:/1', 'upperdir=/3', 'workdir=/w')), ['/1', '/2', '/3']);
  assert.deepEqual(overlayLayers(overlay('index=off', 'userxattr', 'redirect_dir=on', 'lowerdir=/2:/1')), ['/1', '/2']);
  assert.deepEqual(overlayLayers(overlay('ro', 'metacopy=on', 'xino=auto', 'lowerdir=/b\\:1\\,x:/a\\\\', 'volatile')), [
    '/a\\',
    '/b:1,x',
  ]);
  assert.deepEqual(overlayLayers(overlay('lowerdir=/2:/1::/data')), ['/1', '/2']);
  assert.deepEqual(overlayLayers(overlay('lowerdir+=/2:x', 'lowerdir+=/1', 'datadir+=/d')), ['/1', '/2:x']);
  for (const options of [
    ['lowerdir=/1', 'unheard=of'],
    ['upperdir=/1'],
    ['lowerdir='],
    ['lowerdir=/1', 'index=auto'],
  ]) {
    assert.throws(() => overlayLayers(overlay(...options)), { code: 'unsupported' }, options.join());
  }
});

test('upperDirectory() finds the one directory more, or says which rule failed (U1)', () => {
  const lower = [overlay('lowerdir=/2:/1')];
  assert.equal(upperDirectory([], [bind('/1')]), '/1');
  assert.equal(upperDirectory([bind('/1')], [overlay('workdir=/w', 'upperdir=/2', 'lowerdir=/1')]), '/2');
  assert.equal(upperDirectory([bind('/1')], [overlay('lowerdir=/2:/1')]), '/2', 'a view names no upper');
  assert.equal(upperDirectory(lower, [overlay('workdir=/w', 'upperdir=/3', 'lowerdir=/2:/1')]), '/3');
  const refused: readonly [RegExp, readonly RawMount[], readonly RawMount[]][] = [
    [/0 lower and 2 upper mounts/, [], [bind('/1'), bind('/2')]],
    [/2 lower and 1 upper/, [bind('/1'), bind('/2')], [overlay('lowerdir=/2:/1')]],
    [/0 lower and 0 upper/, [], []],
    [/without a lower the upper is a bind, not "overlay"/, [], lower],
    [/the bind has no source/, [], [bind('')]],
    [/the upper is an overlay, not "bind"/, lower, [bind('/3')]],
    [/a lower of type "tmpfs"/, [{ type: 'tmpfs', source: fromText('tmpfs'), options: [] }], lower],
    [/the upper has 2 layers and the lower 2/, lower, lower],
    [/the upper has 4 layers and the lower 2/, lower, [overlay('lowerdir=/3:/2:/1', 'upperdir=/4')]],
    [/layer 1 from below is "\/2", not "\/1"/, lower, [overlay('lowerdir=/1:/2', 'upperdir=/3')]],
    [/layer 2 from below is "\/2\/", not "\/2"/, lower, [overlay('lowerdir=/2/:/1', 'upperdir=/3')]],
    [/not mounted with the same userxattr/, lower, [overlay('userxattr', 'lowerdir=/2:/1', 'upperdir=/3')]],
    [
      /not mounted with the same redirect_dir/,
      lower,
      [overlay('redirect_dir=nofollow', 'lowerdir=/2:/1', 'upperdir=/3')],
    ],
    [/option "newer=1"/, lower, [overlay('newer=1', 'lowerdir=/2:/1', 'upperdir=/3')]],
  ];
  for (const [message, one, other] of refused) {
    assert.throws(() => upperDirectory(one, other), { code: 'unsupported', message });
  }
});

test('readingPlan() shows the same tree and writes nothing', () => {
  const plan = fromRaw(
    overlay(
      'index=on',
      'volatile',
      'xino=on',
      'redirect_dir=on',
      'metacopy=on',
      'lowerdir=/2:/1',
      'upperdir=/3',
      'workdir=/w',
    ),
  );
  assert.deepEqual(readingPlan(plan), {
    type: 'overlay',
    userxattr: false,
    index: 'off',
    redirect: 'on',
    metacopy: 'on',
    more: ['xino=on'],
    lower: ['/3', '/2', '/1'],
  });
  assert.deepEqual(readingPlan(fromRaw(bind('/1'))), { type: 'bind', source: '/1', readonly: true });
});
