import assert from 'node:assert/strict';
import { readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { layerstore } from '../doors/run-cli.ts';
import { deletersEnd } from '../kit/deleters.ts';
import { type FilesystemName, filesystem } from '../kit/filesystems.ts';
import { bulk, type ImageSpec, ociTar } from '../kit/images.ts';

// A store whose disk is easily filled, and its reserve.

export const RESERVE_BYTES: number = 512 << 10;

export const named = (name: string, ...layers: readonly Buffer[]): ImageSpec => ({
  layers,
  names: [`docker.io/library/${name}:1`],
});
export const APP: ImageSpec = named('app', bulk(1, 20, 2000), bulk(2, 5, 30_000));

export interface SmallStore extends AsyncDisposable {
  readonly path: string;
  readonly root: string;
  /** Its exit status and message; a signal is a failure. */
  run(...args: readonly string[]): { readonly status: number; readonly stderr: string };
  /** Runs what must work. */
  does(...args: readonly string[]): void;
  /** A file that `load -i` takes; it is on another disk. */
  archive(spec: ImageSpec): string;
}

/** A store on a filesystem of its own. `features`: more arguments for mkfs. */
export async function smallStore(
  kind: FilesystemName,
  sizeMiB: number,
  features: readonly string[] = [],
): Promise<SmallStore> {
  const archives = await filesystem('tmpfs', 16);
  const disk = await filesystem(kind, sizeMiB, features);
  const root = join(disk.path, 'store');
  const run: SmallStore['run'] = (...args) => {
    const { status, stderr } = layerstore(root, args);
    assert.notEqual(status, null, `${args.join(' ')}: it was killed by a signal, or took too long`);
    return { status: status!, stderr };
  };
  return {
    path: disk.path,
    root,
    run,
    does(...args) {
      const { status, stderr } = run(...args);
      assert.equal(status, 0, `${args.join(' ')}: ${stderr}`);
      assert.doesNotMatch(stderr, /warning/, args.join(' '));
    },
    archive(spec) {
      const path = join(archives.path, 'image.tar');
      writeFileSync(path, ociTar(spec));
      return path;
    },
    async [Symbol.asyncDispose]() {
      await disk[Symbol.asyncDispose]();
      await archives[Symbol.asyncDispose]();
    },
  };
}

export function reserves(root: string): string[] {
  return readdirSync(join(root, 'run')).map((boot) => join(root, 'run', boot, 'reserve'));
}

export function reserveBytes(root: string): number {
  return Math.max(...reserves(root).map((path) => statSync(path, { throwIfNoEntry: false })?.size ?? 0));
}

/**
 * Who deletes what was removed gives the reserve for opening, too, and takes it again at its end: what fills the disk
 * between the two would take it.
 */
export async function reserveReturns(root: string): Promise<void> {
  await deletersEnd(root);
  assert.ok(reserveBytes(root) >= RESERVE_BYTES, 'the reserve is there again');
}
