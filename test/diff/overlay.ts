import { mkdirSync } from 'node:fs';
import { fromText } from '../../src/base/bytes.ts';
import { mount, umount } from '../../src/linux/mount.ts';
import { type Scratch, scratch } from '../kit/scratch.ts';

/** A tmpfs of the test's own: overlays on it unmount without syncing a disk. */
export async function tmpfs(): Promise<Scratch> {
  const dir = await scratch('diff');
  const path = `${dir.path}/tmpfs`;
  mkdirSync(path);
  mount(fromText('tmpfs'), fromText(path), fromText('tmpfs'), 0, fromText('size=256m,mode=755'));
  return {
    path,
    async [Symbol.asyncDispose]() {
      umount(fromText(path));
      await dir[Symbol.asyncDispose]();
    },
  };
}

export interface Overlay extends Disposable {
  readonly merged: string;
  readonly upper: string;
}

/** Mounts `lowers` (top first) with a new upper, in the new directory `at`. */
export function overlay(at: string, lowers: readonly string[], options = 'index=off'): Overlay {
  const [upper, work, merged] = [`${at}/upper`, `${at}/work`, `${at}/merged`] as const;
  for (const dir of [at, upper, work, merged]) mkdirSync(dir, { mode: 0o755 });
  const data = `${options},lowerdir=${lowers.join(':')},upperdir=${upper},workdir=${work}`;
  mount(fromText('overlay'), fromText(merged), fromText('overlay'), 0, fromText(data));
  return { merged, upper, [Symbol.dispose]: () => void umount(fromText(merged)) };
}
