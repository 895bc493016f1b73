import { type LoadedImage, type Store, toText } from '../../src/index.ts';
import { applyEdits, type Edit } from '../kit/edits.ts';
import { dumpTree } from '../kit/tree-dump.ts';

/** Changes of all kinds, on the strange image. */
const CHANGES: readonly Edit[] = [
  { do: 'delete', path: 'names' },
  { do: 'delete', path: 'app/lib' },
  { do: 'mkdir', path: 'app/lib' },
  { do: 'create', path: 'app/lib/only', seed: 60 },
  { do: 'append', path: 'etc/passwd', seed: 61 },
  { do: 'xattr', path: 'etc/passwd', name: 'user.a', value: '\0\xff' },
  { do: 'xattr', path: 'etc/gone', name: 'user.a', value: undefined },
  { do: 'replace', path: 'data/kept', by: 'symlink' },
  { do: 'fifo', path: 'new/fifo' },
  { do: 'device', path: 'new/device', block: true, minor: 4 },
  { do: 'link', path: 'new/a', to: 'new/c' },
  { do: 'chmod', path: 'bin/ping', mode: 0o4755 },
  { do: 'touch', path: 'new' },
];

export interface ChangedImage {
  /** `changed:2`. */
  readonly image: LoadedImage;
  /** What the layer showed when it was committed. */
  readonly tree: readonly string[];
}

/** Commits a changed layer of the strange image `reference`. */
export async function commitChanged(store: Store, reference: string): Promise<ChangedImage> {
  await using layer = await store.layers.create(reference, { name: 'work' });
  let tree: readonly string[];
  {
    await using view = await layer.mount();
    applyEdits(toText(view.path), CHANGES);
    tree = dumpTree(toText(view.path));
  }
  const image = await layer.commit('changed:2', { message: 'a change', changes: ['CMD ["true"]', 'ENV A=b=c'] });
  return { image, tree };
}
