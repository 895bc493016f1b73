import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { Store } from '../../src/index.ts';
import { filesystem } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';
import { makeStrangeImage, type StrangeImage } from './strange-image.ts';
import { storeAt } from './tool.ts';

export interface Loaded {
  /** On a filesystem of its own. */
  readonly directory: string;
  readonly image: StrangeImage;
  readonly store: Store;
}

/** The strange image, loaded on overlay2, where `tools` are there. */
export async function withLoaded(
  t: TestContext,
  tools: readonly string[],
  run: (loaded: Loaded) => Promise<void>,
): Promise<void> {
  if (!need(t, 'root', 'mount', 'mkfs.ext4', 'tar', ...tools)) return;
  await using fs = await filesystem('ext4');
  const image = await makeStrangeImage(fs.path);
  await using store = await storeAt(join(fs.path, 'store'), 'overlay2');
  await store.images.load(image.layout);
  await run({ directory: fs.path, image, store });
}
