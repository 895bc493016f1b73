import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fromText } from '../../src/base/bytes.ts';
import { IDENTITY, toContainer } from '../../src/base/id-map.ts';
import { parseWhiteout } from '../../src/fs/whiteouts.ts';
import { keepXattr, mapXattrs } from '../../src/fs/xattrs.ts';

test('parseWhiteout() reads each spelling', () => {
  const table: readonly [string, string | undefined][] = [
    ['plain', undefined],
    ['.wh', undefined],
    ['x.wh.y', undefined],
    ['.wh.name', 'whiteout name'],
    ['.wh. ', 'whiteout  '],
    ['.wh....', 'whiteout ...'],
    ['.wh..wh', 'whiteout .wh'],
    ['.wh.', 'refused'],
    ['.wh..', 'refused'],
    ['.wh...', 'refused'],
    ['.wh..wh..opq', 'opaque'],
    ['.wh..wh..opqx', 'bookkeeping'],
    ['.wh..wh.', 'bookkeeping'],
    ['.wh..wh.plnk', 'bookkeeping'],
  ];
  for (const [name, expected] of table) {
    const read = parseWhiteout(fromText(name));
    const shown = read === undefined ? undefined : read.kind === 'whiteout' ? `whiteout ${read.of}` : read.kind;
    assert.equal(shown, expected, name);
  }
});

test('keepXattr() keeps what belongs to the layer', () => {
  const kept = [
    'user.a',
    'user.overlayx',
    'security.capability',
    'system.posix_acl_access',
    'system.posix_acl_default',
  ];
  const dropped = [
    'user.overlay.opaque',
    'user.fuseoverlayfs.origin',
    'trusted.overlay.opaque',
    'trusted.a',
    'security.selinux',
    'security.ima',
    'security.evm',
    'system.nfs4_acl',
  ];
  for (const name of kept) assert.ok(keepXattr(fromText(name)), name);
  for (const name of dropped) assert.ok(!keepXattr(fromText(name)), name);
});

test('mapXattrs() maps the ids inside ACLs, and only those', () => {
  const acl = Buffer.from('0200000001000700ffffffff0200070065000000080005006600000020000500ffffffff', 'hex');
  const xattrs = new Map([
    [fromText('system.posix_acl_access'), acl],
    [fromText('user.x'), Buffer.from('e')],
  ]);
  const range = { container: 0, host: 100, size: 10 };
  const mapped = mapXattrs(xattrs, { uid: [range], gid: [range] }, toContainer);
  assert.equal(
    mapped.get(fromText('system.posix_acl_access'))?.toString('hex'),
    '0200000001000700ffffffff0200070001000000080005000200000020000500ffffffff',
  );
  assert.equal(mapped.get(fromText('user.x')), xattrs.get(fromText('user.x')));
  assert.equal(mapXattrs(xattrs, IDENTITY, toContainer), xattrs);
});
