import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { lstatSync, rmSync } from 'node:fs';
import { type ByteString, fromText, toBytes } from '../../src/base/bytes.ts';
import { keepXattr, replaceXattrs } from '../../src/fs/xattrs.ts';

const C_LOCALE = { ...process.env, LC_ALL: 'C' };

/** Applies a layer with GNU tar: whiteouts first, then what is replaced goes, then everything is unpacked. */
export function applyByGnuTar(tar: Buffer, root: string): void {
  const list = spawnSync('tar', ['-tf', '-', '--quoting-style=escape'], { input: tar, env: C_LOCALE });
  assert.equal(list.status, 0, list.stderr.toString());
  const names = list.stdout.toString('latin1').split('\n').slice(0, -1).map(unescaped);
  assert.equal(new Set(names).size, names.length, 'a name comes twice');
  for (const name of names) {
    const slash = name.lastIndexOf('/', name.length - 2) + 1;
    const [dir, last] = [name.slice(0, slash), name.slice(slash)];
    const path = `${fromText(root)}/${name}`.replace(/\/$/, '') as ByteString;
    if (last.startsWith('.wh.')) {
      rmSync(toBytes(`${fromText(root)}/${dir}${last.slice(4)}` as ByteString), { recursive: true, force: true });
    } else if (!name.endsWith('/')) {
      rmSync(toBytes(path), { recursive: true, force: true });
    } else if (lstatSync(toBytes(path), { throwIfNoEntry: false })?.isDirectory() === true) {
      replaceXattrs(path, new Map(), keepXattr);
    } else {
      rmSync(toBytes(path), { force: true });
    }
  }
  const flags = ['-xpf', '-', '-C', root, '--numeric-owner', '--xattrs', '--xattrs-include=*', '--exclude=.wh.*'];
  const run = spawnSync('tar', flags, { input: tar, env: C_LOCALE });
  assert.equal(run.status, 0, run.stderr.toString());
}

const ESCAPES: Readonly<Record<string, string>> = { a: '\x07', b: '\b', f: '\f', n: '\n', r: '\r', t: '\t', v: '\v' };

/** What GNU tar's quoting style `escape` stands for. */
function unescaped(name: string): string {
  return name.replace(/\\([0-7]{3}|.)/g, (_, code: string) =>
    code.length === 3 ? String.fromCharCode(Number.parseInt(code, 8)) : (ESCAPES[code] ?? code),
  );
}
