import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import type { ByteString } from '../../src/base/bytes.ts';
import { keepXattr, replaceXattrs } from '../../src/fs/xattrs.ts';

/** Applies a layer with GNU tar: whiteouts first, then what is replaced goes, then everything is unpacked. */
export function applyByGnuTar(tar: Buffer, root: string): void {
  const list = spawnSync('tar', ['-tf', '-', '--quoting-style=literal', '--show-transformed-names'], { input: tar });
  assert.equal(list.status, 0, list.stderr.toString());
  const names = list.stdout.toString('latin1').split('\n').slice(0, -1);
  assert.equal(new Set(names).size, names.length, 'a name comes twice');
  for (const name of names) {
    const slash = name.lastIndexOf('/', name.length - 2) + 1;
    const [dir, last] = [name.slice(0, slash), name.slice(slash)];
    const path = Buffer.from(`${root}/${name}`, 'latin1');
    if (last.startsWith('.wh.')) {
      rmSync(Buffer.from(`${root}/${dir}${last.slice(4)}`, 'latin1'), { recursive: true, force: true });
    } else if (!name.endsWith('/')) {
      rmSync(path, { recursive: true, force: true });
    } else if (
      spawnSync('test', ['-d', path.toString(), '-a', '!', '-h', path.toString().replace(/\/$/, '')]).status === 0
    ) {
      replaceXattrs(path.toString('latin1') as ByteString, new Map(), keepXattr);
    } else {
      rmSync(path.toString().replace(/\/$/, ''), { force: true });
    }
  }
  const flags = ['-xpf', '-', '-C', root, '--numeric-owner', '--xattrs', '--xattrs-include=*', '--exclude=.wh.*'];
  const run = spawnSync('tar', flags, { input: tar });
  assert.equal(run.status, 0, run.stderr.toString());
}
