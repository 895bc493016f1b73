import { isMainThread, parentPort, Worker } from 'node:worker_threads';
import type { ByteString } from '../../src/base/bytes.ts';
import { type ErrorRecord, record, revive } from '../../src/base/errors.ts';
import type { Performer } from '../../src/driver/driver.ts';
import { copyTree } from '../../src/fs/copy.ts';
import { removeTree } from '../../src/fs/remove.ts';
import { AT_FDCWD, close, O_DIRECTORY, O_RDONLY, openat } from '../../src/linux/inode.ts';
import { CLONE_FS, unshare } from '../../src/linux/namespace.ts';
import { syncfs } from '../../src/linux/sync.ts';
import type { Mount } from '../../src/mount/mount.ts';
import { performMount, performUnmount } from '../../src/mount/perform.ts';

// A Performer of real kernel calls in one thread of its own: drivers can be tested without the store's job threads.

type Task =
  | { readonly do: 'mount'; readonly plan: Mount; readonly target: ByteString }
  | { readonly do: 'unmount'; readonly target: ByteString; readonly detach: boolean }
  | { readonly do: 'remove' | 'sync'; readonly path: ByteString }
  | { readonly do: 'copy'; readonly from: ByteString; readonly to: ByteString };

type Answer = { readonly value: unknown } | { readonly error: ErrorRecord };

function perform(task: Task): unknown {
  switch (task.do) {
    case 'mount':
      return performMount(task.plan, task.target);
    case 'unmount':
      return performUnmount(task.target, task);
    case 'remove': {
      // removeTree tells a mount by its directory's, so it must be given the real one.
      const slash = task.path.lastIndexOf('/');
      const fd = openat(AT_FDCWD, (task.path.slice(0, slash) || '/') as ByteString, O_RDONLY | O_DIRECTORY);
      try {
        return removeTree(fd, task.path.slice(slash + 1) as ByteString);
      } finally {
        close(fd);
      }
    }
    case 'copy':
      copyTree(task.from, task.to);
      return undefined;
    case 'sync': {
      const fd = openat(AT_FDCWD, task.path, O_RDONLY | O_DIRECTORY);
      try {
        return syncfs(fd, task.path);
      } finally {
        close(fd);
      }
    }
  }
}

if (!isMainThread && parentPort !== null) {
  const port = parentPort;
  unshare(CLONE_FS);
  port.on('message', (task: Task) => {
    let answer: Answer;
    try {
      answer = { value: perform(task) };
    } catch (error) {
      answer = { error: record(error) };
    }
    port.postMessage(answer);
  });
}

/** A Performer with what it was asked for, so that a test can tell what was done. */
export interface InlinePerformer extends Performer, AsyncDisposable {
  readonly done: readonly string[];
}

/** Starts the thread; it holds the process only while something is to be done, and ends with the block. */
export function inlinePerformer(): InlinePerformer {
  const worker = new Worker(new URL(import.meta.url));
  worker.unref();
  const waiting: { resolve: (value: unknown) => void; reject: (error: unknown) => void }[] = [];
  const done: string[] = [];
  worker.on('message', (answer: Answer) => {
    const first = waiting.shift();
    if (waiting.length === 0) worker.unref();
    if ('error' in answer) first?.reject(revive(answer.error));
    else first?.resolve(answer.value);
  });
  worker.on('error', (error) => {
    for (const one of waiting.splice(0)) one.reject(error);
  });
  const ask = (task: Task): Promise<unknown> => {
    done.push(task.do);
    worker.ref();
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    waiting.push({ resolve, reject });
    worker.postMessage(task);
    return promise;
  };
  return {
    done,
    mount: async (plan, target) => void (await ask({ do: 'mount', plan, target })),
    unmount: async (target, { detach }) => (await ask({ do: 'unmount', target, detach })) as boolean,
    removeTree: async (path) => void (await ask({ do: 'remove', path })),
    copyTree: async (from, to) => void (await ask({ do: 'copy', from, to })),
    sync: async (path) => void (await ask({ do: 'sync', path })),
    [Symbol.asyncDispose]: async () => void (await worker.terminate()),
  };
}
