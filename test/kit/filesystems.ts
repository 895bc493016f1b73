import { spawnSync } from 'node:child_process';
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { type Scratch, scratch } from './scratch.ts';

/** A kind of filesystem that a test can have. */
export type FilesystemName = 'ext4' | 'tmpfs' | 'xfs';

/** Those that suites run on. */
export const FILESYSTEMS: readonly FilesystemName[] = ['ext4', 'tmpfs'];

const MKFS: Readonly<Record<Exclude<FilesystemName, 'tmpfs'>, readonly string[]>> = {
  ext4: ['mkfs.ext4', '-q', '-F', '-E', 'lazy_itable_init=0,lazy_journal_init=0'],
  xfs: ['mkfs.xfs', '-q', '-m', 'reflink=1'],
};

/** What `need` is to be asked for before `filesystem`. */
export function needsOf(name: FilesystemName): readonly string[] {
  return name === 'tmpfs' ? ['root', 'mount'] : ['root', 'mount', `mkfs.${name}`];
}

/**
 * A fresh filesystem of this test's own (ext4: journaled; xfs: with reflinks; on a sparse loop image), unmounted and
 * gone at the end of the block. `features`: more arguments for mkfs.
 */
export async function filesystem(
  name: FilesystemName,
  sizeMiB = 512,
  features: readonly string[] = [],
): Promise<Scratch> {
  const dir = await scratch(name);
  const path = `${dir.path}/fs`;
  mkdirSync(path);
  try {
    if (name === 'tmpfs') run('mount', '-t', 'tmpfs', '-o', `size=${sizeMiB}m,mode=755`, 'layerstore-test', path);
    else {
      const image = `${dir.path}/image`;
      writeFileSync(image, '');
      truncateSync(image, sizeMiB * 1024 * 1024);
      const [mkfs = '', ...usual] = MKFS[name];
      run(mkfs, ...usual, ...features, image);
      run('mount', '-o', 'loop', image, path);
    }
  } catch (error) {
    await dir[Symbol.asyncDispose]();
    throw error;
  }
  return {
    path,
    [Symbol.asyncDispose]: async () => {
      // A failed test may leave mounts inside; lazily, so that the next test has a clean machine all the same.
      if (spawnSync('umount', [path]).status !== 0) run('umount', '-R', '-l', path);
      await dir[Symbol.asyncDispose]();
    },
  };
}

function run(command: string, ...args: readonly string[]): void {
  const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? stderr}`);
}
