import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface SampleImage {
  /** A docker archive. */
  readonly archive: string;
  readonly configDigest: string;
  readonly diffIds: readonly string[];
}

/**
 * `sample:1` below `directory`, made by GNU tar: a base, and a layer that adds a file, deletes one and makes a directory
 * opaque. One name is not UTF-8, one would clear a terminal.
 */
export function makeSampleImage(directory: string): SampleImage {
  const base = join(directory, 'base');
  mkdirSync(join(base, 'etc'), { recursive: true });
  mkdirSync(join(base, 'opt/old'), { recursive: true });
  mkdirSync(join(base, 'tmp'));
  chmodSync(join(base, 'tmp'), 0o1777);
  writeFileSync(join(base, 'etc/motd'), 'hello\n');
  writeFileSync(join(base, 'etc/gone'), 'gone\n');
  writeFileSync(join(base, 'opt/old/file'), 'old\n');
  writeFileSync(join(base, 'opt/clear\x1b[2J'), 'nasty\n');
  writeFileSync(Buffer.concat([Buffer.from(`${base}/opt/`), Buffer.from([0xff])]), 'bytes\n');
  symlinkSync('/etc/motd', join(base, 'opt/link'));
  const top = join(directory, 'top');
  mkdirSync(join(top, 'etc'), { recursive: true });
  mkdirSync(join(top, 'opt/old'), { recursive: true });
  writeFileSync(join(top, 'etc/added'), 'added\n');
  writeFileSync(join(top, 'etc/.wh.gone'), '');
  writeFileSync(join(top, 'opt/old/.wh..wh..opq'), '');

  const layers = [base, top].map((tree, i) => {
    const tar = join(directory, `${i}.tar`);
    execFileSync('tar', ['-C', tree, '--format=pax', '--numeric-owner', '--sort=name', '-cf', tar, '.']);
    return tar;
  });
  const diffIds = layers.map((tar) => `sha256:${createHash('sha256').update(readFileSync(tar)).digest('hex')}`);
  const config = JSON.stringify({
    architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
    os: 'linux',
    created: '2024-01-02T03:04:05Z',
    config: { Cmd: ['/bin/sh'], Env: ['PATH=/bin'] },
    rootfs: { type: 'layers', diff_ids: diffIds },
    history: [
      { created: '2024-01-02T03:04:05Z', created_by: 'base \x1b[2J\nsecond line' },
      { created: '2024-01-02T03:04:05Z', created_by: 'ENV x', empty_layer: true },
      { created: '2024-01-02T03:04:05Z', created_by: 'top' },
    ],
  });
  const hex = createHash('sha256').update(config).digest('hex');
  writeFileSync(join(directory, `${hex}.json`), config);
  const manifest = [{ Config: `${hex}.json`, RepoTags: ['sample:1'], Layers: ['0.tar', '1.tar'] }];
  writeFileSync(join(directory, 'manifest.json'), JSON.stringify(manifest));
  const archive = join(directory, 'sample.tar');
  execFileSync('tar', ['-C', directory, '-cf', archive, 'manifest.json', `${hex}.json`, '0.tar', '1.tar']);
  return { archive, configDigest: `sha256:${hex}`, diffIds };
}
